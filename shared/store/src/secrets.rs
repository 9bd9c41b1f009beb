//! The encrypted secrets that sign a channel's deliveries.
//!
//! They are stored apart from the channels. Another client of the database may replace a channel's
//! document, or read it into a class of five fields.
//!
//! Invariant: a store only receives encrypted secrets, and no query reaches them. A write succeeds
//! only if the stored secrets are those that its writer read.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use roundtrip_model::{ChannelId, LogThrottle, SealingKeys, Signer, SigningSecret, millis};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tracing::warn;

use crate::{SecretsError, Unavailable};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedSecret {
    pub sealed: String,
    /// When it stops signing, in milliseconds since 1970. `None` for the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<i64>,
}

impl SealedSecret {
    #[must_use]
    pub fn until(&self) -> Option<OffsetDateTime> {
        // A time out of range never comes, so it counts as none.
        millis::time(self.until_ms?).ok()
    }
}

#[async_trait]
pub trait Secrets: Send + Sync + 'static {
    /// A channel's secrets, the newest first. Empty if it has none, or if there is no such channel.
    async fn secrets(&self, id: &ChannelId) -> Result<Vec<SealedSecret>, Unavailable>;

    /// Replaces the secrets that were `seen` with `new`, the newest first. `new` is never empty:
    /// secrets are removed with their channel.
    async fn replace_secrets(
        &self,
        id: &ChannelId,
        seen: &[SealedSecret],
        new: &[SealedSecret],
    ) -> Result<(), SecretsError>;
}

pub type SharedSecrets = Arc<dyn Secrets>;

/// The newest of these secrets. Its text identifies this state, because encrypting the same secret
/// twice gives different texts.
pub(crate) fn newest(secrets: &[SealedSecret]) -> Option<&str> {
    secrets.first().map(|secret| secret.sealed.as_str())
}

#[derive(Debug, Clone)]
pub enum Signing {
    Unsigned,
    Signed(Signer),
    /// The newest secret cannot be decrypted. Sending unsigned is no option, because a receiver
    /// that verifies would refuse the delivery.
    Impossible,
}

impl Signing {
    #[must_use]
    pub const fn signer(&self) -> Option<&Signer> {
        match self {
            Self::Signed(signer) => Some(signer),
            Self::Unsigned | Self::Impossible => None,
        }
    }
}

/// Limited, because every read of a channel logs it: every few seconds for each channel in use.
static UNREADABLE: LogThrottle = LogThrottle::every(Duration::from_mins(1));
static NO_SECRET: LogThrottle = LogThrottle::every(Duration::from_mins(1));

pub(crate) fn open(id: &ChannelId, secrets: &[SealedSecret], keys: &SealingKeys) -> Signing {
    let opened = |secret: &SealedSecret| -> Option<SigningSecret> {
        let opened = keys.open(&secret.sealed, id.as_str());
        if let Err(error) = &opened
            && let Some(suppressed) = UNREADABLE.due(Instant::now())
        {
            warn!(
                channel_id = %id, %error, suppressed,
                "a secret cannot be decrypted with the encryption keys of this process; if it is \
                 the channel's newest, the channel's messages wait. Every role needs the same \
                 ENCRYPTION_KEYS"
            );
        }
        let secret = SigningSecret::from_bytes(opened.ok()?);
        if secret.is_err()
            && let Some(suppressed) = NO_SECRET.due(Instant::now())
        {
            warn!(channel_id = %id, suppressed, "a decrypted text is not a secret");
        }
        secret.ok()
    };
    let Some((newest, older)) = secrets.split_first() else {
        return Signing::Unsigned;
    };
    let Some(newest) = opened(newest) else {
        return Signing::Impossible;
    };
    let older = older
        .iter()
        .filter_map(|older| Some((opened(older)?, older.until())));
    Signing::Signed(Signer::new(&newest, older))
}
