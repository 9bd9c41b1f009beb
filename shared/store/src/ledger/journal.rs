//! What happened to messages.
//!
//! Invariant: a message's state is the greatest position among its entries, in whatever order those
//! came.

use std::borrow::Cow;

use async_trait::async_trait;
use roundtrip_model::{ChannelId, Entry, MessageId, SessionId, State, journal::Content, millis};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use time::OffsetDateTime;

use crate::StoreError;

/// What happened to messages.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// Records entries, of many messages at once.
    ///
    /// # Errors
    /// [`StoreError::Away`]; some of them may have been recorded, and recording all of them again
    /// completes it.
    async fn record(&self, entries: &[Entry]) -> Result<(), StoreError>;

    /// A message and its entries by time and then by id. Where there are more than [`MAX_ENTRIES`],
    /// the first [`FIRST_ENTRIES`] and the latest.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    async fn message(
        &self,
        id: &MessageId,
    ) -> Result<Option<(MessageRecord, Vec<Entry>)>, StoreError>;

    /// Messages that match, by id, the latest first: later messages do not disturb the order. Whole
    /// ones end at [`MAX_PAGE_BYTES`](crate::MAX_PAGE_BYTES) where that is before the limit, but one
    /// there is at the least if any is left.
    ///
    /// # Errors
    /// [`StoreError::TooCostly`], [`StoreError::TooBusy`], [`StoreError::Away`].
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
    /// As for [`Journal::messages`].
    async fn count_messages(&self, filter: &MessageFilter) -> Result<u64, StoreError>;
}

/// How much is read of each message, or dead letter, of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// All of it. A content can be as long as a request.
    Whole,
    /// All but its content or body, which is not read.
    Outline,
}

/// The most entries that a timeline shows.
pub const MAX_ENTRIES: usize = 1000;
/// How many of them are the first: whatever comes later, the acceptance and the deliveries stay.
pub const FIRST_ENTRIES: usize = 100;

/// A timeline of the latest entries, the latest first, and where there may be more, of the first.
pub(crate) fn timeline<E>(mut latest: Vec<E>, first: Vec<E>) -> Vec<E> {
    latest.truncate(MAX_ENTRIES - first.len());
    latest.reverse();
    first.into_iter().chain(latest).collect()
}

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
    /// In this state now, or taken by its channel.
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

/// Which states; in JSON the name of a state, or `taken`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateFilter {
    /// This state and no other.
    Is(State),
    /// Taken by its channel, whatever became of the answer: delivered, answered, forwarded, or dead
    /// because its answer is.
    Taken,
}

impl StateFilter {
    const TAKEN: &str = "taken";
    const NAMES: &[&str] = &[
        "queued",
        "delivering",
        "retrying",
        "delivered",
        "answered",
        "forwarded",
        "dead",
        "replayed",
        Self::TAKEN,
    ];

    /// The states that a message may be in that matches.
    pub(crate) fn states(self) -> Vec<State> {
        match self {
            Self::Is(state) => vec![state],
            Self::Taken => vec![
                State::Delivered,
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
    /// Between which ids the messages lie that were accepted in the time asked for: from the first
    /// on, and before the second. An id begins with the milliseconds of its making, so these
    /// beginnings of ids compare with whole ones as texts.
    pub(crate) fn id_bounds(&self) -> (Option<String>, Option<String>) {
        let bound = |at: OffsetDateTime| first_message_id(millis::not_before(at));
        (self.since.map(bound), self.until.map(bound))
    }
}

/// How the ids of messages begin that were made in this millisecond since 1970.
pub(crate) fn first_message_id(millis: i64) -> String {
    format!("msg_{:012x}", millis.clamp(0, MAX_ID_MILLIS))
}

/// The greatest time that an id holds: 48 bits of milliseconds.
const MAX_ID_MILLIS: i64 = (1 << 48) - 1;
