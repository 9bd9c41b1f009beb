//! What came of one POST, and how it is judged.
//!
//! The rules of the design: 2xx is delivered; 408, 425, 429, 5xx, redirects (never followed),
//! time-outs and connection errors are tried again; every other status is final.

use std::time::Duration;

/// What came of one POST to somebody else's server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The other side answered.
    Answered {
        /// The HTTP status code.
        status: u16,
        /// `Retry-After`, as a time from now.
        retry_after: Option<Duration>,
        /// The beginning of the answer's body.
        excerpt: String,
    },
    /// No answer came, and this is why, in one line.
    Failed(Failure),
}

/// Why no answer came.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The time limit passed first.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// The connection could not be made.
    #[error("could not connect: {0}")]
    Connect(String),
    /// The connection broke before an answer was whole.
    #[error("the connection failed: {0}")]
    Connection(String),
    /// No connection was attempted: the endpoint is one that may not be posted to, and this is
    /// the rule that it breaks.
    #[error("the endpoint {0}")]
    NotAllowed(String),
    /// The handler panicked.
    #[error("the delivery's handler panicked")]
    Panicked,
}

/// How an outcome is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It arrived.
    Delivered,
    /// It may arrive later; not before this time has passed, if the other side named one.
    Failed {
        /// `Retry-After`, as a time from now.
        retry_after: Option<Duration>,
    },
    /// The other side will never take it, or will never be asked.
    Refused,
}

impl Outcome {
    /// How this outcome is judged.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match *self {
            Self::Answered {
                status: 200..=299, ..
            } => Verdict::Delivered,
            Self::Answered {
                status: 300..=399 | 408 | 425 | 429 | 500..=599,
                retry_after,
                ..
            } => Verdict::Failed { retry_after },
            Self::Answered { .. } | Self::Failed(Failure::NotAllowed(_)) => Verdict::Refused,
            Self::Failed(_) => Verdict::Failed { retry_after: None },
        }
    }

    /// The outcome in one line, for a log: nothing that the other side wrote, which may be the
    /// message itself.
    #[must_use]
    pub fn headline(&self) -> String {
        match self {
            Self::Answered { status, .. } => format!("answered {status}"),
            Self::Failed(failure) => failure.to_string(),
        }
    }

    /// The outcome in one line with the beginning of the answer, for a dead letter's reason.
    #[must_use]
    pub fn summary(&self) -> String {
        match self {
            Self::Answered { excerpt, .. } if excerpt.is_empty() => self.headline(),
            Self::Answered {
                status, excerpt, ..
            } => format!("answered {status}: {excerpt}"),
            Self::Failed(failure) => failure.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(200, Verdict::Delivered)]
    #[case(204, Verdict::Delivered)]
    #[case(301, Verdict::Failed { retry_after: None })]
    #[case(400, Verdict::Refused)]
    #[case(401, Verdict::Refused)]
    #[case(404, Verdict::Refused)]
    #[case(408, Verdict::Failed { retry_after: None })]
    #[case(410, Verdict::Refused)]
    #[case(425, Verdict::Failed { retry_after: None })]
    #[case(429, Verdict::Failed { retry_after: None })]
    #[case(500, Verdict::Failed { retry_after: None })]
    #[case(599, Verdict::Failed { retry_after: None })]
    fn a_status_is_judged_by_the_table(#[case] status: u16, #[case] verdict: Verdict) {
        let outcome = Outcome::Answered {
            status,
            retry_after: None,
            excerpt: String::new(),
        };
        assert_eq!(outcome.verdict(), verdict);
    }

    #[test]
    fn an_endpoint_that_may_not_be_posted_to_is_final() {
        let outcome = Outcome::Failed(Failure::NotAllowed("must not be this one".to_owned()));
        assert_eq!(outcome.verdict(), Verdict::Refused);
        assert_eq!(outcome.summary(), "the endpoint must not be this one");
    }

    #[test]
    fn no_answer_is_tried_again() {
        let outcome = Outcome::Failed(Failure::TimedOut(Duration::from_secs(30)));
        assert_eq!(outcome.verdict(), Verdict::Failed { retry_after: None });
        assert_eq!(outcome.summary(), "no answer within 30s");
    }
}
