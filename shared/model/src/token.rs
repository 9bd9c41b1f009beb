//! The token in a delivery's `response_url`: it tells which message an answer belongs to, with no
//! database read, and that whoever answers was given it.
//!
//! `v2.{key}.{what}.{mac}`, base64url without padding. `key` names the secret that it was made
//! with; `what` is the message, the round, when the token ends, a tag of the session, and the
//! channel; `mac` is HMAC-SHA256 over `what`. The session's tag is keyed too: it can be compared,
//! and read by nobody.
//!
//! Invariant: a token that was not made with one of these secrets, that has ended, or that came
//! with another session's answer is worth nothing, whatever part of it is right. To find that out
//! takes one MAC, and for all but the session nothing else than the token.

use std::{fmt, sync::Arc};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::ids::{CallbackId, ChannelId, MessageId, SessionId};

/// The query parameter that carries it.
pub const QUERY: &str = "token";

/// The shortest secret, in bytes.
pub const MIN_SECRET_BYTES: usize = 32;

/// How every token begins.
pub(crate) const VERSION: &str = "v2.";

/// The longest token that is looked at: one for the longest channel id is shorter.
const MAX_TOKEN_BYTES: usize = 400;

/// Keep the secret's uses apart from each other, and from any other that it should have.
const TOKEN: &[u8] = b"roundtrip response token v2\0";
const SESSION: &[u8] = b"roundtrip response token v2, session\0";
const CALLBACK: &[u8] = b"roundtrip response token v2, callback\0";
const NAME: &[u8] = b"roundtrip response token v2, name\0";

/// How much of its digest names a secret, in bytes and in characters.
const NAME_BYTES: usize = 6;
pub(crate) const NAME_CHARACTERS: usize = 8;
/// How much of a MAC is a session's tag, or a callback's id.
const TAG_BYTES: usize = 16;
/// The message, the round, the end, the session's tag; what follows is the channel.
const FIXED_BYTES: usize = 16 + 4 + 8 + TAG_BYTES;

/// What a token tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The message that is answered.
    pub message_id: MessageId,
    /// Its channel.
    pub channel_id: ChannelId,
    /// How many times the message had been replayed when it was delivered.
    pub round: u32,
}

/// Which delivery a token was handed out with: all tries of a round have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Delivered {
    /// The message.
    pub message_id: MessageId,
    /// How many times it had been replayed.
    pub round: u32,
}

impl Claims {
    /// Which delivery the token was handed out with.
    #[must_use]
    pub const fn delivered(&self) -> Delivered {
        Delivered {
            message_id: self.message_id,
            round: self.round,
        }
    }
}

/// Why secrets cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// There is none.
    #[error("must hold a secret")]
    None,
    /// One is too short.
    #[error("must be {MIN_SECRET_BYTES} bytes or longer")]
    Short,
    /// One is there twice.
    #[error("must not hold a secret twice")]
    Twice,
}

/// Why a token is worth nothing. For a count; whoever brought it is told no reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It has not the form of one.
    Malformed,
    /// It was made with a secret that is not known, or no longer.
    UnknownKey,
    /// It was not made with the secret that it names.
    Forged,
    /// Its time is over.
    Expired,
    /// It came with another session's answer.
    OtherSession,
    /// Its channel was deleted.
    UnknownChannel,
}

/// Makes tokens and knows its own. A clone has the same secrets; it shows nothing of them.
#[derive(Clone)]
pub struct TokenKeys(Arc<[TokenKey]>);

struct TokenKey {
    name: String,
    mac: Hmac<Sha256>,
}

/// A token that is the gateway's own and has not ended. What it tells is for the session that it
/// was made for.
pub struct Proven<'a> {
    key: &'a TokenKey,
    session: [u8; TAG_BYTES],
    claims: Claims,
    ends_at: OffsetDateTime,
}

impl TokenKeys {
    /// Keys of these secrets: the first makes tokens, all of them are known.
    ///
    /// # Errors
    /// [`SecretError`]
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

