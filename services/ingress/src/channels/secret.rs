//! The secrets that sign a channel's deliveries. One is made with the channel and shown once; `POST
//! /channel/{channel_id}/secret/rotate` replaces it.
//!
//! Invariant: a secret leaves the process only in the response that shows it, and sealed to the
//! store.

use std::time::Duration;

use axum::{Json as JsonBody, extract::State};
use roundtrip_model::{ChannelId, SigningSecret, millis, signing::MAX_SECRETS};
use roundtrip_store::{SealedSecret, SecretsError};
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    config::MAX_SECRET_OVERLAP,
    ingress::Ingress,
    json::body::Json,
    parameters::ChannelPath,
    problem::{Kind, Problem},
};

/// How many concurrent rotations are tolerated before this one fails.
const MAX_RACES: u32 = 16;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rotate {
    #[serde(default, deserialize_with = "crate::json::times::duration")]
    overlap: Option<Duration>,
}

/// The response of a rotation. It is the only one that shows this secret.
#[derive(Serialize)]
pub(crate) struct Rotated {
    channel_id: ChannelId,
    signing_secret: String,
    /// Until when older secrets also sign; `None` if there are none.
    #[serde(with = "time::serde::rfc3339::option")]
    old_secrets_sign_until: Option<OffsetDateTime>,
}

pub(crate) async fn rotate(
    State(ingress): State<Ingress>,
    ChannelPath(id): ChannelPath,
    body: Option<Json<Rotate>>,
) -> Result<JsonBody<Rotated>, Problem> {
    let Rotate { overlap } = body.map(|Json(body)| body).unwrap_or_default();
    let overlap = overlap.unwrap_or(ingress.limits.secret_overlap);
    if overlap > MAX_SECRET_OVERLAP {
        let most = humantime::format_duration(MAX_SECRET_OVERLAP);
        return Err(Problem::invalid_field(
            "overlap",
            format!("must be at most {most}"),
        ));
    }
    // Secrets are not part of the channel: without this check a rotation would make one for a
    // missing channel.
    ingress.store.get(&id).await?;
    let (secret, old_secrets_sign_until) = ingress.new_secret(&id, overlap).await?;
    ingress.channel_cache.forget(&id).await;
    tracing::info!(channel_id = %id, ?overlap, "channel.secret_rotated");
    Ok(JsonBody(Rotated {
        channel_id: id,
        signing_secret: secret.reveal(),
        old_secrets_sign_until,
    }))
}

impl Ingress {
    /// Makes a new secret for a channel and lets the older ones sign for the overlap. Returns the
    /// secret, and until when an older one signs.
    pub(super) async fn new_secret(
        &self,
        id: &ChannelId,
        overlap: Duration,
    ) -> Result<(SigningSecret, Option<OffsetDateTime>), Problem> {
        let secret = SigningSecret::new(rand::random());
        let sealed = self
            .sealing
            .seal(secret.bytes(), id.as_str(), rand::random())
            .map_err(|error| {
                tracing::error!(%error, channel_id = %id, "a secret could not be encrypted");
                Problem::from(Kind::Internal)
            })?;
        for _ in 0..MAX_RACES {
            let seen = self.store.secrets(id).await?;
            let new =
                rotated(sealed.clone(), &seen, self.clock.now(), overlap).map_err(too_many)?;
            match self.store.replace_secrets(id, &seen, &new).await {
                Ok(()) => {
                    let until = new.iter().filter_map(SealedSecret::until).max();
                    return Ok((secret, until));
                }
                Err(SecretsError::Changed(_)) => {}
                Err(SecretsError::Unavailable(error)) => return Err(error.into()),
            }
        }
        Err(Problem::from(Kind::SecretsChanging))
    }
}

