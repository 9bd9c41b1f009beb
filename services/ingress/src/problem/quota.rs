//! 429: the `RateLimit` and `RateLimit-Policy` fields (draft-ietf-httpapi-ratelimit-headers).
//!
//! Invariant: every 429 comes from [`Problem::over_quota`](super::Problem::over_quota), so it names its quota and the wait.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Quota {
    /// In the fields: a string of structured fields, without quotation marks.
    name: &'static str,
    amount: u32,
    /// The parameter of the policy: its window, or its unit.
    unit: &'static str,
}

impl Quota {
    pub(crate) const fn per_second(name: &'static str, amount: u32) -> Self {
        Self {
            name,
            amount,
            unit: "w=1",
        }
    }

    pub(crate) const fn concurrent(name: &'static str, amount: u32) -> Self {
        Self {
            name,
            amount,
            unit: "qu=\"concurrent-requests\"",
        }
    }

    /// Adds the fields of a refused request: nothing of the quota remains.
    pub(super) fn write(self, wait: Duration, headers: &mut HeaderMap) {
        let Self { name, amount, unit } = self;
        let seconds = wait.as_secs();
        for (field, value) in [
            ("ratelimit-policy", format!("\"{name}\";q={amount};{unit}")),
            ("ratelimit", format!("\"{name}\";r=0;t={seconds}")),
        ] {
            let value = HeaderValue::try_from(value).expect("a quota's name is visible ASCII");
            headers.insert(field, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{
        http::{StatusCode, header},
        response::IntoResponse,
    };
    use roundtrip_store::ReplayError;

    use super::*;
    use crate::{limits::queries::too_many_queries, problem::Problem};

    #[test]
    fn every_429_has_the_rate_limit_fields_beside_retry_after() {
        let second = Duration::from_millis(300);
        let fields = |problem: Problem| {
            let response = problem.into_response();
            assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
            let field = |name| response.headers()[name].to_str().unwrap().to_owned();
            [
                field("ratelimit-policy"),
                field("ratelimit"),
                field(header::RETRY_AFTER.as_str()),
            ]
        };
        assert_eq!(
            fields(Problem::rate_limited(20, second)),
            [
                r#""requests-per-key";q=20;w=1"#,
                r#""requests-per-key";r=0;t=1"#,
                "1"
            ]
        );
        assert_eq!(
            fields(Problem::answer_rate_limited(1_000, second)),
            [
                r#""answers-per-channel";q=1000;w=1"#,
                r#""answers-per-channel";r=0;t=1"#,
                "1"
            ]
        );
        assert_eq!(
            fields(Problem::answers_queue(Duration::from_secs(2))),
            [
                r#""answers-per-delivery";q=1;qu="concurrent-requests""#,
                r#""answers-per-delivery";r=0;t=2"#,
                "2"
            ]
        );
        assert_eq!(
            fields(too_many_queries()),
            [
                r#""queries-per-key";q=4;qu="concurrent-requests""#,
                r#""queries-per-key";r=0;t=2"#,
                "2"
            ]
        );
        assert_eq!(
            fields(ReplayError::TooMany.into()),
            [
                r#""replays-per-key";q=10;qu="concurrent-requests""#,
                r#""replays-per-key";r=0;t=2"#,
                "2"
            ]
        );
    }
}
