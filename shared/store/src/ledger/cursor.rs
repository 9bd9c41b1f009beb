//! A place among the messages and answers of a session, or among answers.

use std::{fmt, str::FromStr};

use roundtrip_model::{CallbackId, MessageId, millis};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use time::OffsetDateTime;

use super::first_message_id;

/// A position in a conversation, just after one turn. Clients get it as a string, and send it back
/// unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TurnCursor {
    /// In milliseconds.
    at: i64,
    id: TurnId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum TurnId {
    Message(MessageId),
    Answer(CallbackId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a next_cursor of this list")]
pub struct TurnCursorError;

impl TurnCursor {
    pub(crate) fn after_message(id: MessageId) -> Self {
        Self {
            at: millis::of(id.made_at()),
            id: TurnId::Message(id),
        }
    }

    pub(crate) fn after_answer(at: OffsetDateTime, id: CallbackId) -> Self {
        Self {
            at: millis::of(at),
            id: TurnId::Answer(id),
        }
    }

    /// The next messages have an id greater than this.
    pub(crate) fn message_id(&self) -> String {
        match self.id {
            TurnId::Message(id) => id.to_string(),
            // Every id of the next millisecond begins with this and is longer, so it is greater.
            TurnId::Answer(_) => first_message_id(self.at.saturating_add(1)),
        }
    }

    /// The next answers have a time and an id greater than these.
    pub(crate) fn answer(&self) -> (i64, String) {
        match self.id {
            TurnId::Message(_) => (self.at, String::new()),
            TurnId::Answer(id) => (self.at, id.to_string()),
        }
    }
}

impl fmt::Display for TurnCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.id {
            TurnId::Message(id) => write!(f, "{}.{id}", self.at),
            TurnId::Answer(id) => write!(f, "{}.{id}", self.at),
        }
    }
}

impl FromStr for TurnCursor {
    type Err = TurnCursorError;

    fn from_str(text: &str) -> Result<Self, TurnCursorError> {
        let (at, id) = text.split_once('.').ok_or(TurnCursorError)?;
        let at = at.parse().map_err(|_error| TurnCursorError)?;
        let message = id.parse().map(TurnId::Message);
        let id = message.or_else(|_| id.parse().map(TurnId::Answer));
        let id = id.map_err(|_error| TurnCursorError)?;
        Ok(Self { at, id })
    }
}

impl Serialize for TurnCursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TurnCursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &str = "msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f";
    const ANSWER: &str = "cb_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f";

    fn cursor(text: &str) -> Result<TurnCursor, TurnCursorError> {
        text.parse()
    }

    #[test]
    fn a_cursor_is_read_as_it_is_written() {
        for id in [MESSAGE, ANSWER] {
            let text = format!("1730616074931.{id}");
            assert_eq!(cursor(&text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "1",
            MESSAGE,
            "1.",
            "x.cb_1",
            "1.cb_1",
            "99999999999999999999.cb_1",
        ] {
            assert_eq!(cursor(text), Err(TurnCursorError), "{text}");
        }
    }

    #[test]
    fn a_message_comes_before_the_answers_of_its_millisecond() {
        let message = cursor(&format!("5.{MESSAGE}")).unwrap();
        let answer = cursor(&format!("5.{ANSWER}")).unwrap();
        assert!(message < answer);
        assert_eq!(message.answer(), (5, String::new()));
        assert_eq!(answer.message_id(), first_message_id(6));
    }
}
