//! Replays: work that continues when the process that runs it dies.
//!
//! Invariant: a replay runs under one lease at a time, and progress under a lost lease is not
//! recorded. A process yields a replay by ending its lease early. The replay that has waited
//! longest is claimed next.

use std::time::Duration;

use async_trait::async_trait;
use roundtrip_model::{ChannelId, ReplayId};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{AnswerFilter, DeadFilter, MessageFilter};
use crate::{QueryError, Unavailable};

/// The most running replays of one key.
pub const MAX_RUNNING_REPLAYS: u16 = 10;

#[derive(Debug, Clone, thiserror::Error)]
pub enum ReplayError {
    /// The limit on running replays of one key is reached.
    #[error("no more than {MAX_RUNNING_REPLAYS} replays of one key can run at once")]
    TooMany,
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Replays: work that continues when the process that runs it dies.
#[async_trait]
pub trait Replays: Send + Sync + 'static {
    /// Stores a new replay.
    ///
    /// # Errors
    ///
    /// [`ReplayError::TooMany`] if its key has [`MAX_RUNNING_REPLAYS`] running. Concurrent calls may
    /// exceed the limit, each by one.
    async fn create_replay(&self, replay: &Replay) -> Result<(), ReplayError>;

    /// Matching replays, the latest first.
    async fn replays(
        &self,
        filter: &ReplayFilter,
        after: Option<&ReplayId>,
        limit: u16,
    ) -> Result<Vec<Replay>, QueryError>;

    async fn replay(&self, id: &ReplayId) -> Result<Option<Replay>, Unavailable>;

    /// Leases a running replay for this long, if there is one without a lease. Among several it is
    /// the one whose lease ended first; new replays come before all others. `owner` is unique to
    /// each lease.
    async fn claim_replay(
        &self,
        owner: &str,
        now: OffsetDateTime,
        lease: Duration,
    ) -> Result<Option<Replay>, Unavailable>;

    /// Records a replay's progress, and extends its lease to `lease_until`; a time in the past ends
    /// the lease. Returns the replay's status. If the replay was cancelled its progress is still
    /// recorded. `None` if another owner has the lease.
    async fn advance_replay(
        &self,
        id: &ReplayId,
        owner: &str,
        progress: &Progress,
        lease_until: OffsetDateTime,
    ) -> Result<Option<ReplayStatus>, Unavailable>;

    /// Ends a running replay. One that has ended is unchanged. `None` if there is no such replay.
    async fn end_replay(
        &self,
        id: &ReplayId,
        status: ReplayStatus,
        now: OffsetDateTime,
    ) -> Result<Option<Replay>, Unavailable>;
}

/// A filter on replays. A field that is `None` matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplayFilter {
    /// Limited to these channels or to some of them.
    pub channels: Option<Vec<ChannelId>>,
    pub status: Option<ReplayStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplaySource {
    DeadLetters(DeadFilter),
    /// Messages, including delivered ones.
    Messages(MessageFilter),
    /// Answers, including forwarded ones.
    Answers(AnswerFilter),
}

impl ReplaySource {
    #[must_use]
    pub fn channels(&self) -> Option<Vec<&ChannelId>> {
        let (channel, channels) = match self {
            Self::DeadLetters(filter) => (&filter.channel, &filter.channels),
            Self::Messages(filter) => (&filter.channel, &filter.channels),
            Self::Answers(filter) => (&filter.channel, &filter.channels),
        };
        match (channel, channels) {
            (Some(channel), _) => Some(vec![channel]),
            (None, channels) => channels.as_ref().map(|channels| channels.iter().collect()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    pub replay_id: ReplayId,
    /// The key that requested it. The limit on running replays applies to each key.
    #[serde(skip)]
    pub requested_by: String,
    pub source: ReplaySource,
    /// The most replayed in a second; `None` means no limit.
    pub rate_per_second: Option<u32>,
    pub status: ReplayStatus,
    pub matched: u64,
    pub progress: Progress,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    pub ended_at: Option<OffsetDateTime>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub replayed: u64,
    pub skipped: u64,
    /// The first of these, at most [`MAX_NAMED_SKIPS`].
    #[serde(default)]
    pub skips: Vec<Skip>,
    pub cursor: Option<String>,
}

/// The most skipped messages and answers that a replay names.
pub const MAX_NAMED_SKIPS: usize = 100;

/// A message, answer or dead letter that a replay skipped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skip {
    pub id: String,
    pub reason: SkipReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// It is still being delivered or forwarded.
    UnderWay,
    /// Its contents were erased.
    ContentsErased,
    /// Its content is not known.
    ContentUnknown,
    /// Only the beginning of its content is kept.
    ContentTruncated,
    /// The broker does not accept its size.
    TooLarge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayStatus {
    Running,
    Done,
    Cancelled,
}
