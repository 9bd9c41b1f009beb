//! The principal of a call, and what it may do.

use std::{collections::BTreeSet, fmt, sync::Arc};

use axum::{extract::FromRequestParts, http::request::Parts};
use roundtrip_model::{ApiKeyId, ChannelId, KeyBounds, KeyRole};
use tokio::time::Instant;

use super::key_snapshot::CachedKey;
use crate::problem::{Kind, Problem};

#[derive(Clone)]
pub(crate) enum Principal {
    /// Without a key, where none is required.
    Anybody,
    /// The key from the configuration.
    Configured,
    Key(Arc<CachedKey>),
}

impl Principal {
    fn key(&self) -> Option<&CachedKey> {
        match self {
            Self::Anybody | Self::Configured => None,
            Self::Key(cached) => Some(cached),
        }
    }

    pub(crate) fn role(&self) -> KeyRole {
        self.key()
            .map_or(KeyRole::Operator, |cached| cached.key.role)
    }

    /// The channels that the principal is limited to, if it is.
    pub(crate) fn channels(&self) -> Option<&BTreeSet<ChannelId>> {
        self.key()?.key.channels.as_ref()
    }

    /// Whether the principal may see this channel. What belongs to no channel is visible only
    /// without a limit.
    pub(crate) fn sees(&self, channel: Option<&ChannelId>) -> bool {
        self.channels()
            .is_none_or(|own| channel.is_some_and(|channel| own.contains(channel)))
    }

    /// Whether the principal may see something that is limited to these channels.
    pub(crate) fn covers<'a>(
        &self,
        channels: Option<impl IntoIterator<Item = &'a ChannelId>>,
    ) -> bool {
        match (self.channels(), channels) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(channels)) => channels.into_iter().all(|one| own.contains(one)),
        }
    }

    /// The bounds of the keys that the principal makes, lists and revokes.
    pub(crate) fn bounds(&self) -> KeyBounds {
        let bounds = self.key().map(|cached| KeyBounds::of(&cached.key));
        bounds.unwrap_or_default()
    }

    /// The key against whose quota new keys count.
    pub(crate) fn counts_under(&self) -> Option<ApiKeyId> {
        self.key()?.key.counts_under()
    }

    pub(crate) fn allow(&self, channel: &ChannelId) -> Result<(), Problem> {
        if self.sees(Some(channel)) {
            Ok(())
        } else {
            Err(Problem::other_channel(channel.as_str()))
        }
    }

    /// As [`Principal::allow`], for a text in the place of a channel's id.
    pub(crate) fn allow_named(&self, channel: &str) -> Result<(), Problem> {
        match self.channels() {
            Some(own) if !own.iter().any(|one| one.as_str() == channel) => {
                Err(Problem::other_channel(channel))
            }
            _ => Ok(()),
        }
    }

    /// The channels that a search is limited to. A channel that the search names must be one of
    /// them.
    pub(crate) fn visible_channels(
        &self,
        named: Option<&ChannelId>,
    ) -> Result<Option<Vec<ChannelId>>, Problem> {
        if let Some(named) = named {
            self.allow(named)?;
        }
        Ok(self.channels().map(|own| own.iter().cloned().collect()))
    }

    /// The name of an idempotency key in the store: each principal has its own. No idempotency key
    /// holds a line feed, so the names of two principals never collide.
    pub(crate) fn idempotency_key(&self, key: &str) -> String {
        match self {
            Self::Anybody => key.to_owned(),
            Self::Configured | Self::Key(_) => format!("{self}\n{key}"),
        }
    }

    /// Counts a call against the rate of the principal's key.
    pub(super) fn take_rate(&self, now: Instant) -> Result<(), Problem> {
        self.key().map_or(Ok(()), |cached| cached.take_rate(now))
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anybody => f.write_str("anybody"),
            Self::Configured => f.write_str("operator_key"),
            Self::Key(cached) => cached.key.key_id.fmt(f),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Principal {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            tracing::error!(path = parts.uri.path(), "an open call has no principal");
            Problem::from(Kind::Internal)
        })
    }
}
