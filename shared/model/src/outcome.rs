//! The outcome of one POST, and its verdict.
//!
//! 2xx is delivered. 400, 413, 415 and 422 reject the message itself and are final. Every other
//! response, a time-out and a connection error are retried: proxies answer 401 and 404 while a
//! server is being replaced. After a 410 the dispatcher pauses the channel. Redirects are never
//! followed.

use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Responded {
        status: u16,
        /// `Retry-After`, as a duration from now.
        retry_after: Option<Duration>,
        /// The target of a redirect: scheme, host and path.
        location: Option<String>,
        excerpt: String,
    },
    Failed(Failure),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("no answer within {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    #[error("could not connect: {0}")]
    Connect(String),
    /// The connection broke before the response was complete.
    #[error("the connection failed: {0}")]
    Connection(String),
    /// The egress policy forbids the endpoint, so no connection was attempted. Holds the broken
    /// rule.
    #[error("the endpoint {0}")]
    NotAllowed(String),
    #[error("the delivery's handler panicked")]
    Panicked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Delivered,
    /// A retry may succeed. If the other side named a time, it must not be earlier.
    Failed {
        /// `Retry-After`, as a duration from now.
        retry_after: Option<Duration>,
    },
    /// No retry can succeed: the other side refused the message, or must not be contacted.
    Refused,
}

impl Outcome {
    pub fn verdict(&self) -> Verdict {
        match *self {
            Self::Responded {
                status: 200..=299, ..
            } => Verdict::Delivered,
            Self::Responded {
                status: 400 | 413 | 415 | 422,
                ..
            }
            | Self::Failed(Failure::NotAllowed(_)) => Verdict::Refused,
            Self::Responded { retry_after, .. } => Verdict::Failed { retry_after },
            Self::Failed(_) => Verdict::Failed { retry_after: None },
        }
    }

    /// The outcome in one line, for a log. Contains nothing that the other side wrote, which may
    /// include the message.
    pub fn headline(&self) -> String {
        match self {
            Self::Responded { status, .. } => format!("answered {status}"),
            Self::Failed(failure) => failure.to_string(),
        }
    }

    pub fn summary(&self) -> String {
        let mut summary = self.headline();
        if let Self::Responded {
            location, excerpt, ..
        } = self
        {
            if let Some(location) = location {
                summary = format!("{summary} with a redirect to {location}");
            }
            if !excerpt.is_empty() {
                summary = format!("{summary}: {excerpt}");
            }
        }
        summary
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const RETRIED: Verdict = Verdict::Failed { retry_after: None };

    #[rstest]
    #[case(101, RETRIED)]
    #[case(200, Verdict::Delivered)]
    #[case(204, Verdict::Delivered)]
    #[case(301, RETRIED)]
    #[case(400, Verdict::Refused)]
    #[case(401, RETRIED)]
    #[case(403, RETRIED)]
    #[case(404, RETRIED)]
    #[case(408, RETRIED)]
    #[case(410, RETRIED)]
    #[case(413, Verdict::Refused)]
    #[case(415, Verdict::Refused)]
    #[case(422, Verdict::Refused)]
    #[case(425, RETRIED)]
    #[case(429, RETRIED)]
    #[case(500, RETRIED)]
    #[case(599, RETRIED)]
    #[case(999, RETRIED)]
    fn a_status_is_judged_by_the_table(#[case] status: u16, #[case] verdict: Verdict) {
        let outcome = Outcome::Responded {
            status,
            retry_after: None,
            location: None,
            excerpt: String::new(),
        };
        assert_eq!(outcome.verdict(), verdict);
    }

    #[test]
    fn the_summary_of_a_redirect_names_its_target() {
        let outcome = Outcome::Responded {
            status: 308,
            retry_after: None,
            location: Some("https://h.example/in".to_owned()),
            excerpt: "moved".to_owned(),
        };
        let summary = "answered 308 with a redirect to https://h.example/in: moved";
        assert_eq!(outcome.summary(), summary);
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
