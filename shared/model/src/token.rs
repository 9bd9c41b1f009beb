//! The token in a delivery's `response_url`: it tells which message an answer belongs to, with no
//! database read, and that whoever answers was given it.
//!
//! `v1.{what}.{mac}`: base64url without padding. `what` is the message, the round and the channel,
//! and readable; `mac` is HMAC-SHA256 over it and the session, which the answer itself names.
//!
//! Invariant: a token that was not made with this key for this session is worth nothing, whatever
//! part of it is right.

use std::fmt;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::ids::{ChannelId, MessageId, SessionId};

/// The query parameter that carries it.
pub const QUERY: &str = "token";

/// The shortest secret, in bytes.
pub const MIN_SECRET_BYTES: usize = 32;

const VERSION: &str = "v1";

/// Keeps the key's other uses, should it have any, apart from this one.
const PURPOSE: &[u8] = b"roundtrip response token v1\0";

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

/// The secret is too short.
#[derive(Debug, thiserror::Error)]
#[error("must be {MIN_SECRET_BYTES} bytes or longer")]
pub struct ShortSecret;

/// Makes tokens and knows its own. It shows nothing of the secret.
#[derive(Clone)]
pub struct TokenKey(Hmac<Sha256>);

impl TokenKey {
    /// A key of this secret.
    ///
    /// # Errors
    /// [`ShortSecret`] where it has fewer than [`MIN_SECRET_BYTES`].
    pub fn new(secret: &[u8]) -> Result<Self, ShortSecret> {
        if secret.len() < MIN_SECRET_BYTES {
            return Err(ShortSecret);
        }
        // HMAC takes keys of every length.
        Hmac::new_from_slice(secret)
            .map(Self)
            .map_err(|_| ShortSecret)
    }

    /// The token that an answer in this session is to bring.
    #[must_use]
    pub fn sign(&self, claims: &Claims, session: &SessionId) -> String {
        let Claims {
            message_id,
            channel_id,
            round,
        } = claims;
        let what = BASE64_URL_SAFE_NO_PAD.encode(format!("{message_id}.{round}.{channel_id}"));
        let mac = self.mac(&what, session).finalize().into_bytes();
        let mac = BASE64_URL_SAFE_NO_PAD.encode(mac);
        format!("{VERSION}.{what}.{mac}")
    }

    /// What a token tells that came with an answer in this session; nothing where it was not made
    /// for it.
    #[must_use]
    pub fn verify(&self, token: &str, session: &SessionId) -> Option<Claims> {
        let (what, mac) = token
            .strip_prefix(VERSION)?
            .strip_prefix('.')?
            .split_once('.')?;
        let mac = BASE64_URL_SAFE_NO_PAD.decode(mac).ok()?;
        // Compares in constant time.
        self.mac(what, session).verify_slice(&mac).ok()?;
        let what = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(what).ok()?).ok()?;
        // The channel comes last, for it may have dots.
        let mut parts = what.splitn(3, '.');
        Some(Claims {
            message_id: parts.next()?.parse().ok()?,
            round: parts.next()?.parse().ok()?,
            channel_id: parts.next()?.parse().ok()?,
        })
    }

    fn mac(&self, what: &str, session: &SessionId) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(PURPOSE);
        mac.update(what.as_bytes());
        // No character of base64url, so where the one ends and the other begins is certain.
        mac.update(b".");
        mac.update(session.as_str().as_bytes());
        mac
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(secret: &str) -> TokenKey {
        TokenKey::new(secret.repeat(MIN_SECRET_BYTES).as_bytes()).unwrap()
    }

    fn session(id: &str) -> SessionId {
        id.parse().unwrap()
    }

    fn claims(channel: &str, round: u32) -> Claims {
        Claims {
            message_id: MessageId::generate(),
            channel_id: channel.parse().unwrap(),
            round,
        }
    }

    proptest! {
        #[test]
        fn a_token_tells_what_it_was_made_with(channel in "[A-Za-z0-9_~-][A-Za-z0-9._~-]{7,127}", round: u32, id in "[^\\pC]{1,60}") {
            let (key, claims, session) = (key("k"), claims(&channel, round), session(&id));
            let token = key.sign(&claims, &session);
            prop_assert_eq!(key.verify(&token, &session), Some(claims));
        }

        #[test]
        fn a_token_needs_no_escaping_in_a_url(channel in "[A-Za-z0-9_~-]{1,128}", round: u32) {
            let token = key("k").sign(&claims(&channel, round), &session("s"));
            prop_assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)), "{token}");
        }

        #[test]
        fn any_change_of_a_byte_makes_it_worthless(at: prop::sample::Index, byte in 0_u8..128) {
            let (key, session) = (key("k"), session("s"));
            let token = key.sign(&claims("c", 0), &session);
            let mut bytes = token.clone().into_bytes();
            let at = at.index(bytes.len());
            prop_assume!(bytes[at] != byte);
            bytes[at] = byte;
            let changed = String::from_utf8(bytes).unwrap();
            prop_assert_eq!(key.verify(&changed, &session), None, "{}", changed);
        }

        #[test]
        fn a_part_or_more_than_the_whole_is_worthless(at: prop::sample::Index, more in "[A-Za-z0-9._-]{1,9}") {
            let (key, session) = (key("k"), session("s"));
            let token = key.sign(&claims("c", 0), &session);
            prop_assert_eq!(key.verify(&token[..at.index(token.len())], &session), None);
            prop_assert_eq!(key.verify(&format!("{token}{more}"), &session), None);
            prop_assert_eq!(key.verify(&more, &session), None);
        }

        #[test]
        fn it_is_worthless_in_another_session(one in "[a-z.]{1,20}", other in "[a-z.]{1,20}") {
            prop_assume!(one != other);
            let key = key("k");
            let token = key.sign(&claims("c", 0), &session(&one));
            prop_assert_eq!(key.verify(&token, &session(&other)), None);
        }
    }

    #[test]
    fn it_is_worthless_under_another_key() {
        let token = key("k").sign(&claims("c", 0), &session("s"));
        assert_eq!(key("l").verify(&token, &session("s")), None);
    }

    #[test]
    fn neither_the_session_nor_the_secret_can_be_read_off() {
        let (key, session) = (key("k"), session("a-secret-session"));
        let token = key.sign(&claims("c", 0), &session);
        let what = token.split('.').nth(1).unwrap();
        let what = BASE64_URL_SAFE_NO_PAD.decode(what).unwrap();
        assert!(!String::from_utf8(what).unwrap().contains("secret"));
        assert_eq!(format!("{key:?}"), "TokenKey(…)");
    }

    #[test]
    fn a_short_secret_is_refused() {
        assert!(TokenKey::new(&[7; MIN_SECRET_BYTES - 1]).is_err());
    }
}
