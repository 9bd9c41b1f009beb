//! What is kept of messages: their journal, their dead letters, the replays of those, and the
//! idempotency keys of producers.
//!
//! Invariant: everything that a queue may bring twice ([`Journal::record`],
//! [`DeadLetters::bury`]) changes nothing the second time, in whatever order it comes.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use roundtrip_model::{
    ChannelId, DeadReason, Entry, MessageId, ReplayId, SessionId, State, decision::DeadKind,
    journal::Content,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::StoreError;

/// The most messages, or dead letters, on one page.
pub const MAX_PAGE: u16 = 1000;

/// What happened to messages.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// Records entries, of many messages at once.
    ///
    /// # Errors
    /// [`StoreError::Away`]; some of them may have been recorded, and recording all of them again
    /// completes it.
    async fn record(&self, entries: &[Entry]) -> Result<(), StoreError>;

    /// A message and its entries by time and then by id, the latest [`MAX_ENTRIES`] of them.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    async fn message(
        &self,
        id: &MessageId,
    ) -> Result<Option<(MessageRecord, Vec<Entry>)>, StoreError>;

    /// Messages that match, by id, the latest first: later messages do not disturb the order.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    async fn messages(
        &self,
        filter: &MessageFilter,
        after: Option<&MessageId>,
        limit: u16,
        detail: Detail,
    ) -> Result<Vec<MessageRecord>, StoreError>;

    /// How many messages match.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    async fn count_messages(&self, filter: &MessageFilter) -> Result<u64, StoreError>;
}

/// How much is read of each message of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// All of it. A content can be as long as a request: mind the limit.
    Whole,
    /// All but its content, which is not read.
    Outline,
}

/// The most entries that a timeline shows.
pub const MAX_ENTRIES: usize = 1000;

/// What the journal knows of a message. Its state is the greatest position of its entries.
#[derive(Debug, Clone, Serialize)]
pub struct MessageRecord {
    /// The message; its id also tells when it was accepted.
    pub message_id: MessageId,
    /// Its channel.
    pub channel_id: ChannelId,
    /// Its session.
    pub session_id: SessionId,
    /// Where it stands.
    pub state: State,
    /// How many times it was replayed.
    pub round: u32,
    /// When the latest entry happened.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
    /// What it says; none while its `Accepted` entry has not come, and in an outline.
    #[serde(skip)]
    pub content: Option<Content>,
}

/// Which messages; what is left out does not count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MessageFilter {
    /// These messages and no others.
    #[serde(rename = "ids", skip_serializing_if = "Option::is_none")]
    pub message_ids: Option<Vec<MessageId>>,
    /// Of this session.
    #[serde(rename = "session_id", skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// Of this channel.
    #[serde(rename = "channel_id", skip_serializing_if = "Option::is_none")]
    pub channel: Option<ChannelId>,
    /// Of these channels and no others.
    #[serde(rename = "channel_ids", skip_serializing_if = "Option::is_none")]
    pub channels: Option<Vec<ChannelId>>,
    /// In this state now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// Accepted at this time or later.
    #[serde(
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub since: Option<OffsetDateTime>,
    /// Accepted before this time.
    #[serde(
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub until: Option<OffsetDateTime>,
}

impl MessageFilter {
    /// Between which ids the messages lie that were accepted in the time asked for: from the first
    /// on, and before the second. An id begins with the milliseconds of its making, so these
    /// beginnings of ids compare with whole ones as texts.
    pub(crate) fn id_bounds(&self) -> (Option<String>, Option<String>) {
        let bound = |at: OffsetDateTime| {
            // The first millisecond that is not before this time.
            first_message_id(-((-at.unix_timestamp_nanos()).div_euclid(1_000_000)))
        };
        (self.since.map(bound), self.until.map(bound))
    }
}

/// How the ids of messages begin that were made in this millisecond since 1970.
pub(crate) fn first_message_id(millis: i128) -> String {
    format!("msg_{:012x}", millis.clamp(0, MAX_ID_MILLIS))
}

/// The greatest time that an id holds: 48 bits of milliseconds.
const MAX_ID_MILLIS: i128 = (1 << 48) - 1;

