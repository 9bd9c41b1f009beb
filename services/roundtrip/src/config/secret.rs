//! Secret texts of the configuration.
//!
//! Invariant: a secret is never shown, not even by `Debug`.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor},
};

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Secret(pub(super) SecretString);

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }
}

/// Several secrets: a list, or one comma-separated text as in environments.
#[derive(Debug, Clone)]
pub(crate) struct SecretList(Vec<SecretString>);

impl SecretList {
    pub(super) fn of(text: &str) -> Self {
        let parts = text.split(',').map(str::trim);
        Self(
            parts
                .filter(|part| !part.is_empty())
                .map(SecretString::from)
                .collect(),
        )
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(ExposeSecret::expose_secret)
    }
}

impl PartialEq for SecretList {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<'de> Deserialize<'de> for SecretList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Written)
    }
}

struct Written;

impl<'de> Visitor<'de> for Written {
    type Value = SecretList;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string in quotes, or a list of strings")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<SecretList, E> {
        Ok(SecretList::of(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<SecretList, A::Error> {
        let mut secrets = Vec::new();
        while let Some(secret) = list.next_element()? {
            secrets.push(secret);
        }
        Ok(SecretList(secrets))
    }
}
