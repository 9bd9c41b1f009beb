//! What a handler decides about a delivery. Only the worker loop carries it out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What happens to a delivery after it was handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Delivered: ack it.
    Done,
    /// The attempt failed. Retry after this time; it counts as an attempt.
    RetryAfter(Duration),
    /// No retry can help, or none is left. Move it to the dead queue.
    DeadLetter(DeadReason),
    /// No attempt was made. Snooze for this long; a snooze does not count as an attempt.
    Snooze(Duration),
}

/// Why a message is a dead letter. Filters use the kind; people read the detail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadReason {
    /// One of a small, fixed set.
    pub kind: DeadKind,
    /// What happened at the last attempt, in one line.
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
    /// Every attempt that the policy allows has failed.
    AttemptsExhausted,
    /// It grew older than the policy's maximum age.
    TooOld,
    /// The other side refused it permanently: it answered 400, 413, 415 or 422.
    Refused,
    /// Its channel does not exist.
    UnknownChannel,
    /// Its channel has no valid endpoint URL.
    BadEndpoint,
    /// The egress policy forbids its channel's endpoint.
    EndpointRefused,
    /// It cannot be decoded.
    Undecodable,
    /// The broker's delivery limit was reached: it was delivered too often without being settled.
    DeliveryLimit,
}

impl DeadKind {
    /// The name in storage and in the API.
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