/// The secrets after a rotation, the newest first. Older ones that still sign are kept, none for
/// longer than before.
///
/// # Errors
/// If more than [`MAX_SECRETS`] would sign: returns the time at which the earliest one ends. An old
/// secret keeps its announced end, because receivers rely on it. A rotation without overlap ends all
/// old secrets.
fn rotated(
    sealed: String,
    older: &[SealedSecret],
    now: OffsetDateTime,
    overlap: Duration,
) -> Result<Vec<SealedSecret>, OffsetDateTime> {
    let now = millis::of(now);
    let overlap = i64::try_from(overlap.as_millis()).unwrap_or(i64::MAX);
    let end = now.saturating_add(overlap);
    let newest = SealedSecret {
        sealed,
        until_ms: None,
    };
    let older = older.iter().map(|older| SealedSecret {
        sealed: older.sealed.clone(),
        until_ms: Some(older.until_ms.map_or(end, |until| until.min(end))),
    });
    let still = older.filter(|older| older.until_ms > Some(now));
    let new: Vec<_> = std::iter::once(newest).chain(still).collect();
    match new.iter().filter_map(SealedSecret::until).min() {
        Some(first_ends) if new.len() > MAX_SECRETS => Err(first_ends),
        _ => Ok(new),
    }
}

/// One more secret would end an older one early. The first of them ends at this time.
fn too_many(first_ends: OffsetDateTime) -> Problem {
    let first_ends = first_ends.format(&Rfc3339).unwrap_or_default();
    Problem::new(
        Kind::TooManySecrets,
        format!(
            "{MAX_SECRETS} secrets sign this channel's deliveries, and the first of them ends at {first_ends}: rotate \
             again then, or now with \"overlap\": \"0s\", which ends them all"
        ),
    )
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);
    const HOUR: Duration = Duration::from_hours(1);

    /// The secrets after these rotations. Each has its time since the start, and its overlap.
    fn after(rotations: &[(Duration, Duration)]) -> Vec<(String, Option<i64>)> {
        let mut secrets = Vec::new();
        for (number, (since, overlap)) in rotations.iter().enumerate() {
            secrets = rotated(number.to_string(), &secrets, NOW + *since, *overlap).unwrap();
        }
        let since = |until: i64| (until - millis::of(NOW)) / 3_600_000;
        secrets
            .into_iter()
            .map(|secret| (secret.sealed, secret.until_ms.map(since)))
            .collect()
    }

    fn secret(name: &str, until: Option<i64>) -> (String, Option<i64>) {
        (name.to_owned(), until)
    }

    #[test]
    fn the_old_one_signs_until_the_overlap_is_over() {
        let zero = Duration::ZERO;
        let both = [secret("1", None), secret("0", Some(24))];
        assert_eq!(after(&[(zero, zero), (zero, 24 * HOUR)]), both);
        // The next rotation after that removes it.
        let later = after(&[(zero, zero), (zero, HOUR), (HOUR, HOUR)]);
        assert_eq!(later, [secret("2", None), secret("1", Some(2))]);
    }

    #[test]
    fn no_rotation_lets_an_old_one_sign_longer() {
        let zero = Duration::ZERO;
        let secrets = after(&[(zero, zero), (zero, 2 * HOUR), (HOUR, 24 * HOUR)]);
        let expected = [
            secret("2", None),
            secret("1", Some(25)),
            secret("0", Some(2)),
        ];
        assert_eq!(secrets, expected);
    }

    #[test]
    fn without_an_overlap_only_the_new_secret_signs() {
        let zero = Duration::ZERO;
        let secrets = after(&[(zero, zero), (zero, HOUR), (zero, zero)]);
        assert_eq!(secrets, [secret("2", None)]);
    }

    #[test]
    fn no_secret_ends_before_its_overlap() {
        let mut secrets = Vec::new();
        for (number, overlap) in (1..).zip([HOUR, HOUR, 2 * HOUR]) {
            secrets = rotated(number.to_string(), &secrets, NOW, overlap).unwrap();
        }
        assert_eq!(secrets.len(), MAX_SECRETS);
        // One more is too many until the first of them ends.
        let ends = NOW + HOUR;
        assert_eq!(rotated("4".to_owned(), &secrets, NOW, HOUR), Err(ends));
        assert!(rotated("4".to_owned(), &secrets, ends, HOUR).is_ok());
        // A leaked secret can be replaced at once.
        let alone = rotated("4".to_owned(), &secrets, NOW, Duration::ZERO).unwrap();
        assert_eq!(alone.len(), 1);
    }
}
