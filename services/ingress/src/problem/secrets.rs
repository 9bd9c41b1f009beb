//! Errors of a secret's rotation.
//!
//! Invariant: they say when a rotation is possible, and show no secret.

use roundtrip_model::signing::MAX_SECRETS;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Kind, Problem};

impl Problem {
    /// One more secret would end an older one early. The first of them ends at this time.
    pub(crate) fn too_many_secrets(first_ends: OffsetDateTime) -> Self {
        let first_ends = first_ends.format(&Rfc3339).unwrap_or_default();
        Self::new(
            Kind::TooManySecrets,
            format!(
                "{MAX_SECRETS} secrets sign this channel's deliveries, and the first of them ends at {first_ends}: rotate \
                 again then, or now with \"overlap\": \"0s\", which ends them all"
            ),
        )
    }
}
