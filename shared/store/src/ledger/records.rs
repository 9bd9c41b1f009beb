//! What is stored of messages and answers, beside their entries.

use roundtrip_model::{
    CallbackId, ChannelId, Entry, Event, MessageId, SessionId, State,
    journal::{Content, KeptAnswer},
};
use serde::Serialize;
use time::OffsetDateTime;

#[derive(Debug, Clone, Serialize)]
pub struct MessageRecord {
    /// The message. Its id includes the time of its acceptance.
    pub message_id: MessageId,
    pub channel_id: ChannelId,
    pub session_id: SessionId,
    pub state: State,
    pub replay_count: u32,
    /// The time by which an answer is due, if the message is delivered and has such a time.
    #[serde(
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub answer_by: Option<OffsetDateTime>,
    /// When the latest entry happened.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
    /// Its content. `None` before its `Accepted` entry arrives, and with [`Detail::Outline`](crate::Detail::Outline).
    #[serde(skip)]
    pub content: Option<Content>,
    /// When its contents, and those of its answers, were to be erased, if they were.
    #[serde(
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub contents_erased_at: Option<OffsetDateTime>,
}

impl MessageRecord {
    /// The bytes of its content.
    pub(crate) fn bytes(&self) -> usize {
        let content = self.content.as_ref();
        content.map_or(0, |content| content.message.get().len())
    }
}

/// The most answers that a message shows.
pub const MAX_ANSWERS: u16 = 100;

/// The answers to a message.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// The answers, the earliest first.
    pub answers: Vec<AnswerRecord>,
    /// Whether there are earlier ones.
    pub has_earlier: bool,
}

/// An answer with its content.
#[derive(Debug, Clone)]
pub struct AnswerRecord {
    /// The answer's id.
    pub callback_id: CallbackId,
    /// When Roundtrip accepted it.
    pub at: OffsetDateTime,
    /// Its content, as far as it is kept. `None` if it was erased.
    pub content: Option<KeptAnswer>,
    /// When the content was to be erased, if it was.
    pub contents_erased_at: Option<OffsetDateTime>,
}

impl AnswerRecord {
    /// The bytes of its content.
    pub(crate) fn bytes(&self) -> usize {
        self.content.as_ref().map_or(0, KeptAnswer::bytes)
    }
}

/// Stored in place of an `Accepted` event, whose content is stored apart.
pub(crate) const ACCEPTED: &str = r#""accepted""#;

/// The stored form of an event: JSON without the content, which is stored apart.
pub(crate) fn stored_event(event: &Event) -> serde_json::Result<String> {
    match event {
        Event::Accepted(_) => Ok(ACCEPTED.to_owned()),
        Event::Answered { callback_id, .. } => serde_json::to_string(&Event::Answered {
            callback_id: *callback_id,
            content: None,
        }),
        event => serde_json::to_string(event),
    }
}

/// The answers among these entries that have a content, with their ids.
pub(crate) fn answers_in(
    entries: &[Entry],
) -> impl Iterator<Item = (&Entry, &CallbackId, &KeptAnswer)> {
    entries.iter().filter_map(|entry| match &entry.event {
        Event::Answered {
            callback_id,
            content: Some(content),
        } => Some((entry, callback_id, content)),
        _ => None,
    })
}

/// The prefix of message ids from this millisecond since 1970.
pub(crate) fn first_message_id(millis: i64) -> String {
    format!("msg_{:012x}", millis.clamp(0, MAX_ID_MILLIS))
}

/// The greatest time that an id holds: 48 bits of milliseconds.
const MAX_ID_MILLIS: i64 = (1 << 48) - 1;
