//! What is told to who rotates a channel's secret when it cannot be.
//!
//! Invariant: it says when it can be, and never a secret.

use axum::http::StatusCode;
use roundtrip_model::signing::MAX_SECRETS;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::Problem;

impl Problem {
    /// One more would cut off an older one, of which the first ends then.
    pub(crate) fn too_many_secrets(first_ends: OffsetDateTime) -> Self {
        let first_ends = first_ends.format(&Rfc3339).unwrap_or_default();
        Self::new(
            StatusCode::CONFLICT,
            "too-many-secrets",
            "As many secrets sign as may",
            format!(
                "{MAX_SECRETS} secrets sign this channel's deliveries, and the first of them ends at {first_ends}: rotate \
                 again then, or now with \"overlap\": \"0s\", which ends them all"
            ),
        )
    }

    /// Others rotated it again and again meanwhile.
    pub(crate) fn secrets_changing() -> Self {
        Self::unavailable(
            "secrets-changing",
            "The channel's secrets are being changed",
            "others rotate them at this moment; try again",
        )
    }
}
