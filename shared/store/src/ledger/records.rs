//! What is stored of messages and answers, beside their entries.

use std::borrow::Cow;

use roundtrip_model::{
    CallbackId, ChannelId, Entry, Event, MessageId, MessageKind, SessionId, State,
    journal::{Content, KeptAnswer},
};
use serde::Serialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;

#[derive(Debug, Clone, Serialize)]
pub struct MessageRecord {
    /// The message. Its id includes the time of its acceptance.
    pub message_id: MessageId,
    pub channel_id: ChannelId,
    pub session_id: SessionId,
    pub kind: MessageKind,
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
    /// Its content. `None` before its first entry arrives, and with [`Detail::Outline`](crate::Detail::Outline).
    #[serde(skip)]
    pub content: Option<MessageContent>,
    /// When its contents, and those of its answers, were to be erased, if they were.
    #[serde(
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub contents_erased_at: Option<OffsetDateTime>,
}

#[derive(Debug, Clone)]
pub enum MessageContent {
    Outbound(Content),
    Inbound(KeptAnswer),
}

impl MessageRecord {
    /// The bytes of its content.
    pub(crate) fn bytes(&self) -> usize {
        match &self.content {
            None => 0,
            Some(MessageContent::Outbound(content)) => content.message.get().len(),
            Some(MessageContent::Inbound(data)) => data.bytes(),
        }
    }

    /// One of its events in the stored form.
    pub(crate) fn event(&self, stored: &str) -> serde_json::Result<Event> {
        match (&self.content, stored) {
            (Some(MessageContent::Outbound(content)), ACCEPTED) => {
                Ok(Event::Accepted(Some(Box::new(content.clone()))))
            }
            (Some(MessageContent::Inbound(data)), RECEIVED) => {
                Ok(Event::Received(Some(Box::new(data.clone()))))
            }
            (_, ACCEPTED) => Ok(Event::Accepted(None)),
            (_, RECEIVED) => Ok(Event::Received(None)),
            (_, other) => serde_json::from_str(other),
        }
    }
}

/// The stored form of a message's content.
#[derive(Debug)]
pub(crate) struct StoredContent<'a> {
    /// The producer's JSON; of an inbound message the JSON of a [`KeptAnswer`].
    pub(crate) message: Cow<'a, str>,
    /// Empty for an inbound message.
    pub(crate) response_url: &'a str,
    pub(crate) answer_within_ms: Option<u64>,
}

impl<'a> StoredContent<'a> {
    /// The content in this event, if it has one.
    pub(crate) fn of(event: &'a Event) -> serde_json::Result<Option<Self>> {
        Ok(match event {
            Event::Accepted(Some(content)) => Some(Self {
                message: content.message.get().into(),
                response_url: &content.response_url,
                answer_within_ms: content.answer_within_ms,
            }),
            Event::Received(Some(data)) => Some(Self {
                message: serde_json::to_string(data)?.into(),
                response_url: "",
                answer_within_ms: None,
            }),
            _ => None,
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.message.len() + self.response_url.len()
    }
}

impl MessageContent {
    pub(crate) fn read(
        kind: MessageKind,
        message: String,
        response_url: String,
        answer_within_ms: Option<u64>,
    ) -> serde_json::Result<Self> {
        Ok(match kind {
            MessageKind::Outbound => Self::Outbound(Content {
                message: RawValue::from_string(message)?,
                response_url,
                answer_within_ms,
            }),
            MessageKind::Inbound => Self::Inbound(serde_json::from_str(&message)?),
        })
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
/// The same for a `Received` event.
pub(crate) const RECEIVED: &str = r#""received""#;

/// The stored form of an event: JSON without the content, which is stored apart.
pub(crate) fn stored_event(event: &Event) -> serde_json::Result<String> {
    match event {
        Event::Accepted(_) => Ok(ACCEPTED.to_owned()),
        Event::Received(_) => Ok(RECEIVED.to_owned()),
        Event::Answered { callback_id, .. } => serde_json::to_string(&Event::Answered {
            callback_id: *callback_id,
            content: None,
        }),
        event => serde_json::to_string(event),
    }
}

/// The message that an entry is about, and its channel; both or none.
pub(crate) fn message_of(entry: &Entry) -> Option<(MessageId, &ChannelId)> {
    entry.message_id.zip(entry.channel_id.as_ref())
}

/// The prefix of message ids from this millisecond since 1970.
pub(crate) fn first_message_id(millis: i64) -> String {
    format!("msg_{:012x}", millis.clamp(0, MAX_ID_MILLIS))
}

/// The same for the ids of answers without a message, which are made when they are accepted.
pub(crate) fn first_callback_id(millis: i64) -> String {
    format!("cb_{:012x}", millis.clamp(0, MAX_ID_MILLIS))
}

/// The greatest time that an id holds: 48 bits of milliseconds.
const MAX_ID_MILLIS: i64 = (1 << 48) - 1;
