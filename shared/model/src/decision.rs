//! What a handler decides about a delivery. Only the worker loop carries it out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{named::named, waiting::Waiting};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Done,
    /// The attempt failed. Retry after this time; it counts as an attempt.
    RetryAfter(Duration),
    /// The attempt failed, and no retry can help, or none is left. Move it to the dead queue; it
    /// counts as an attempt.
    DeadLetter(DeadReason),
    /// The message is refused before an attempt. Move it to the dead queue; this does not count as an
    /// attempt.
    Reject(DeadReason),
    /// Deliver again after this time, which does not count as an attempt. No attempt was made, or
    /// the endpoint returned 410.
    Snooze(Duration),
    /// The same for a message that waits in the store until then.
    Wait(Waiting),
}

/// Why a message is a dead letter. Filters use the kind; people read the detail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadReason {
    /// One of a small, fixed set.
    pub kind: DeadKind,
    pub detail: String,
}

impl DeadReason {
    pub fn new(kind: DeadKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
        }
    }
}

named! {
    pub enum DeadKind {
        AttemptsExhausted = "attempts_exhausted",
        TooOld = "too_old",
        /// Its producer's `expires_at` passed before the channel accepted it.
        Expired = "expired",
        /// The other side refused it permanently: it answered 400, 413, 415 or 422.
        Refused = "refused",
        UnknownChannel = "unknown_channel",
        BadEndpoint = "bad_endpoint",
        EndpointRefused = "endpoint_refused",
        Undecodable = "undecodable",
        /// The broker's delivery limit was reached: it was delivered too often without being settled.
        DeliveryLimit = "delivery_limit",
    }
}
