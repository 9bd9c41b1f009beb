//! The limits of a key.
//!
//! Invariant: one function compares what two keys may do. What a key may make, see and revoke of
//! other keys follows from it, so that no operation bypasses another's check.

use std::collections::BTreeSet;

use time::OffsetDateTime;

use super::ApiKey;
use crate::ids::ChannelId;

/// What a key is limited to. `None` means no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyBounds {
    pub channels: Option<BTreeSet<ChannelId>>,
    pub rate_per_second: Option<u32>,
    pub expires_at: Option<OffsetDateTime>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScopeViolation {
    /// It may use all channels, or channels outside the limit.
    Channels,
    /// Its rate is higher, or it has none.
    Rate,
    /// It expires later, or never.
    End,
}

impl KeyBounds {
    /// The key's own limits. The configured default rate for keys without a rate does not count,
    /// because the key's maker did not set it.
    pub fn of(key: &ApiKey) -> Self {
        Self {
            channels: key.channels.clone(),
            rate_per_second: key.rate_per_second,
            expires_at: key.expires_at,
        }
    }

    /// The limit that this key exceeds. `None` if a key with these limits could have made it.
    pub fn exceeded_by(&self, key: &ApiKey) -> Option<ScopeViolation> {
        let is_within = |own: &BTreeSet<ChannelId>| {
            let channels = key.channels.as_ref();
            channels.is_some_and(|channels| channels.is_subset(own))
        };
        if !self.channels.as_ref().is_none_or(is_within) {
            return Some(ScopeViolation::Channels);
        }
        let is_as_slow = |own| key.rate_per_second.is_some_and(|rate| rate <= own);
        if !self.rate_per_second.is_none_or(is_as_slow) {
            return Some(ScopeViolation::Rate);
        }
        let ends_with_it = |own| key.expires_at.is_some_and(|end| end <= own);
        if !self.expires_at.is_none_or(ends_with_it) {
            return Some(ScopeViolation::End);
        }
        None
    }
}
