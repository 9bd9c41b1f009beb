//! The events of a session, which its followers get in the order in which they were stored.
//!
//! Invariant: an event that is stored later comes later, however early it happened. So a reader that
//! continues after its last event misses none, not even after the recorder was stopped for a while.

use std::{fmt, str::FromStr};

use async_trait::async_trait;
use roundtrip_model::{
    CallbackId, ChannelId, Entry, Event, MessageId, MessageKind, SessionId, State, ids::IdError,
    journal::KeptAnswer,
};
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use time::OffsetDateTime;

use super::message_of;
use crate::QueryError;

/// Longer than every event's id.
const MAX_ID_BYTES: usize = 128;
/// As many as always fit.
const MAX_PLACE_DIGITS: usize = 18;

#[async_trait]
pub trait SessionEvents: Send + Sync + 'static {
    /// The events of a session after the cursor (`None`: from the first that is kept), in channels
    /// that the caller may see (`None`: in all), at most `limit`.
    async fn session_events(
        &self,
        session: &SessionId,
        channels: Option<&[ChannelId]>,
        after: Option<&EventCursor>,
        limit: u16,
    ) -> Result<Vec<SessionEvent>, QueryError>;

    /// Where a reader that has read up to `cursor` continues. It is an earlier place if an event may
    /// still be stored before the cursor; then the reader gets some events again.
    fn continued(&self, cursor: EventCursor, now: OffsetDateTime) -> EventCursor;
}

/// Something that a session's followers get.
#[derive(Debug, Clone)]
pub struct SessionEvent {
    /// The place after it.
    pub cursor: EventCursor,
    /// When it was accepted, or happened.
    pub at: OffsetDateTime,
    /// `None` of an answer without a token. So is `channel_id`.
    pub message_id: Option<MessageId>,
    pub channel_id: Option<ChannelId>,
    pub kind: SessionEventKind,
    /// Of an answer or an inbound message. `None` if an earlier version accepted it, or if it was
    /// erased.
    pub content: Option<KeptAnswer>,
    pub contents_erased_at: Option<OffsetDateTime>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEventKind {
    Answer(CallbackId),
    Inbound,
    /// A message ended without an answer so far: it is dead, overdue or cancelled.
    Ended(State),
}

impl SessionEvent {
    /// The bytes of its content.
    pub fn bytes(&self) -> usize {
        self.content.as_ref().map_or(0, KeptAnswer::bytes)
    }
}

/// The type of an event, as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EventType {
    Answer,
    Inbound,
    Dead,
    Overdue,
    Cancelled,
}

impl EventType {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Inbound => "inbound",
            Self::Dead => "dead",
            Self::Overdue => "overdue",
            Self::Cancelled => "cancelled",
        }
    }

    /// The kind of an event with this id.
    pub(crate) fn kind(self, id: &str) -> Result<SessionEventKind, IdError> {
        Ok(match self {
            Self::Answer => SessionEventKind::Answer(id.parse()?),
            Self::Inbound => SessionEventKind::Inbound,
            Self::Dead => SessionEventKind::Ended(State::Dead),
            Self::Overdue => SessionEventKind::Ended(State::Overdue),
            Self::Cancelled => SessionEventKind::Ended(State::Cancelled),
        })
    }
}

/// An event to store. An id that is stored already is left as it is.
#[derive(Debug)]
pub(crate) struct NewSessionEvent<'a> {
    /// Of an answer its own id, of an inbound message that of the message.
    pub(crate) id: String,
    pub(crate) event_type: EventType,
    pub(crate) entry: &'a Entry,
}

/// The events of these entries. A message can end again after each replay.
pub(crate) fn events_in(entries: &[Entry]) -> impl Iterator<Item = NewSessionEvent<'_>> {
    entries.iter().filter_map(|entry| {
        let message_id = message_of(entry).map(|(id, _)| id);
        let is_sent = entry.kind == MessageKind::Outbound;
        let event_type = match &entry.event {
            Event::Answered { .. } => EventType::Answer,
            Event::Received(_) => EventType::Inbound,
            Event::Dead(_) if is_sent => EventType::Dead,
            Event::Overdue {} if is_sent => EventType::Overdue,
            Event::Cancelled {} if is_sent => EventType::Cancelled,
            _ => return None,
        };
        let id = match event_type {
            EventType::Answer => entry.event.callback_id()?.to_string(),
            EventType::Inbound => message_id?.to_string(),
            end => format!("{}.{}.{}", message_id?, end.as_str(), entry.replay_count),
        };
        Some(NewSessionEvent {
            id,
            event_type,
            entry,
        })
    })
}

impl<'de> Deserialize<'de> for EventCursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// A place among the events of all sessions, just after one event. Clients get it as a string, and
/// send it back unchanged.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventCursor {
    /// In the order in which events are stored: a number, or a time in milliseconds.
    pub(crate) place: i64,
    /// Of events at the same place.
    pub(crate) id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be the id of an event of this session")]
pub struct EventCursorError;

impl fmt::Display for EventCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.place, self.id)
    }
}

impl FromStr for EventCursor {
    type Err = EventCursorError;

    fn from_str(text: &str) -> Result<Self, EventCursorError> {
        let (place, id) = text.split_once('.').ok_or(EventCursorError)?;
        let is_id = |byte: u8| byte.is_ascii_alphanumeric() || b"._".contains(&byte);
        let is_place =
            place.len() <= MAX_PLACE_DIGITS && place.bytes().all(|byte| byte.is_ascii_digit());
        if !is_place || !(1..=MAX_ID_BYTES).contains(&id.len()) || !id.bytes().all(is_id) {
            return Err(EventCursorError);
        }
        let place = place.parse().map_err(|_error| EventCursorError)?;
        let id = id.to_owned();
        Ok(Self { place, id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_is_written() {
        for text in ["17.cb_0192", "1730616074931.msg_0192.dead.0"] {
            let cursor: EventCursor = text.parse().unwrap();
            assert_eq!(cursor.to_string(), text);
        }
        let too_long = format!("1.{}", "a".repeat(MAX_ID_BYTES + 1));
        for text in [
            "",
            "1",
            "x.cb_1",
            "1.a b",
            "1.ä",
            "99999999999999999999.a",
            &too_long,
        ] {
            assert_eq!(text.parse::<EventCursor>(), Err(EventCursorError), "{text}");
        }
    }
}
