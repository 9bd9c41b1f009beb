//! Whoever makes a call, and what they may do.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use axum::{extract::FromRequestParts, http::request::Parts};
use roundtrip_model::{ApiKeyId, ChannelId, KeyBounds, KeyRole};
use tokio::time::Instant;

use super::keyring::Known;
use crate::problem::Problem;

/// Whoever makes a call. A handler gets it by asking for it.
#[derive(Clone)]
pub(crate) enum Caller {
    /// Without a key, where none is needed.
    Anybody,
    /// With the key from the configuration.
    Configured,
    /// With a key from the store.
    Key(Arc<Known>),
}

impl Caller {
    pub(crate) fn role(&self) -> KeyRole {
        match self {
            Self::Anybody | Self::Configured => KeyRole::Operator,
            Self::Key(known) => known.key.role,
        }
    }

    /// The channels that the caller is limited to, where it is.
    pub(crate) fn channels(&self) -> Option<&BTreeSet<ChannelId>> {
        match self {
            Self::Anybody | Self::Configured => None,
            Self::Key(known) => known.key.channels.as_ref(),
        }
    }

    /// Whether the caller may know of this channel. What belongs to none is for those alone who are
    /// not limited.
    pub(crate) fn sees(&self, channel: Option<&ChannelId>) -> bool {
        self.channels()
            .is_none_or(|own| channel.is_some_and(|channel| own.contains(channel)))
    }

    /// Whether the caller may know of something that is limited to these channels.
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

    /// What the keys are within that the caller makes, sees and revokes.
    pub(crate) fn bounds(&self) -> KeyBounds {
        match self {
            Self::Anybody | Self::Configured => KeyBounds::default(),
            Self::Key(known) => KeyBounds::of(&known.key),
        }
    }

    /// What the keys are counted under that the caller makes.
    pub(crate) fn counts_under(&self) -> Option<ApiKeyId> {
        match self {
            Self::Anybody | Self::Configured => None,
            Self::Key(known) => known.key.counts_under(),
        }
    }

    /// Lets the caller use this channel, or says that it may not.
    pub(crate) fn allow(&self, channel: &ChannelId) -> Result<(), Problem> {
        if self.sees(Some(channel)) {
            Ok(())
        } else {
            Err(Problem::other_channel(channel.as_str()))
        }
    }

    /// As [`Caller::allow`], for what stands where a channel's id should.
    pub(crate) fn allow_named(&self, channel: &str) -> Result<(), Problem> {
        match self.channels() {
            Some(own) if !own.iter().any(|one| one.as_str() == channel) => {
                Err(Problem::other_channel(channel))
            }
            _ => Ok(()),
        }
    }

    /// The channels that a search is limited to. A channel that it names must be one of them.
    pub(crate) fn among(
        &self,
        named: Option<&ChannelId>,
    ) -> Result<Option<Vec<ChannelId>>, Problem> {
        if let Some(named) = named {
            self.allow(named)?;
        }
        Ok(self.channels().map(|own| own.iter().cloned().collect()))
    }

    /// The name under which the store has an idempotency key: each caller's are its own. The line
    /// feed is in no idempotency key, so no two callers' names meet.
    pub(crate) fn idempotency_key(&self, key: &str) -> String {
        match self {
            Self::Anybody => key.to_owned(),
            Self::Configured | Self::Key(_) => format!("{self}\n{key}"),
        }
    }

    /// How long until the caller may make a call; nothing where it may now, and then it is counted.
    pub(super) fn blocked_for(&self, now: Instant) -> Option<Duration> {
        match self {
            Self::Anybody | Self::Configured => None,
            Self::Key(known) => known.blocked_for(now),
        }
    }
}

/// Who it is, for logs.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anybody => f.write_str("anybody"),
            Self::Configured => f.write_str("operator_key"),
            Self::Key(known) => known.key.key_id.fmt(f),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            tracing::error!(
                path = parts.uri.path(),
                "a call is open that asks who makes it"
            );
            Problem::internal()
        })
    }
}
