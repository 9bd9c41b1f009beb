//! Replays: work that outlives the process which does it.
//!
//! Invariant: a replay is at work under one lease at a time, and what follows from a lease that was
//! lost is not written down. A lease is given up by ending it early, so the replay that has waited
//! longest is always the next one to be claimed.

use std::time::Duration;

use async_trait::async_trait;
use roundtrip_model::{ChannelId, ReplayId};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{DeadFilter, MessageFilter};
use crate::StoreError;

/// The most replays that one key has running at once.
pub const MAX_RUNNING_REPLAYS: u16 = 10;

/// Replays: work that outlives the process which does it.
#[async_trait]
pub trait Replays: Send + Sync + 'static {
    /// Keeps a new replay.
    ///
    /// # Errors
    /// [`StoreError::TooManyReplays`] where its key has [`MAX_RUNNING_REPLAYS`] running. Calls at the
    /// same moment may go beyond that, each by one. [`StoreError::Away`].
    async fn create_replay(&self, replay: &Replay) -> Result<(), StoreError>;

    /// Replays that match, the latest first.
    ///
    /// # Errors
    /// [`StoreError::TooCostly`], [`StoreError::TooBusy`], [`StoreError::Away`].
    async fn replays(
        &self,
        filter: &ReplayFilter,
        after: Option<&ReplayId>,
        limit: u16,
    ) -> Result<Vec<Replay>, StoreError>;

    /// The replay with this id.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    async fn replay(&self, id: &ReplayId) -> Result<Option<Replay>, StoreError>;

    /// Leases a running replay for this long, if there is one whose lease has ended: of several the
    /// one whose lease ended first. A new replay comes before all others. `owner` names one lease and
    /// no other.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    async fn claim_replay(
        &self,
        owner: &str,
        now: OffsetDateTime,
        lease: Duration,
    ) -> Result<Option<Replay>, StoreError>;

    /// Writes down how far a replay has come, and holds its lease until `lease_until`; a time that
    /// has come gives the lease up. Answers with the replay's status: what is no longer running was cancelled, and how far it came is
    /// written down all the same. `None` where the lease is another's by now.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    async fn advance_replay(
        &self,
        id: &ReplayId,
        owner: &str,
        progress: &Progress,
        lease_until: OffsetDateTime,
    ) -> Result<Option<ReplayStatus>, StoreError>;

    /// Ends a running replay; one that has ended stays as it is. `None` where there is none.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    async fn end_replay(
        &self,
        id: &ReplayId,
        status: ReplayStatus,
        now: OffsetDateTime,
    ) -> Result<Option<Replay>, StoreError>;
}

/// Which replays; a field that is left out does not count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplayFilter {
    /// Limited to these channels, or to some of them, and to no other.
    pub channels: Option<Vec<ChannelId>>,
    /// With this status.
    pub status: Option<ReplayStatus>,
}

/// What is replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplaySource {
    /// Dead letters.
    DeadLetters(DeadFilter),
    /// Messages, delivered ones too.
    Messages(MessageFilter),
}

impl ReplaySource {
    /// The channels that it is limited to, where it is.
    #[must_use]
    pub fn channels(&self) -> Option<Vec<&ChannelId>> {
        let (channel, channels) = match self {
            Self::DeadLetters(filter) => (&filter.channel, &filter.channels),
            Self::Messages(filter) => (&filter.channel, &filter.channels),
        };
        match (channel, channels) {
            (Some(channel), _) => Some(vec![channel]),
            (None, channels) => channels.as_ref().map(|channels| channels.iter().collect()),
        }
    }
}

/// A replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    /// Its id.
    pub replay_id: ReplayId,
    /// The key that asked for it: its running replays are counted together.
    #[serde(skip)]
    pub requested_by: String,
    /// What is replayed.
    pub source: ReplaySource,
    /// The most a second; none is as fast as it goes.
    pub rate_per_second: Option<u32>,
    /// Whether it goes on.
    pub status: ReplayStatus,
    /// How many matched when it was asked for.
    pub matched: u64,
    /// How far it is.
    pub progress: Progress,
    /// When it was asked for.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it ended.
    #[serde(with = "time::serde::rfc3339::option")]
    pub ended_at: Option<OffsetDateTime>,
}

/// How far a replay is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// How many were put back into their queue.
    pub replayed: u64,
    /// How many were not: they are still on their way, or their content is not known.
    pub skipped: u64,
    /// The last that was dealt with.
    pub cursor: Option<String>,
}

/// Whether a replay goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayStatus {
    /// It does.
    Running,
    /// It has come to its end.
    Done,
    /// An operator has ended it.
    Cancelled,
}
