//! Secrets at rest, encrypted with AES-256-GCM under a configured key.
//!
//! The form is `v1.{key}.{sealed}`: the beginning of the key's digest, then the base64url of the
//! nonce, the ciphertext and its tag. The first key encrypts and every key decrypts, so that keys
//! can be rotated.
//!
//! Invariant: a secret decrypts only for the owner that it was encrypted for, and only if its text
//! is unchanged.

use std::{fmt, sync::Arc};

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::{Digest, Sha256};

pub const KEY_BYTES: usize = 32;
/// The length of a nonce, in bytes. Nonces are random: a key encrypts so few secrets that a
/// collision is negligible.
pub const NONCE_BYTES: usize = NONCE_LEN;

const VERSION: &str = "v1";
/// Separates this use of the key from any other.
const PURPOSE: &[u8] = b"roundtrip sealed secret v1\0";
/// How many bytes of its digest name a key.
const NAME_BYTES: usize = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("must contain a key")]
    None,
    #[error("must each be the base64 of {KEY_BYTES} bytes")]
    Form,
    #[error("must not contain a key twice")]
    Twice,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unopened {
    #[error("it is not an encrypted secret")]
    Malformed,
    #[error("the key that encrypted it is not configured")]
    UnknownKey,
    #[error("it was modified, or belongs to another channel")]
    Changed,
}

/// Encrypts and decrypts secrets. Clones share the keys; `Debug` hides them.
#[derive(Clone)]
pub struct SealingKeys(Arc<[SealingKey]>);

struct SealingKey {
    name: String,
    key: LessSafeKey,
}

impl SealingKeys {
    /// Parses keys, each in base64. The first encrypts.
    pub fn parse<'a>(keys: impl IntoIterator<Item = &'a str>) -> Result<Self, KeyError> {
        let mut all: Vec<SealingKey> = Vec::new();
        for text in keys {
            let key = SealingKey::parse(text)?;
            if all.iter().any(|other| other.name == key.name) {
                return Err(KeyError::Twice);
            }
            all.push(key);
        }
        if all.is_empty() {
            return Err(KeyError::None);
        }
        Ok(Self(all.into()))
    }

    /// Encrypts this for its owner, with a new random nonce.
    ///
    /// # Errors
    ///
    /// [`Unopened::Malformed`] if it is too long for the cipher, which is far longer than any
    /// secret.
    pub fn seal(
        &self,
        secret: &[u8],
        owner: &str,
        nonce: [u8; NONCE_BYTES],
    ) -> Result<String, Unopened> {
        // `parse` ensures that there is a first key.
        let SealingKey { name, key } = self.0.first().ok_or(Unopened::UnknownKey)?;
        let mut text = secret.to_vec();
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(owned_by(owner)),
            &mut text,
        )
        .map_err(|_unspecified| Unopened::Malformed)?;
        let sealed = BASE64_URL_SAFE_NO_PAD.encode([&nonce[..], &text].concat());
        Ok(format!("{VERSION}.{name}.{sealed}"))
    }

    pub fn open(&self, sealed: &str, owner: &str) -> Result<Vec<u8>, Unopened> {
        let (name, sealed) = sealed
            .strip_prefix(VERSION)
            .and_then(|rest| rest.strip_prefix('.'))
            .and_then(|rest| rest.split_once('.'))
            .ok_or(Unopened::Malformed)?;
        let SealingKey { key, .. } = self
            .0
            .iter()
            .find(|key| key.name == name)
            .ok_or(Unopened::UnknownKey)?;
        let bytes = BASE64_URL_SAFE_NO_PAD
            .decode(sealed)
            .map_err(|_error| Unopened::Malformed)?;
        let (nonce, text) = bytes
            .split_first_chunk::<NONCE_BYTES>()
            .ok_or(Unopened::Malformed)?;
        let mut text = text.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = key
            .open_in_place(nonce, Aad::from(owned_by(owner)), &mut text)
            .map_err(|_unspecified| Unopened::Changed)?;
        Ok(opened.to_vec())
    }
}

