//! Limits of a single request and of all requests together, checked before the handlers.

use axum::{
    extract::{Request, State},
    http::{Version, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::BodyBudget;
use crate::{
    auth::loopback_only::authority,
    ingress::Ingress,
    problem::{Kind, Problem},
};

/// The longest valid path holds a session's id: 512 characters of 4 bytes, percent-encoded.
const MAX_PATH_BYTES: usize = 8 << 10;

/// Enough for about two hundred ids.
const MAX_QUERY_BYTES: usize = 8 << 10;

const MAX_HEADERS: usize = 64;

/// Counted for each header beside its name and value, as in HTTP/2.
const HEADER_OVERHEAD: usize = 32;

/// Refuses a request beyond its limits, or beyond the number in progress.
pub(crate) async fn enforce(
    State(ingress): State<Ingress>,
    mut request: Request,
    next: Next,
) -> Response {
    let Ok(_permit) = ingress.under_way.try_acquire() else {
        return Problem::from(Kind::Overloaded).into_response();
    };
    if let Err(problem) = check(&request, ingress.limits.max_header_bytes) {
        return problem.into_response();
    }
    // Held until the response is made, as long as the body or what was parsed from it.
    let bytes = BodyBudget::of(&ingress.bytes);
    request.extensions_mut().insert(bytes.clone());
    next.run(request).await
}

fn check(request: &Request, max_header_bytes: usize) -> Result<(), Problem> {
    // RFC 9112, 3.2: exactly one `Host`, as two readers could pick different ones.
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let is_named = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.is_empty() || authority(host).is_some(),
        (None, _) => request.version() != Version::HTTP_11,
        (Some(_), Some(_)) => false,
    };
    if !is_named {
        return Err(Problem::new(
            Kind::BadRequest,
            "a request must have one header 'Host', which names a host",
        ));
    }
    let uri = request.uri();
    if uri.path().len() > MAX_PATH_BYTES {
        return Err(Problem::uri_too_long("path", MAX_PATH_BYTES));
    }
    if uri
        .query()
        .is_some_and(|query| query.len() > MAX_QUERY_BYTES)
    {
        return Err(Problem::uri_too_long("query string", MAX_QUERY_BYTES));
    }
    let headers = request.headers();
    if headers.len() > MAX_HEADERS {
        return Err(Problem::new(
            Kind::HeadersTooLarge,
            format!("a request may have at most {MAX_HEADERS} headers"),
        ));
    }
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + HEADER_OVERHEAD)
        .sum();
    if bytes > max_header_bytes {
        return Err(Problem::new(
            Kind::HeadersTooLarge,
            format!(
                "the headers of a request may have at most {max_header_bytes} bytes, each counted as \
             {HEADER_OVERHEAD} more than its name and value"
            ),
        ));
    }
    Ok(())
}
