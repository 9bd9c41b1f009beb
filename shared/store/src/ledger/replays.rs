//! Replays: work that outlives the process which does it.
//!
//! Invariant: a replay is at work under one lease at a time, and what follows from a lease that was
//! lost is not written down.

use std::time::Duration;

use async_trait::async_trait;
use roundtrip_model::ReplayId;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{DeadFilter, MessageFilter};
use crate::StoreError;

/// Replays: work that outlives the process which does it.
#[async_trait]
pub trait Replays: Send + Sync + 'static {
    /// Keeps a new replay.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    async fn create_replay(&self, replay: &Replay) -> Result<(), StoreError>;

    /// The replay with this id.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    async fn replay(&self, id: &ReplayId) -> Result<Option<Replay>, StoreError>;

    /// Takes a running replay whose lease nobody holds, the owner itself not either, if there is
    /// one, for this long.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    async fn claim_replay(
        &self,
        owner: &str,
        now: OffsetDateTime,
        lease: Duration,
    ) -> Result<Option<Replay>, StoreError>;

    /// Writes down how far a replay has come, and holds its lease until `lease_until`. Answers
    /// with the replay's status: what is no longer running was cancelled, and how far it came is
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

/// What is replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplaySource {
    /// Dead letters.
    DeadLetters(DeadFilter),
    /// Messages, delivered ones too.
    Messages(MessageFilter),
}

/// A replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    /// Its id.
    pub replay_id: ReplayId,
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
    /// How many could not be: their content is not known.
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
