//! The token in a delivery's `response_url`. It proves that the sender of an answer received the
//! delivery, and names the message without a database read.
//!
//! The form is `v2.{key}.{what}.{mac}`, in base64url without padding. `key` names the secret that
//! made it. `what` holds the message, the replay count, the expiry, a tag of the session, and the
//! channel's id. After a NUL follows a tag of the channel's uid. Tokens of earlier versions lack
//! that tag and serve every channel with the id. `mac` is HMAC-SHA256 over `what`. The tags are
//! keyed too: they can be compared but not read.
//!
//! Invariant: a token is valid only with a MAC by one of these secrets, before its expiry, and for
//! an answer in its own session. The check costs one MAC. Only the session check needs the answer.

use std::{fmt, sync::Arc};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::ids::{CallbackId, ChannelId, ChannelUid, MessageId, SessionId};

pub const QUERY: &str = "token";

pub const MIN_SECRET_BYTES: usize = 32;

pub(crate) const VERSION: &str = "v2.";

/// Longer tokens are rejected unread. A token for the longest channel id is shorter.
const MAX_TOKEN_BYTES: usize = 400;

/// Separates this use of the secret from every other.
const TOKEN: &[u8] = b"roundtrip response token v2\0";
const SESSION: &[u8] = b"roundtrip response token v2, session\0";
const CHANNEL: &[u8] = b"roundtrip response token v2, channel\0";
const CALLBACK: &[u8] = b"roundtrip response token v2, callback\0";
const NAME: &[u8] = b"roundtrip response token v2, name\0";

/// How much of its digest names a secret, in bytes and in characters.
const NAME_BYTES: usize = 6;
pub(crate) const NAME_CHARACTERS: usize = 8;
/// How many bytes of a MAC are used as a tag or a callback's id.
const TAG_BYTES: usize = 16;
/// The message, the replay count, the expiry and the session's tag. The channel follows.
const FIXED_BYTES: usize = 16 + 4 + 8 + TAG_BYTES;
/// Ends the channel's id, which cannot contain it.
const ID_END: u8 = 0;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    pub message_id: MessageId,
    pub channel_id: ChannelId,
    /// How many times the message had been replayed when it was delivered.
    pub replay_count: u32,
}

/// The delivery that a token was issued for. All attempts of one replay count share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Delivered {
    pub message_id: MessageId,
    pub replay_count: u32,
}

/// The channel that a token was issued to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IssuedTo {
    channel_id: ChannelId,
    tag: Option<[u8; TAG_BYTES]>,
}

impl Claims {
    pub const fn delivered(&self) -> Delivered {
        Delivered {
            message_id: self.message_id,
            replay_count: self.replay_count,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    #[error("must contain a secret")]
    None,
    #[error("must be {MIN_SECRET_BYTES} bytes or longer")]
    Short,
    #[error("must not contain a secret twice")]
    Twice,
}

/// Why a token is invalid. Only for metrics: the client is not given the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Malformed,
    UnknownKey,
    Forged,
    Expired,
    OtherSession,
    /// Its channel was deleted, even if another one has its id now.
    UnknownChannel,
}

/// Makes and verifies tokens. Clones share the secrets; `Debug` hides them.
#[derive(Clone)]
pub struct TokenKeys(Arc<[TokenKey]>);

struct TokenKey {
    name: String,
    mac: Hmac<Sha256>,
}

/// A token with a valid MAC that has not expired. Its claims require the session that it was made
/// for.
pub struct Proven<'a> {
    key: &'a TokenKey,
    session: [u8; TAG_BYTES],
    channel: Option<[u8; TAG_BYTES]>,
    claims: Claims,
    ends_at: OffsetDateTime,
}

impl TokenKeys {
    /// Keys from these secrets. The first makes tokens; all verify them.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, SecretError> {
        let mut keys: Vec<TokenKey> = Vec::new();
        for secret in secrets {
            let key = TokenKey::new(secret)?;
            if keys.iter().any(|other| other.name == key.name) {
                return Err(SecretError::Twice);
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(SecretError::None);
        }
        Ok(Self(keys.into()))
    }

    /// The token with which the message's channel answers in this session, until `ends_at`. `uid` is
    /// the channel's. Without it the token also serves a later channel that was created with the
    /// same id.
    pub fn sign(
        &self,
        claims: &Claims,
        session: &SessionId,
        uid: Option<&ChannelUid>,
        ends_at: OffsetDateTime,
    ) -> String {
        // `new` ensures that there is a first key.
        let key = &self.0[0];
        let channel = claims.channel_id.as_str().as_bytes();
        let mut what = Vec::with_capacity(FIXED_BYTES + channel.len() + 1 + TAG_BYTES);
        what.extend(claims.message_id.bytes());
        what.extend(claims.replay_count.to_be_bytes());
        what.extend(ends_at.unix_timestamp().to_be_bytes());
        what.extend(key.session(session));
        what.extend(channel);
        if let Some(uid) = uid {
            what.push(ID_END);
            what.extend(tag(key.of(CHANNEL, [uid.as_str().as_bytes()])));
        }
        let what = BASE64_URL_SAFE_NO_PAD.encode(what);
        let mac = key.of(TOKEN, [what.as_bytes()]).finalize().into_bytes();
        let mac = BASE64_URL_SAFE_NO_PAD.encode(mac);
        format!("{VERSION}{}.{what}.{mac}", key.name)
    }

