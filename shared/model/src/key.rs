//! API keys: what one is, what it may do, and how it is known again.
//!
//! A key is presented as `rt_{id}_{secret}`: the id is public, the secret is 32 random bytes in
//! base64url without padding.
//!
//! Invariant: the secret is in an [`IssuedKey`] alone, which its owner is shown once. What is kept is
//! a [`KeyHash`], and neither shows anything of the secret in `Debug`.

mod bounds;

use std::{collections::BTreeSet, fmt, str::FromStr};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use time::{Duration, OffsetDateTime};

use crate::{
    channel::FieldError,
    ids::{ApiKeyId, ChannelId},
};

pub use bounds::{Beyond, KeyBounds};

/// How every key begins, so that one that went astray is recognised for what it is.
pub(crate) const PREFIX: &str = "rt_";
/// The same, and how its id begins.
pub const MARK: &str = "rt_key_";
/// What is told to who names a key by all of it.
pub const ID_IN_KEY: &str = "its id is the part from 'key_' to before the next '_'";
/// The length of a secret.
pub const SECRET_BYTES: usize = 32;
/// The longest name, in characters.
pub const MAX_NAME_CHARS: usize = 128;
/// The most channels that one key is limited to.
pub const MAX_CHANNELS: usize = 100;
/// The highest rate, in requests a second.
pub const MAX_RATE: u32 = 1_000_000;

/// The longest that a key can be made for, where it is to end at all: 100 years. Times far beyond
/// are such as not every store gives back.
pub const MAX_LIFETIME: Duration = Duration::days(36_525);

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyRole {
    /// Sends messages, and reads what became of them.
    Producer,
    /// Does everything.
    Operator,
    /// Reads everything, and changes nothing.
    Viewer,
}

impl KeyRole {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Producer, Self::Operator, Self::Viewer];

    /// Its name, as it is written everywhere.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Producer => "producer",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
        }
    }
}

impl fmt::Display for KeyRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text names no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be producer, operator or viewer")]
pub struct UnknownRole;

impl FromStr for KeyRole {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        let named = Self::ALL.into_iter().find(|role| role.as_str() == text);
        named.ok_or(UnknownRole)
    }
}

/// A key as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApiKey {
    /// Its id, which says nothing of its secret.
    pub key_id: ApiKeyId,
    /// For people to tell it from others.
    pub name: String,
    /// What it may do.
    pub role: KeyRole,
    /// With which channels; none is with all.
    pub channels: Option<BTreeSet<ChannelId>>,
    /// The most requests a second to each ingress; none is what the configuration says.
    pub rate_per_second: Option<u32>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// From when on it is worth nothing.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// When it was revoked.
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
    /// The key that it is counted under: of those that made it, one the other, the first that is
    /// limited to channels. None where whoever made it is not.
    #[serde(skip)]
    pub made_under: Option<ApiKeyId>,
    /// What it is known by.
    #[serde(skip)]
    pub hash: KeyHash,
}

impl ApiKey {
    /// When it ended or will end, by being revoked or by expiring, whichever comes first.
    #[must_use]
    pub fn ends_at(&self) -> Option<OffsetDateTime> {
        [self.revoked_at, self.expires_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// What the keys are counted under that it makes.
    #[must_use]
    pub fn counts_under(&self) -> Option<ApiKeyId> {
        let is_limited = self.channels.is_some();
        is_limited.then(|| self.made_under.unwrap_or(self.key_id))
    }

    /// Whether it is worth something at this time.
    #[must_use]
    pub fn is_active(&self, now: OffsetDateTime) -> bool {
        self.ends_at().is_none_or(|end| now < end)
    }
}

/// What is asked for where a key is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// See [`ApiKey::name`].
    pub name: String,
    /// See [`ApiKey::role`].
    pub role: KeyRole,
    /// See [`ApiKey::channels`].
    pub channels: Option<BTreeSet<ChannelId>>,
    /// See [`ApiKey::rate_per_second`].
    pub rate_per_second: Option<u32>,
    /// See [`ApiKey::expires_at`].
    pub expires_at: Option<OffsetDateTime>,
}

impl NewKey {
    /// Makes the key, of this secret, which must come from a generator that nobody can predict.
    ///
    /// # Errors
    /// All that is wrong, not only the first.
    pub fn make(
        self,
        secret: [u8; SECRET_BYTES],
        now: OffsetDateTime,
    ) -> Result<(ApiKey, IssuedKey), Vec<FieldError>> {
        self.check(now)?;
        // As exactly as every store keeps it.
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

    fn check(&self, now: OffsetDateTime) -> Result<(), Vec<FieldError>> {
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
            self.rate_per_second
                .is_none_or(|rate| (1..=MAX_RATE).contains(&rate)),
            "rate_per_second",
            format!("must be 1 to {MAX_RATE}"),
        );
        unless(
            self.expires_at
                .is_none_or(|end| now < end && end - now <= MAX_LIFETIME),
            "expires_at",
            "must be in the future, and within 100 years".to_owned(),
        );
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }
}

/// What a key is known by: SHA-256 of the whole text that is presented.
///
/// A fast hash is right here. Slow ones are for passwords, which can be guessed; nobody goes
/// through 256 random bits, however fast each guess is.
#[derive(Clone, Copy)]
pub struct KeyHash([u8; HASH_BYTES]);

/// The length of a hash.
pub const HASH_BYTES: usize = 32;

impl KeyHash {
    /// The hash of this text.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// The hash that was kept as these bytes.
    #[must_use]
    pub const fn kept(bytes: [u8; HASH_BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes, to be kept.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; HASH_BYTES] {
        &self.0
    }
}

/// In constant time, so that how long it takes tells nothing.
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

/// A key that was just made, for its owner's eyes. `Debug` shows nothing of it.
#[derive(Clone)]
pub struct IssuedKey(String);

impl IssuedKey {
    /// The key's text, secret and all.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for IssuedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IssuedKey(…)")
    }
}

/// A key as somebody presents it: whose it claims to be, and what it is to be known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PresentedKey {
    /// Whose key it claims to be.
    pub key_id: ApiKeyId,
    /// The hash of what was presented.
    pub hash: KeyHash,
}

/// The text is no key. It does not say why: it may be one that was mistyped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a key, which is rt_, its id, _ and its secret")]
pub struct NoKey;

impl FromStr for PresentedKey {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        // The secret may have underscores, and the id has one: the length of the id tells them
        // apart.
        let rest = text.strip_prefix(PREFIX).ok_or(NoKey)?;
        let (id, secret) = rest.split_at_checked(ApiKeyId::LENGTH).ok_or(NoKey)?;
        let secret = secret.strip_prefix('_').ok_or(NoKey)?;
        // One more than fits: the decoder asks for room for whole triples.
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