/// Where parcels lie that no further try will be made of.
#[async_trait]
pub trait DeadLetters: Send + Sync + 'static {
    /// Keeps dead letters.
    ///
    /// # Errors
    /// [`StoreError::Away`], as for [`Journal::record`].
    async fn bury(&self, letters: &[DeadLetter]) -> Result<(), StoreError>;

    /// Dead letters that match and were not replayed, by [`DeadLetter::dead_id`], the smallest
    /// first.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    async fn dead_letters(
        &self,
        filter: &DeadFilter,
        after: Option<&str>,
        limit: u16,
    ) -> Result<Vec<DeadLetter>, StoreError>;

    /// How many match and were not replayed.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    async fn count_dead_letters(&self, filter: &DeadFilter) -> Result<u64, StoreError>;

    /// Says of these that they were replayed.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    async fn mark_replayed(&self, dead_ids: &[String], by: &ReplayId) -> Result<(), StoreError>;

    /// How many behind `after` were marked by this replay: what it had done and not yet counted when
    /// its process died.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    async fn count_replayed(&self, by: &ReplayId, after: Option<&str>) -> Result<u64, StoreError>;

    /// Removes those that match and were not replayed; says how many.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    async fn purge_dead_letters(&self, filter: &DeadFilter) -> Result<u64, StoreError>;
}

/// Which queue a dead letter came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadQueue {
    /// A message that its channel did not take.
    Outbound,
    /// An answer that the sessions server did not take.
    Callbacks,
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    /// The parcel's id and its round: what died again after a replay is another letter.
    pub dead_id: String,
    /// Which queue it came from.
    pub queue: DeadQueue,
    /// The parcel's own id (`msg_…`, `cb_…`), which a replay keeps.
    pub parcel_id: String,
    /// The message, where it is known.
    pub message_id: Option<MessageId>,
    /// Its channel, where it is known.
    pub channel_id: Option<ChannelId>,
    /// Its session, where it is known.
    pub session_id: Option<SessionId>,
    /// Why it is dead, and what the last try came to.
    pub reason: DeadReason,
    /// The tries that were made.
    pub tries: u32,
    /// How many times it had been replayed.
    pub round: u32,
    /// When Roundtrip accepted it.
    #[serde(with = "time::serde::rfc3339")]
    pub accepted_at: OffsetDateTime,
    /// When it was found in the dead queue.
    #[serde(with = "time::serde::rfc3339")]
    pub dead_at: OffsetDateTime,
    /// The parcel's body, as it is put back.
    #[serde(skip)]
    pub body: Bytes,
}

/// Which dead letters; what is left out does not count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeadFilter {
    /// These and no others, by `dead_id` or by the parcel's own id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<String>>,
    /// From this queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<DeadQueue>,
    /// Of this channel.
    #[serde(rename = "channel_id", skip_serializing_if = "Option::is_none")]
    pub channel: Option<ChannelId>,
    /// Of these channels and no others.
    #[serde(rename = "channel_ids", skip_serializing_if = "Option::is_none")]
    pub channels: Option<Vec<ChannelId>>,
    /// Of this session.
    #[serde(rename = "session_id", skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// For this kind of reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<DeadKind>,
    /// Dead at this time or later.
    #[serde(
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub since: Option<OffsetDateTime>,
    /// Dead before this time.
    #[serde(
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub until: Option<OffsetDateTime>,
}

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

/// Idempotency keys: the first answer to each, for a while.
#[async_trait]
pub trait Idempotency: Send + Sync + 'static {
    /// Takes the key for a request with this fingerprint, which would get this message id, until
    /// `lease` has passed or the request is completed or released.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    async fn reserve(
        &self,
        key: &str,
        fingerprint: &str,
        message_id: &MessageId,
        now: OffsetDateTime,
        lease: Duration,
    ) -> Result<Reservation, StoreError>;

    /// The request was enqueued.
    ///
    /// # Errors
    /// [`StoreError::Away`]; the reservation then runs out, and a repeat takes it over.
    async fn complete(&self, key: &str, message_id: &MessageId) -> Result<(), StoreError>;

    /// The request was not enqueued: as if it had never come.
    ///
    /// # Errors
    /// [`StoreError::Away`], as for [`Idempotency::complete`].
    async fn release(&self, key: &str, message_id: &MessageId) -> Result<(), StoreError>;
}

/// What became of a [`Idempotency::reserve`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reservation {
    /// The key is this request's. The message id is the one to use: the caller's own, or that of
    /// an earlier request whose lease ran out, which may have been enqueued or not.
    Taken(MessageId),
    /// Another request has the key at this moment.
    UnderWay,
    /// The first request was enqueued as this message.
    Done(MessageId),
    /// The key was used for a request with another fingerprint.
    Mismatch,
}
