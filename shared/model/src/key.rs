//! API keys: their form, their permissions, and how they are verified.
//!
//! A key is presented as `rt_{id}_{secret}`. The id is public; the secret is 32 random bytes in
//! base64url without padding.
//!
//! Invariant: only an [`IssuedKey`] holds the secret, and its owner sees it once. Stores keep a
//! [`KeyHash`]. The `Debug` of both hides the secret.

mod bounds;

use std::{collections::BTreeSet, fmt, str::FromStr};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Serialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use time::{Duration, OffsetDateTime};

use crate::{
    field_error::FieldError,
    ids::{ApiKeyId, ChannelId},
    named::named,
};

pub use bounds::{KeyBounds, ScopeViolation};

/// The prefix of every key, so that a leaked key can be recognised.
pub(crate) const PREFIX: &str = "rt_";
/// The prefix of every key, with the beginning of its id.
pub const MARK: &str = "rt_key_";
/// The hint to a client that passes a whole key in place of its id.
pub const ID_IN_KEY: &str = "its id is the part from 'key_' to before the next '_'";
pub const SECRET_BYTES: usize = 32;
pub const MAX_NAME_CHARS: usize = 128;
/// The most channels that one key can be limited to.
pub const MAX_CHANNELS: usize = 100;
pub const MAX_RATE: u32 = 1_000_000;

/// The longest lifetime of a key that expires: 100 years. Some stores cannot return times far
/// beyond.
pub const MAX_LIFETIME: Duration = Duration::days(36_525);

named! {
    pub enum KeyRole {
        /// Sends messages, and reads their history.
        Producer = "producer",
        Operator = "operator",
        /// Reads everything and changes nothing.
        Viewer = "viewer",
        /// Posts what the users of its channels say.
        Channel = "channel",
    }
}

impl fmt::Display for KeyRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be producer, operator, viewer or channel")]
pub struct UnknownRole;

