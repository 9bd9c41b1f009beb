//! The journal: what happened to messages.
//!
//! Invariant: a message's state is the greatest position among its entries, in any order of
//! arrival.

use std::borrow::Cow;

use async_trait::async_trait;
use roundtrip_model::{
    CallbackId, ChannelId, Entry, MessageId, MessageKind, SessionId, State, millis,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use time::OffsetDateTime;

use super::{AnswerRecord, Answers, Conversation, MessageRecord, TurnCursor, first_message_id};
use crate::{QueryError, Unavailable};

#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// Records entries of any number of messages. After an error some may have been recorded;
    /// recording all again completes them.
    async fn record(&self, entries: &[Entry]) -> Result<(), Unavailable>;

    /// A message and its entries, in the order of time and then id. If there are more than
    /// [`MAX_ENTRIES`], the first [`FIRST_ENTRIES`] and the latest.
    async fn message(
        &self,
        id: &MessageId,
    ) -> Result<Option<(MessageRecord, Vec<Entry>)>, Unavailable>;

    /// The answers to a message whose content was recorded, in the order of time and then id. If
    /// there are more than [`MAX_ANSWERS`], or more than [`MAX_PAGE_BYTES`](crate::MAX_PAGE_BYTES),
    /// the latest.
    async fn answers(&self, id: &MessageId) -> Result<Answers, Unavailable>;

    /// The answer to a message with this id, or the first one if there is no id, if its content was
    /// recorded.
    async fn answer(
        &self,
        message: &MessageId,
        which: Option<&CallbackId>,
    ) -> Result<Option<AnswerRecord>, Unavailable>;

    /// The states of those of these messages that are known, at most [`MAX_PAGE`](crate::MAX_PAGE).
    async fn states(&self, ids: &[MessageId]) -> Result<Vec<(MessageId, State)>, Unavailable>;

    /// The oldest message in this state.
    async fn oldest(&self, state: State) -> Result<Option<MessageId>, Unavailable>;

    /// The delivered messages whose answer was due at this time or before, the earliest first, without
    /// their content. A message is among them until an entry records that it is overdue or answered.
    async fn unanswered(
        &self,
        due_at: OffsetDateTime,
        limit: u16,
    ) -> Result<Vec<MessageRecord>, Unavailable>;

    /// What was said in a session after the cursor, in channels that the caller may see (`None`: in
    /// all). A page ends at its limit or at [`MAX_PAGE_BYTES`](crate::MAX_PAGE_BYTES), but has at least
    /// one turn if any is left. Answers of earlier versions, which kept no content, are missing, and so
    /// are turns that were recorded after a later turn was read.
    async fn conversation(
        &self,
        session: &SessionId,
        channels: Option<&[ChannelId]>,
        after: Option<&TurnCursor>,
        limit: u16,
    ) -> Result<Conversation, QueryError>;

    /// Matching messages in descending order of their ids, so that new messages do not change later
    /// pages. With [`Detail::Whole`] a page ends at [`MAX_PAGE_BYTES`](crate::MAX_PAGE_BYTES) or at
    /// its limit, but has at least one message if any is left.
    async fn messages(
        &self,
        filter: &MessageFilter,
        after: Option<&MessageId>,
        limit: u16,
        detail: Detail,
    ) -> Result<Vec<MessageRecord>, QueryError>;

    async fn count_messages(&self, filter: &MessageFilter) -> Result<u64, QueryError>;
}

/// How much of each message, or dead letter, a page contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Everything. A content can be as long as a request.
    Whole,
    /// Everything except the content or body, which is not read.
    Outline,
}

/// The most entries that a timeline shows.
pub const MAX_ENTRIES: usize = 1000;
/// How many of them are the first ones, so that the acceptance and the first deliveries always
/// show.
pub const FIRST_ENTRIES: usize = 100;

/// A timeline in ascending order. `latest` has the latest entries, the latest first. `first` has
/// the first entries, or is empty if `latest` includes them.
pub(crate) fn timeline<E>(mut latest: Vec<E>, first: Vec<E>) -> Vec<E> {
    latest.truncate(MAX_ENTRIES - first.len());
    latest.reverse();
    first.into_iter().chain(latest).collect()
}

/// A filter on messages. A field that is `None` matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MessageFilter {
    #[serde(rename = "ids", skip_serializing_if = "Option::is_none")]
    pub message_ids: Option<Vec<MessageId>>,
    #[serde(rename = "session_id", skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    #[serde(rename = "channel_id", skip_serializing_if = "Option::is_none")]
    pub channel: Option<ChannelId>,
    #[serde(rename = "channel_ids", skip_serializing_if = "Option::is_none")]
    pub channels: Option<Vec<ChannelId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<MessageKind>,
    /// In this state now, or accepted by its channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<StateFilter>,
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

/// A filter on states. In JSON the name of a state, or `taken`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateFilter {
    Is(State),
    /// Accepted by its channel, whatever happened to the answer: delivered, overdue, answered,
    /// forwarded, or dead because its answer is.
    Taken,
}

impl StateFilter {
    const TAKEN: &str = "taken";
    const NAMES: &[&str] = &[
        "queued",
        "delivering",
        "retrying",
        "waiting",
        "cancelled",
        "delivered",
        "overdue",
        "answered",
        "forwarded",
        "dead",
        "replayed",
        Self::TAKEN,
    ];

    pub(crate) fn states(self) -> Vec<State> {
        match self {
            Self::Is(state) => vec![state],
            Self::Taken => vec![
                State::Delivered,
                State::Overdue,
                State::Answered,
                State::Forwarded,
                State::Dead,
            ],
        }
    }
}

impl Serialize for StateFilter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::Is(state) => state.as_str(),
            Self::Taken => Self::TAKEN,
        })
    }
}

impl<'de> Deserialize<'de> for StateFilter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Cow::<str>::deserialize(deserializer)?;
        if name == Self::TAKEN {
            return Ok(Self::Taken);
        }
        State::named(&name)
            .map(Self::Is)
            .ok_or_else(|| D::Error::unknown_variant(&name, Self::NAMES))
    }
}

impl MessageFilter {
    /// The ids of messages accepted in the filter's time range: from the first, and before the
    /// second. An id begins with the milliseconds of its creation, so these prefixes compare with
    /// whole ids as text.
    pub(crate) fn id_bounds(&self) -> (Option<String>, Option<String>) {
        let bound = |at: OffsetDateTime| first_message_id(millis::not_before(at));
        (self.since.map(bound), self.until.map(bound))
    }
}
