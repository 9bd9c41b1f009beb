//! Where parcels lie that no further try will be made of.
//!
//! Invariant: a letter that was replayed is found no longer, and what dies again after that is
//! another letter.

use async_trait::async_trait;
use bytes::Bytes;
use roundtrip_model::{ChannelId, DeadReason, MessageId, ReplayId, SessionId, decision::DeadKind};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::Detail;
use crate::StoreError;

/// Where parcels lie that no further try will be made of.
#[async_trait]
pub trait DeadLetters: Send + Sync + 'static {
    /// Keeps dead letters.
    ///
    /// # Errors
    /// [`StoreError::Away`], as for [`Journal::record`](super::Journal::record).
    async fn bury(&self, letters: &[DeadLetter]) -> Result<(), StoreError>;

    /// Dead letters that match and were not replayed, by [`DeadLetter::dead_id`], the smallest
    /// first. Whole ones end at [`MAX_PAGE_BYTES`](crate::MAX_PAGE_BYTES) where that is before the
    /// limit, but one there is at the least if any is left.
    ///
    /// # Errors
    /// [`StoreError::TooCostly`], [`StoreError::TooBusy`], [`StoreError::Away`].
    async fn dead_letters(
        &self,
        filter: &DeadFilter,
        after: Option<&str>,
        limit: u16,
        detail: Detail,
    ) -> Result<Vec<DeadLetter>, StoreError>;

    /// How many match and were not replayed.
    ///
    /// # Errors
    /// As for [`DeadLetters::dead_letters`].
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
    /// The parcel's body, as it is put back; empty in an outline.
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