impl FromStr for KeyRole {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::named(text).ok_or(UnknownRole)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApiKey {
    /// Its public id, which is independent of the secret.
    pub key_id: ApiKeyId,
    pub name: String,
    pub role: KeyRole,
    /// The channels that it may use; `None` means all.
    pub channels: Option<BTreeSet<ChannelId>>,
    /// The most requests a second to each ingress; `None` means the configured default.
    pub rate_per_second: Option<u32>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
    /// The key whose quota of active keys this one counts toward: the earliest limited key among
    /// its creator, that key's creator and so on. `None` if its creator has no limit of channels.
    #[serde(skip)]
    pub made_under: Option<ApiKeyId>,
    #[serde(skip)]
    pub hash: KeyHash,
}

impl ApiKey {
    /// When it ended or will end: by revocation or by expiry, whichever comes first.
    pub fn ends_at(&self) -> Option<OffsetDateTime> {
        [self.revoked_at, self.expires_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// The key that the keys made by this one count under.
    pub fn counts_under(&self) -> Option<ApiKeyId> {
        let is_limited = self.channels.is_some();
        is_limited.then(|| self.made_under.unwrap_or(self.key_id))
    }

    pub fn is_active(&self, now: OffsetDateTime) -> bool {
        self.ends_at().is_none_or(|end| now < end)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    pub name: String,
    pub role: KeyRole,
    pub channels: Option<BTreeSet<ChannelId>>,
    pub rate_per_second: Option<u32>,
    pub expires_at: Option<OffsetDateTime>,
}

impl NewKey {
    /// Makes the key from this secret, which must come from a cryptographically secure generator.
    pub fn make(
        self,
        secret: [u8; SECRET_BYTES],
        now: OffsetDateTime,
    ) -> Result<(ApiKey, IssuedKey), Vec<FieldError>> {
        let errors = self.check(now);
        if !errors.is_empty() {
            return Err(errors);
        }
        // In whole milliseconds, the precision of every store.
        let (now, expires_at) = (
            now.truncate_to_millisecond(),
            self.expires_at.map(OffsetDateTime::truncate_to_millisecond),
        );
        let key_id = ApiKeyId::generate();
        let secret = BASE64_URL_SAFE_NO_PAD.encode(secret);
        let issued = IssuedKey(format!("{PREFIX}{key_id}_{secret}"));
        let key = ApiKey {
            key_id,
            name: self.name,
            role: self.role,
            channels: self.channels,
            rate_per_second: self.rate_per_second,
            created_at: now,
            expires_at,
            revoked_at: None,
            made_under: None,
            hash: KeyHash::of(issued.expose()),
        };
        Ok((key, issued))
    }

    fn check(&self, now: OffsetDateTime) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut unless = |fits: bool, field: &str, problem: String| {
            if !fits {
                errors.push(FieldError::new(field, problem));
            }
        };
        unless(
            (1..=MAX_NAME_CHARS).contains(&self.name.chars().count())
                && !self.name.chars().any(char::is_control),
            "name",
            format!("must be 1 to {MAX_NAME_CHARS} characters, none of them a control character"),
        );
        unless(
            self.channels
                .as_ref()
                .is_none_or(|channels| (1..=MAX_CHANNELS).contains(&channels.len())),
            "channels",
            format!("must be 1 to {MAX_CHANNELS} channels; leave it out for all"),
        );
        unless(
            self.role != KeyRole::Channel || self.channels.is_some(),
            "channels",
            "must name the channels of a key with the role channel".to_owned(),
        );
        unless(
            self.rate_per_second
                .is_none_or(|rate| (1..=MAX_RATE).contains(&rate)),
            "rate_per_second",
            format!("must be a whole number from 1 to {MAX_RATE}"),
        );
        unless(
            self.expires_at
                .is_none_or(|end| now < end && end - now <= MAX_LIFETIME),
            "expires_at",
            "must be in the future, and within 100 years".to_owned(),
        );
        errors
    }
}

/// SHA-256 of the whole text that is presented.
///
/// A fast hash suffices. Slow hashes protect guessable passwords; 256 random bits cannot be guessed
/// at any speed.
#[derive(Clone, Copy)]
pub struct KeyHash([u8; HASH_BYTES]);

pub const HASH_BYTES: usize = 32;

impl KeyHash {
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    pub const fn kept(bytes: [u8; HASH_BYTES]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; HASH_BYTES] {
        &self.0
    }
}

/// In constant time, so that the duration reveals nothing.
impl PartialEq for KeyHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for KeyHash {}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(…)")
    }
}

/// A key that was just made, to be shown to its owner. Its `Debug` hides it.
#[derive(Clone)]
pub struct IssuedKey(String);

impl IssuedKey {
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for IssuedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IssuedKey(…)")
    }
}

/// A key as a client presents it: the id it claims, and the hash to verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PresentedKey {
    pub key_id: ApiKeyId,
    pub hash: KeyHash,
}

/// The text is not a key. The error hides the reason, because the text may be a mistyped key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a key; a key is rt_, its id, _ and its secret")]
pub struct NoKey;

impl FromStr for PresentedKey {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        // The secret may contain underscores and the id contains one; the id's fixed length
        // separates them.
        let rest = text.strip_prefix(PREFIX).ok_or(NoKey)?;
        let (id, secret) = rest.split_at_checked(ApiKeyId::LENGTH).ok_or(NoKey)?;
        let secret = secret.strip_prefix('_').ok_or(NoKey)?;
        // One byte more than fits: the decoder needs space for whole triples.
        let mut decoded = [0; SECRET_BYTES + 1];
        match BASE64_URL_SAFE_NO_PAD.decode_slice(secret, &mut decoded) {
            Ok(SECRET_BYTES) => {}
            Ok(_) | Err(_) => return Err(NoKey),
        }
        Ok(Self {
            key_id: id.parse().map_err(|_| NoKey)?,
            hash: KeyHash::of(text),
        })
    }
}

#[cfg(test)]
mod tests;
