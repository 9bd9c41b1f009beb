//! The secrets that sign a channel's deliveries, sealed.
//!
//! They lie beside the channels and not in them: another client of the database may replace a
//! channel's document whole, or read it into a class of five fields.
//!
//! Invariant: what a store is handed is sealed already, and no query reaches it. A write takes the
//! place of the very secrets that its writer had seen, or nothing happens.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use roundtrip_model::{ChannelId, LogThrottle, SealingKeys, Signer, SigningSecret, millis};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tracing::warn;

use crate::StoreError;

/// A secret as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedSecret {
    /// The secret, sealed for its channel.
    pub sealed: String,
    /// Until when it signs, in milliseconds since 1970; the newest has no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<i64>,
}

impl SealedSecret {
    /// Until when it signs.
    #[must_use]
    pub fn until(&self) -> Option<OffsetDateTime> {
        // A time beyond all times was never reached.
        millis::time(self.until_ms?).ok()
    }
}

/// Where the secrets of channels are kept.
#[async_trait]
pub trait Secrets: Send + Sync + 'static {
    /// A channel's secrets, the newest first; none where none was made, or there is no channel.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    async fn secrets(&self, id: &ChannelId) -> Result<Vec<SealedSecret>, StoreError>;

    /// Puts these in the place of those that were `seen`; the newest comes first. `new` is never
    /// empty: secrets go when their channel is deleted.
    ///
    /// # Errors
    /// [`StoreError::Changed`] where others were put there meanwhile; [`StoreError::Away`].
    async fn replace_secrets(
        &self,
        id: &ChannelId,
        seen: &[SealedSecret],
        new: &[SealedSecret],
    ) -> Result<(), StoreError>;
}

/// Secrets that roles share.
pub type SharedSecrets = Arc<dyn Secrets>;

/// The newest of these secrets; its sealed text tells this state from every other, for no two
/// secrets are sealed alike.
pub(crate) fn newest(secrets: &[SealedSecret]) -> Option<&str> {
    secrets.first().map(|secret| secret.sealed.as_str())
}

/// How a channel's deliveries are signed.
#[derive(Debug, Clone)]
pub enum Signing {
    /// Not at all: no secret was ever made for it.
    Unsigned,
    /// By this.
    Signed(Signer),
    /// They should be, but the newest secret does not open: a receiver that checks would refuse
    /// what is sent without its signature.
    Impossible,
}

impl Signing {
    /// What signs, if anything does.
    #[must_use]
    pub const fn signer(&self) -> Option<&Signer> {
        match self {
            Self::Signed(signer) => Some(signer),
            Self::Unsigned | Self::Impossible => None,
        }
    }
}

/// Each is met whenever a channel is read: every few seconds, of each channel that is in use.
static UNREADABLE: LogThrottle = LogThrottle::every(Duration::from_mins(1));
static NO_SECRET: LogThrottle = LogThrottle::every(Duration::from_mins(1));

/// Opens a channel's secrets.
pub(crate) fn open(id: &ChannelId, secrets: &[SealedSecret], keys: &SealingKeys) -> Signing {
    let opened = |secret: &SealedSecret| -> Option<SigningSecret> {
        let opened = keys.open(&secret.sealed, id.as_str());
        if let Err(error) = &opened
            && let Some(suppressed) = UNREADABLE.due(Instant::now())
        {
            warn!(
                channel_id = %id, %error, suppressed,
                "a secret does not open with the encryption keys of this process; where it is the \
                 channel's newest, the channel's messages wait. Every role needs the same ENCRYPTION_KEYS"
            );
        }
        let secret = SigningSecret::from_bytes(opened.ok()?);
        if secret.is_err()
            && let Some(suppressed) = NO_SECRET.due(Instant::now())
        {
            warn!(channel_id = %id, suppressed, "a sealed text holds no secret");
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
