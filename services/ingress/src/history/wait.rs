//! Why a message or an answer waits, as the API shows it.

use roundtrip_model::waiting::WaitReason;
use serde::Serialize;
use time::OffsetDateTime;

/// Why a message is not delivered now, or an answer not forwarded.
#[derive(Debug, Serialize)]
pub(super) struct Waiting {
    reason: WaitReason,
    detail: &'static str,
    /// The time of the next attempt, if the wait ends at one.
    #[serde(
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    until: Option<OffsetDateTime>,
}

impl Waiting {
    pub(super) fn new(reason: WaitReason, until: Option<OffsetDateTime>) -> Self {
        Self {
            reason,
            detail: reason.detail(),
            until,
        }
    }
}
