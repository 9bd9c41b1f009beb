//! What a handler decides about a delivery. The worker loop alone carries it out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What becomes of a delivery after it was handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It arrived. Forget it.
    Done,
    /// The try failed. Try again after this long; it cost an attempt.
    RetryAfter(Duration),
    /// No further try can help, or none is left. Keep it where an operator finds it.
    DeadLetter(DeadReason),
    /// No try was made. Come back after this long; it cost nothing.
    Park(Duration),
}

/// Why something lies in a dead queue. The kind is for filters, the detail for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadReason {
    /// One of a small, fixed set.
    pub kind: DeadKind,
    /// What happened at the last try, in one line.
    pub detail: String,
}

impl DeadReason {
    /// A reason of this kind.
    pub fn new(kind: DeadKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
        }
    }
}

/// The kinds of reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadKind {
    /// Every try that the policy allows has failed.
    AttemptsExhausted,
    /// It grew older than the policy's maximum age.
    TooOld,
    /// The other side refused it for good: it answered 400, 413, 415 or 422.
    Refused,
    /// Its channel does not exist.
    UnknownChannel,
    /// Its channel has no endpoint that can be posted to.
    BadEndpoint,
    /// Its channel's endpoint is one that may not be connected to.
    EndpointRefused,
    /// Nobody can read it.
    Undecodable,
    /// The broker itself gave it up, having handed it out too often without an answer.
    DeliveryLimit,
}

impl DeadKind {
    /// The kind's name, as it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::TooOld => "too_old",
            Self::Refused => "refused",
            Self::UnknownChannel => "unknown_channel",
            Self::BadEndpoint => "bad_endpoint",
            Self::EndpointRefused => "endpoint_refused",
            Self::Undecodable => "undecodable",
            Self::DeliveryLimit => "delivery_limit",
        }
    }
}
