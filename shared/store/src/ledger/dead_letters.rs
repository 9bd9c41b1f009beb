//! Storage for dead letters.
//!
//! Invariant: a replayed dead letter is no longer found. A message that fails again after its
//! replay is a new dead letter.

use async_trait::async_trait;
use bytes::Bytes;
use roundtrip_model::{
    ChannelId, DeadReason, MessageId, MessageKind, ReplayId, SessionId, decision::DeadKind,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::Detail;
use crate::{QueryError, Unavailable};

#[async_trait]
pub trait DeadLetters: Send + Sync + 'static {
    /// Stores dead letters. One that is already stored is unchanged.
    async fn insert(&self, letters: &[DeadLetter]) -> Result<(), Unavailable>;

    /// Matching dead letters that were not replayed, in ascending order of [`DeadLetter::dead_id`].
    /// With [`Detail::Whole`] a page ends at [`MAX_PAGE_BYTES`](crate::MAX_PAGE_BYTES) or at its
    /// limit, but has at least one dead letter if any is left.
    async fn dead_letters(
        &self,
        filter: &DeadFilter,
        after: Option<&str>,
        limit: u16,
        detail: Detail,
    ) -> Result<Vec<DeadLetter>, QueryError>;

    /// How many dead letters match and were not replayed.
    async fn count_dead_letters(&self, filter: &DeadFilter) -> Result<u64, QueryError>;

    async fn mark_replayed(&self, dead_ids: &[String], by: &ReplayId) -> Result<(), Unavailable>;

    /// How many dead letters after `after` this replay has marked. Finds the work that it had done
    /// and not yet counted when its process died.
    async fn count_replayed(&self, by: &ReplayId, after: Option<&str>) -> Result<u64, Unavailable>;

    /// Removes the matching dead letters that were not replayed, and returns their number.
    async fn purge_dead_letters(&self, filter: &DeadFilter) -> Result<u64, Unavailable>;
}

/// The queue that a dead letter came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadQueue {
    Outbound,
    Callbacks,
    Notices,
}

impl DeadQueue {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Callbacks => "callbacks",
            Self::Notices => "notices",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    /// The id of the message or answer, and its replay count: if it fails again after a replay, it
    /// is a new dead letter.
    pub dead_id: String,
    pub queue: DeadQueue,
    /// The id of the message, answer or notice (`msg_…`, `cb_…`, `ntc_…`), which a replay keeps.
    pub webhook_id: String,
    pub message_id: Option<MessageId>,
    pub channel_id: Option<ChannelId>,
    pub session_id: Option<SessionId>,
    /// Why it is a dead letter, and the outcome of the last attempt.
    pub reason: DeadReason,
    pub attempts: u32,
    pub replay_count: u32,
    #[serde(with = "time::serde::rfc3339")]
    pub accepted_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub dead_at: OffsetDateTime,
    /// The body, as a replay puts it back into the queue. Empty with [`Detail::Outline`], or if it
    /// was erased.
    #[serde(skip)]
    pub body: Bytes,
    /// When its contents were to be erased, if they were.
    #[serde(
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub contents_erased_at: Option<OffsetDateTime>,
}

impl DeadLetter {
    /// The kind of the message that it belongs to. An inbound message is in the callbacks queue under
    /// its own id, and an answer is not.
    pub fn kind(&self) -> MessageKind {
        let is_message = self.webhook_id.parse::<MessageId>().is_ok();
        if self.queue == DeadQueue::Callbacks && is_message {
            MessageKind::Inbound
        } else {
            MessageKind::Outbound
        }
    }
}

/// A filter on dead letters. A field that is `None` matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeadFilter {
    /// Only these, by `dead_id` or by the id of the message or answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<DeadQueue>,
    #[serde(rename = "channel_id", skip_serializing_if = "Option::is_none")]
    pub channel: Option<ChannelId>,
    #[serde(rename = "channel_ids", skip_serializing_if = "Option::is_none")]
    pub channels: Option<Vec<ChannelId>>,
    #[serde(rename = "session_id", skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
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
