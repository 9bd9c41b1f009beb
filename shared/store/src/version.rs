//! A channel's version: a digest of its content.

use std::fmt;

use roundtrip_model::StoredChannel;

#[derive(Debug, Clone, PartialEq)]
pub struct Versioned {
    pub channel: StoredChannel,
    /// Differs after every change of the channel's five fields, by any client.
    pub version: Version,
}

/// A version of a channel: a digest of its five fields, so that it also shows changes by other
/// clients of the database.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version(String);

impl Version {
    #[must_use]
    pub fn of(channel: &StoredChannel) -> Self {
        Self(digest(&serde_json::to_vec(channel).unwrap_or_default()))
    }

    /// A version as a client names it. Any text is valid; it may match no version.
    #[must_use]
    pub fn named(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// 128 bits of a digest, in hexadecimal.
pub(crate) fn digest(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(bytes);
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    format!("{:032x}", u128::from_be_bytes(half))
}
