//! Errors of a secret's rotation.
//!
//! Invariant: they say when a rotation is possible, and show no secret.

use axum::http::StatusCode;
use roundtrip_model::signing::MAX_SECRETS;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::Problem;

impl Problem {
    /// One more secret would end an older one early. The first of them ends at this time.
    pub(crate) fn too_many_secrets(first_ends: OffsetDateTime) -> Self {
        let first_ends = first_ends.format(&Rfc3339).unwrap_or_default();
        Self::new(
            StatusCode::CONFLICT,
            "too-many-secrets",
            "The maximum number of secrets is active",
            format!(
                "{MAX_SECRETS} secrets sign this channel's deliveries, and the first of them ends at {first_ends}: rotate \
                 again then, or now with \"overlap\": \"0s\", which ends them all"
            ),
        )
    }

    /// Concurrent rotations prevented this one.
    pub(crate) fn secrets_changing() -> Self {
        Self::unavailable(
            "secrets-changing",
            "The channel's secrets are being changed",
            "another request is rotating them; try again",
        )
    }
}
