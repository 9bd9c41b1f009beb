//! `x-request-id`: names a request in its response, in its log lines and in its problem document.
//!
//! Invariant: every response of the router has one id, which is safe to log: visible ASCII of a
//! bounded length, without a secret.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue},
    middleware::Next,
    response::Response,
};
use roundtrip_model::redacted;
use tracing::Instrument;
use uuid::Uuid;

pub(crate) const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// A longer id is replaced.
pub(crate) const MAX_BYTES: usize = 128;

tokio::task_local! {
    static CURRENT: HeaderValue;
}

/// Middleware: takes over the id of the request, or makes one.
pub(crate) async fn name(request: Request, next: Next) -> Response {
    let id = sent(request.headers()).unwrap_or_else(made);
    let span = tracing::info_span!("request", request_id = %text(&id));
    let response = CURRENT.scope(id.clone(), next.run(request));
    let mut response = response.instrument(span).await;
    response.headers_mut().insert(HEADER, id);
    response
}

/// The id of the request that this task handles.
pub(crate) fn current() -> Option<String> {
    CURRENT.try_with(|id| text(id).to_owned()).ok()
}

/// The valid id that the client sent, if it sent one.
fn sent(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut ids = headers.get_all(&HEADER).iter();
    let (Some(id), None) = (ids.next(), ids.next()) else {
        return None;
    };
    // A key in the wrong header must not reach the log.
    let is_valid = (1..=MAX_BYTES).contains(&id.len())
        && id.as_bytes().iter().all(u8::is_ascii_graphic)
        && redacted(text(id)) == text(id);
    is_valid.then(|| id.clone())
}

fn made() -> HeaderValue {
    HeaderValue::try_from(Uuid::now_v7().to_string()).expect("a UUID is visible ASCII")
}

/// An id is visible ASCII, so the default is never used.
fn text(id: &HeaderValue) -> &str {
    id.to_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use axum::http::Method;
    use rstest::rstest;

    use super::*;
    use crate::tests::Bench;

    #[rstest]
    #[case::unknown_path(Method::GET, "/none")]
    #[case::ok(Method::GET, "/channel/c")]
    #[case::refused(Method::POST, "/channel/message")]
    #[case::beside_the_api(Method::GET, "/dev/beside")]
    #[case::over_a_limit(Method::GET, "/messages?cursor=over-a-limit")]
    #[tokio::test]
    async fn every_answer_has_the_id_that_the_request_sent(
        #[case] method: Method,
        #[case] path: &str,
    ) {
        let bench = Bench::new().await;
        let path = path.replace("over-a-limit", &"x".repeat(9_000));
        let id = "0af7651916cd43dd:8448~!{}";
        let answer = bench
            .request(method, &path, &[("x-request-id", id)], "{")
            .await;
        assert_eq!(answer.headers["x-request-id"], id);
        if answer.status >= 400 {
            assert_eq!(answer.json()["request_id"], id);
        }
    }

    #[rstest]
    #[case::none(&[])]
    #[case::empty(&[""])]
    #[case::two(&["a", "a"])]
    #[case::space(&["a b"])]
    #[case::no_ascii(&["é"])]
    #[case::a_secret(&["rt_key_0123_SECRET"])]
    #[case::too_long(&[&*"x".repeat(MAX_BYTES + 1).leak()])]
    #[tokio::test]
    async fn a_request_without_one_valid_id_gets_a_new_one(#[case] ids: &[&str]) {
        let bench = Bench::new().await;
        let headers: Vec<_> = ids.iter().map(|id| ("x-request-id", *id)).collect();
        let answer = bench.request(Method::GET, "/none", &headers, "").await;
        let id = answer.headers["x-request-id"].to_str().unwrap();
        assert_eq!(Uuid::parse_str(id).unwrap().get_version_num(), 7);
        assert_eq!(answer.json()["request_id"], id);
    }

    #[tokio::test]
    async fn the_longest_id_is_taken_over() {
        let bench = Bench::new().await;
        let id = "x".repeat(MAX_BYTES);
        let headers = [("x-request-id", &*id)];
        let answer = bench.request(Method::GET, "/none", &headers, "").await;
        assert_eq!(answer.headers["x-request-id"], id);
    }
}
