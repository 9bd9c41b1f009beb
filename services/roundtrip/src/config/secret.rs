//! The texts of the configuration that are secret.
//!
//! Invariant: none of them is shown, by `Debug` neither.

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer};

/// A text that is shown nowhere.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Secret(pub(super) SecretString);

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }
}

/// Several of them: a list, or one text with commas in between, as environments have it.
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
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            One(SecretString),
            Several(Vec<SecretString>),
        }
        Ok(match Written::deserialize(deserializer)? {
            Written::One(text) => Self::of(text.expose_secret()),
            Written::Several(texts) => Self(texts),
        })
    }
}