    /// Checks a token before the answer that it came with is known.
    pub fn check(&self, token: &str, now: OffsetDateTime) -> Result<Proven<'_>, Refusal> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Refusal::Malformed);
        }
        let mut parts = token
            .strip_prefix(VERSION)
            .ok_or(Refusal::Malformed)?
            .split('.');
        let (Some(name), Some(what), Some(mac), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refusal::Malformed);
        };
        let decode = |text| {
            let bytes = BASE64_URL_SAFE_NO_PAD.decode(text);
            bytes.map_err(|_error| Refusal::Malformed)
        };
        // The names are public, so this comparison need not be constant-time.
        let key = self.0.iter().find(|key| key.name == name);
        let key = key.ok_or(Refusal::UnknownKey)?;
        // Compares in constant time.
        key.of(TOKEN, [what.as_bytes()])
            .verify_slice(&decode(mac)?)
            .map_err(|_error| Refusal::Forged)?;
        let proven = Proven::read(key, &decode(what)?).ok_or(Refusal::Malformed)?;
        if now >= proven.ends_at {
            return Err(Refusal::Expired);
        }
        Ok(proven)
    }
}

impl TokenKey {
    fn new(secret: &[u8]) -> Result<Self, SecretError> {
        if secret.len() < MIN_SECRET_BYTES {
            return Err(SecretError::Short);
        }
        let name = Sha256::new_with_prefix(NAME)
            .chain_update(secret)
            .finalize();
        Ok(Self {
            name: BASE64_URL_SAFE_NO_PAD.encode(&name[..NAME_BYTES]),
            // HMAC accepts keys of every length.
            mac: Hmac::new_from_slice(secret).map_err(|_error| SecretError::Short)?,
        })
    }

    fn of<const N: usize>(&self, purpose: &[u8], parts: [&[u8]; N]) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        mac.update(purpose);
        for part in parts {
            mac.update(part);
        }
        mac
    }

    fn session(&self, session: &SessionId) -> [u8; TAG_BYTES] {
        tag(self.of(SESSION, [session.as_str().as_bytes()]))
    }
}

fn tag(mac: Hmac<Sha256>) -> [u8; TAG_BYTES] {
    let mut tag = [0; TAG_BYTES];
    tag.copy_from_slice(&mac.finalize().into_bytes()[..TAG_BYTES]);
    tag
}

impl<'a> Proven<'a> {
    fn read(key: &'a TokenKey, what: &[u8]) -> Option<Self> {
        let (message_id, what) = what.split_first_chunk()?;
        let (replay_count, what) = what.split_first_chunk()?;
        let (ends_at, what) = what.split_first_chunk()?;
        let (session, what) = what.split_first_chunk()?;
        let mut parts = what.splitn(2, |byte| *byte == ID_END);
        let id = parts.next()?;
        let channel = parts.next().map(TryInto::try_into).transpose().ok()?;
        Some(Self {
            key,
            session: *session,
            channel,
            claims: Claims {
                message_id: MessageId::from_bytes(*message_id),
                channel_id: str::from_utf8(id).ok()?.parse().ok()?,
                replay_count: u32::from_be_bytes(*replay_count),
            },
            ends_at: OffsetDateTime::from_unix_timestamp(i64::from_be_bytes(*ends_at)).ok()?,
        })
    }

    pub const fn ends_at(&self) -> OffsetDateTime {
        self.ends_at
    }

    /// The channel that it was issued to. This needs no session.
    pub const fn channel_id(&self) -> &ChannelId {
        &self.claims.channel_id
    }

    /// Whether it was issued to this channel, and not to an earlier one with its id.
    pub fn is_for(&self, channel: &ChannelUid) -> bool {
        self.channel.is_none_or(|issued| {
            let expected = self.key.of(CHANNEL, [channel.as_str().as_bytes()]);
            expected.verify_truncated_left(&issued).is_ok()
        })
    }

    /// Names the channel that it was issued to, and no other channel with its id.
    pub fn issued_to(&self) -> IssuedTo {
        IssuedTo {
            channel_id: self.claims.channel_id.clone(),
            tag: self.channel,
        }
    }

    /// The contents of the token, for an answer in this session.
    pub fn claims(&self, session: &SessionId) -> Result<&Claims, Refusal> {
        // Compares in constant time.
        self.key
            .of(SESSION, [session.as_str().as_bytes()])
            .verify_truncated_left(&self.session)
            .map(|()| &self.claims)
            .map_err(|_error| Refusal::OtherSession)
    }

    /// The id of an answer with this content. The same token and the same bytes give the same id,
    /// so that a repeated answer is forwarded under the same `webhook-id`.
    pub fn callback_id(&self, response_data: &str) -> CallbackId {
        let Claims {
            message_id,
            replay_count,
            ..
        } = &self.claims;
        let parts = [
            message_id.bytes().as_slice(),
            &replay_count.to_be_bytes(),
            response_data.as_bytes(),
        ];
        CallbackId::derived(tag(self.key.of(CALLBACK, parts)))
    }
}

impl fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKeys({})", self.0.len())
    }
}

impl fmt::Debug for Proven<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proven")
            .field("claims", &self.claims)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