impl SealingKey {
    fn parse(text: &str) -> Result<Self, KeyError> {
        let bytes = BASE64_STANDARD
            .decode(text.trim())
            .map_err(|_error| KeyError::Form)?;
        // `UnboundKey::new` checks the length.
        let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_unspecified| KeyError::Form)?;
        let digest = Sha256::new_with_prefix(PURPOSE).chain_update(&bytes);
        let name = BASE64_URL_SAFE_NO_PAD.encode(&digest.finalize()[..NAME_BYTES]);
        Ok(Self {
            name,
            key: LessSafeKey::new(key),
        })
    }
}

fn owned_by(owner: &str) -> Vec<u8> {
    [PURPOSE, owner.as_bytes()].concat()
}

impl fmt::Debug for SealingKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKeys({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn key(byte: u8) -> String {
        BASE64_STANDARD.encode([byte; KEY_BYTES])
    }

    fn keys(bytes: &[u8]) -> SealingKeys {
        let texts: Vec<_> = bytes.iter().copied().map(key).collect();
        SealingKeys::parse(texts.iter().map(String::as_str)).unwrap()
    }

    proptest! {
        #[test]
        fn an_encrypted_secret_can_be_decrypted(secret: Vec<u8>, owner in "[a-z]{0,9}", nonce: [u8; NONCE_BYTES]) {
            let keys = keys(&[1]);
            let sealed = keys.seal(&secret, &owner, nonce).unwrap();
            prop_assert_eq!(keys.open(&sealed, &owner), Ok(secret));
        }

        #[test]
        fn no_byte_can_be_changed(at: prop::sample::Index, byte in 0_u8..128) {
            let keys = keys(&[1]);
            let sealed = keys.seal(&[7; 32], "c", [3; NONCE_BYTES]).unwrap();
            let mut bytes = sealed.into_bytes();
            let at = at.index(bytes.len());
            prop_assume!(bytes[at] != byte);
            bytes[at] = byte;
            prop_assert!(keys.open(str::from_utf8(&bytes).unwrap(), "c").is_err());
        }
    }

    #[test]
    fn another_owner_opens_nothing() {
        let sealed = keys(&[1]).seal(b"secret", "c", [0; NONCE_BYTES]).unwrap();
        assert_eq!(keys(&[1]).open(&sealed, "d"), Err(Unopened::Changed));
    }

    #[test]
    fn a_key_that_was_rotated_out_of_first_place_still_opens() {
        let sealed = keys(&[1]).seal(b"secret", "c", [0; NONCE_BYTES]).unwrap();
        assert_eq!(keys(&[2, 1]).open(&sealed, "c").unwrap(), b"secret");
        assert_eq!(keys(&[2]).open(&sealed, "c"), Err(Unopened::UnknownKey));
        let anew = keys(&[2, 1])
            .seal(b"secret", "c", [0; NONCE_BYTES])
            .unwrap();
        assert_eq!(keys(&[2]).open(&anew, "c").unwrap(), b"secret");
    }

    #[rstest]
    #[case("")]
    #[case("v1")]
    #[case("v1.x")]
    #[case("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    fn a_malformed_encrypted_secret_is_reported(#[case] text: &str) {
        assert_eq!(keys(&[1]).open(text, "c"), Err(Unopened::Malformed));
    }

    #[test]
    fn keys_that_cannot_be_are_refused() {
        let parse = |texts: &[&str]| SealingKeys::parse(texts.iter().copied()).map(drop);
        assert_eq!(parse(&[]), Err(KeyError::None));
        for bad in [
            "",
            "x",
            &BASE64_STANDARD.encode([0; KEY_BYTES - 1]),
            &"0".repeat(64),
        ] {
            assert_eq!(parse(&[bad]), Err(KeyError::Form), "{bad}");
        }
        assert_eq!(parse(&[&key(1), &key(1)]), Err(KeyError::Twice));
        assert_eq!(format!("{:?}", keys(&[1, 2])), "SealingKeys(2)");
    }
}
