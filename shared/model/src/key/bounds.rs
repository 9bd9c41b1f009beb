//! How far a key reaches.
//!
//! Invariant: there is one answer to whether one key may do more than another. What a key makes,
//! what it sees of others and what it revokes all follow from it, so none of them is a way around
//! another.

use std::collections::BTreeSet;

use time::OffsetDateTime;

use super::ApiKey;
use crate::ids::ChannelId;

/// What a key is limited to. What is none is not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyBounds {
    /// These channels.
    pub channels: Option<BTreeSet<ChannelId>>,
    /// So many requests a second.
    pub rate_per_second: Option<u32>,
    /// Until then.
    pub expires_at: Option<OffsetDateTime>,
}

/// In what a key reaches beyond bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beyond {
    /// It is for all channels, or for others.
    Channels,
    /// Its rate is higher, or it has none.
    Rate,
    /// It ends later, or never.
    End,
}

impl KeyBounds {
    /// The key's own. The rate that the configuration gives to keys which name none is nothing that
    /// whoever made the key has limited it to.
    #[must_use]
    pub fn of(key: &ApiKey) -> Self {
        Self {
            channels: key.channels.clone(),
            rate_per_second: key.rate_per_second,
            expires_at: key.expires_at,
        }
    }

    /// In what this key reaches beyond these; nothing where a key that is bound so could have made
    /// it.
    #[must_use]
    pub fn exceeded_by(&self, key: &ApiKey) -> Option<Beyond> {
        let is_within = |own: &BTreeSet<ChannelId>| {
            let channels = key.channels.as_ref();
            channels.is_some_and(|channels| channels.is_subset(own))
        };
        if !self.channels.as_ref().is_none_or(is_within) {
            return Some(Beyond::Channels);
        }
        let is_as_slow = |own| key.rate_per_second.is_some_and(|rate| rate <= own);
        if !self.rate_per_second.is_none_or(is_as_slow) {
            return Some(Beyond::Rate);
        }
        let ends_with_it = |own| key.expires_at.is_some_and(|end| end <= own);
        if !self.expires_at.is_none_or(ends_with_it) {
            return Some(Beyond::End);
        }
        None
    }
}
