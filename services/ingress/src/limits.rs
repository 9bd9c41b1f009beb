//! What a request may be before anything looks into it, and how much all of them may be together.
//!
//! Invariant: what is beyond a bound is refused at once. Nothing waits for room: a queue of
//! requests would be memory without bound.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    extract::{Request, State},
    http::{Version, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::sync::Semaphore;

use crate::{Ingress, access::authority, problem::Problem};

/// The longest path. The longest that means something has an id of 128 bytes in it.
const MAX_PATH_BYTES: usize = 1024;

/// The longest query string: a list of some two hundred ids.
const MAX_QUERY_BYTES: usize = 8 << 10;

/// The most headers of one request.
const MAX_HEADERS: usize = 64;

/// What each header is counted as beside its name and value, as HTTP/2 does.
const HEADER_OVERHEAD: usize = 32;

/// Refuses what is beyond its bounds, and a request beyond the number that may be under way.
pub(crate) async fn enforce(
    State(ingress): State<Ingress>,
    mut request: Request,
    next: Next,
) -> Response {
    let Ok(_permit) = ingress.under_way.try_acquire() else {
        return Problem::overloaded().into_response();
    };
    if let Err(problem) = check(&request, ingress.limits.max_header_bytes) {
        return problem.into_response();
    }
    // Held here until the answer is made: as long as the body, or what was made of it.
    let bytes = Held::of(&ingress.bytes);
    request.extensions_mut().insert(bytes.clone());
    next.run(request).await
}

fn check(request: &Request, max_header_bytes: usize) -> Result<(), Problem> {
    // RFC 9112, 3.2: whom a request is for is said once, or two readers of it differ.
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let is_named = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.is_empty() || authority(host).is_some(),
        (None, _) => request.version() != Version::HTTP_11,
        (Some(_), Some(_)) => false,
    };
    if !is_named {
        return Err(Problem::bad_request(
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
        return Err(Problem::headers_too_large(format!(
            "a request may have at most {MAX_HEADERS} headers"
        )));
    }
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + HEADER_OVERHEAD)
        .sum();
    if bytes > max_header_bytes {
        return Err(Problem::headers_too_large(format!(
            "the headers of a request may have at most {max_header_bytes} bytes, each counted as \
             {HEADER_OVERHEAD} more than its name and value"
        )));
    }
    Ok(())
}

/// The bytes of one request's body, as they count among those of all requests under way.
#[derive(Clone)]
pub(crate) struct Held(Arc<Share>);

struct Share {
    all: Arc<Semaphore>,
    taken: AtomicUsize,
}

impl Held {
    /// Nothing yet.
    pub(crate) fn of(all: &Arc<Semaphore>) -> Self {
        Self(Arc::new(Share {
            all: Arc::clone(all),
            taken: AtomicUsize::new(0),
        }))
    }

    /// Takes so many more.
    ///
    /// # Errors
    /// If all requests together would have too many.
    pub(crate) fn take(&self, bytes: usize) -> Result<(), Problem> {
        let count = u32::try_from(bytes).map_err(|_beyond_all| Problem::overloaded())?;
        let permits = self
            .0
            .all
            .try_acquire_many(count)
            .map_err(|_none_left| Problem::overloaded())?;
        permits.forget();
        self.0.taken.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.all.add_permits(*self.taken.get_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_has_taken_is_free_once_it_has_ended() {
        let all = Arc::new(Semaphore::new(10));
        let one = Held::of(&all);
        let other = Held::of(&all);
        assert!(one.take(4).is_ok());
        assert!(one.take(2).is_ok());
        assert!(other.take(5).is_err());
        assert!(other.take(4).is_ok());
        drop(one.clone());
        assert_eq!(all.available_permits(), 0);
        drop(one);
        assert_eq!(all.available_permits(), 6);
        assert!(other.take(6).is_ok());
    }
}