    /// The token that an answer in this session is to bring, before it ends.
    #[must_use]
    pub fn sign(&self, claims: &Claims, session: &SessionId, ends_at: OffsetDateTime) -> String {
        // There is one: `new` saw to it.
        let key = &self.0[0];
        let channel = claims.channel_id.as_str().as_bytes();
        let mut what = Vec::with_capacity(FIXED_BYTES + channel.len());
        what.extend(claims.message_id.bytes());
        what.extend(claims.round.to_be_bytes());
        what.extend(ends_at.unix_timestamp().to_be_bytes());
        what.extend(key.session(session));
        what.extend(channel);
        let what = BASE64_URL_SAFE_NO_PAD.encode(what);
        let mac = key.of(TOKEN, [what.as_bytes()]).finalize().into_bytes();
        let mac = BASE64_URL_SAFE_NO_PAD.encode(mac);
        format!("{VERSION}{}.{what}.{mac}", key.name)
    }

    /// Looks at a token without the answer that it came with.
    ///
    /// # Errors
    /// [`Refusal`]
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
        // The names are no secrets.
        let key = self.0.iter().find(|key| key.name == name);
        let key = key.ok_or(Refusal::UnknownKey)?;
        // Compares in constant time.
        key.of(TOKEN, [what.as_bytes()])
            .verify_slice(&decode(mac)?)
            .map_err(|_error| Refusal::Forged)?;
        let Read {
            claims,
            ends_at,
            session,
        } = read(&decode(what)?).ok_or(Refusal::Malformed)?;
        if now >= ends_at {
            return Err(Refusal::Expired);
        }
        Ok(Proven {
            key,
            session,
            claims,
            ends_at,
        })
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
            // HMAC takes keys of every length.
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

/// The beginning of a MAC.
fn tag(mac: Hmac<Sha256>) -> [u8; TAG_BYTES] {
    let mut tag = [0; TAG_BYTES];
    tag.copy_from_slice(&mac.finalize().into_bytes()[..TAG_BYTES]);
    tag
}

struct Read {
    claims: Claims,
    ends_at: OffsetDateTime,
    session: [u8; TAG_BYTES],
}

fn read(what: &[u8]) -> Option<Read> {
    let (message_id, what) = what.split_first_chunk()?;
    let (round, what) = what.split_first_chunk()?;
    let (ends_at, what) = what.split_first_chunk()?;
    let (session, channel) = what.split_first_chunk()?;
    Some(Read {
        claims: Claims {
            message_id: MessageId::from_bytes(*message_id),
            channel_id: str::from_utf8(channel).ok()?.parse().ok()?,
            round: u32::from_be_bytes(*round),
        },
        ends_at: OffsetDateTime::from_unix_timestamp(i64::from_be_bytes(*ends_at)).ok()?,
        session: *session,
    })
}

impl Proven<'_> {
    /// When the token ends.
    #[must_use]
    pub const fn ends_at(&self) -> OffsetDateTime {
        self.ends_at
    }

    /// The channel that it was handed out to, whatever the session is.
    #[must_use]
    pub const fn channel_id(&self) -> &ChannelId {
        &self.claims.channel_id
    }

    /// What the token tells of an answer in this session.
    ///
    /// # Errors
    /// [`Refusal::OtherSession`]
    pub fn claims(&self, session: &SessionId) -> Result<&Claims, Refusal> {
        // Compares in constant time.
        self.key
            .of(SESSION, [session.as_str().as_bytes()])
            .verify_truncated_left(&self.session)
            .map(|()| &self.claims)
            .map_err(|_error| Refusal::OtherSession)
    }

    /// The id of an answer that says this: the same for the same token and the same bytes, so that
    /// an answer which is posted again is forwarded under the `webhook-id` that it had.
    #[must_use]
    pub fn callback_id(&self, response_data: &str) -> CallbackId {
        let Claims {
            message_id, round, ..
        } = &self.claims;
        let parts = [
            message_id.bytes().as_slice(),
            &round.to_be_bytes(),
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
