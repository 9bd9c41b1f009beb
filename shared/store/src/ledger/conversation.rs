//! What was said in a session, in the order of time.

use std::{fmt, str::FromStr};

use roundtrip_model::{CallbackId, ChannelId, MessageId, millis};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use time::OffsetDateTime;

use super::{AnswerRecord, MessageRecord, first_message_id};
use crate::page::PageBudget;

/// A page of a conversation.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    /// Messages and answers, the earliest first. A message comes before the answers of the same
    /// millisecond.
    pub turns: Vec<Turn>,
    /// Whether there are later ones.
    pub has_more: bool,
}

/// Something that was said in a session.
#[derive(Debug, Clone)]
pub enum Turn {
    Message(MessageRecord),
    Answer(SessionAnswer),
}

/// An answer, and the message that it belongs to.
#[derive(Debug, Clone)]
pub struct SessionAnswer {
    pub message_id: MessageId,
    pub channel_id: ChannelId,
    pub answer: AnswerRecord,
}

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

impl Turn {
    /// The place after this turn.
    pub fn cursor(&self) -> TurnCursor {
        match self {
            Self::Message(message) => TurnCursor {
                at: millis::of(message.message_id.made_at()),
                id: TurnId::Message(message.message_id),
            },
            Self::Answer(answer) => TurnCursor {
                at: millis::of(answer.answer.at),
                id: TurnId::Answer(answer.answer.callback_id),
            },
        }
    }

    /// When it was accepted.
    pub fn at(&self) -> OffsetDateTime {
        match self {
            Self::Message(message) => message.message_id.made_at(),
            Self::Answer(answer) => answer.answer.at,
        }
    }
}

impl TurnCursor {
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

/// Rows of one kind, in order.
pub(crate) struct Part<T> {
    budget: PageBudget,
    rows: Vec<T>,
    /// Whether rows follow.
    is_cut: bool,
}

impl<T> Part<T> {
    /// At most this many rows, and at most a page's bytes.
    pub(crate) fn of(limit: u16) -> Self {
        Self {
            budget: PageBudget::of(limit),
            rows: Vec::new(),
            is_cut: false,
        }
    }

    /// Counts a row that cannot be read.
    pub(crate) fn pass_over(&mut self) {
        self.is_cut |= !self.budget.take(0);
    }

    /// Adds a row with so many bytes of content. `false` if it does not fit, and no later one does.
    pub(crate) fn add(&mut self, row: T, bytes: usize) -> bool {
        if !self.is_cut && self.budget.take(bytes) {
            self.rows.push(row);
        } else {
            self.is_cut = true;
        }
        !self.is_cut
    }
}

/// A page of messages and answers that were read with the same limit.
pub(crate) fn merged(
    messages: Part<MessageRecord>,
    answers: Part<SessionAnswer>,
    limit: u16,
) -> Conversation {
    let is_cut = [messages.is_cut, answers.is_cut];
    let messages: Vec<_> = messages.rows.into_iter().map(Turn::Message).collect();
    let answers: Vec<_> = answers.rows.into_iter().map(Turn::Answer).collect();
    // If one kind was cut, its next row may come before rows of the other kind. So the page ends at
    // the last row that was read of the kind that was cut.
    let ends = [messages.last(), answers.last()];
    let ends = ends.into_iter().zip(is_cut).filter(|(_, is_cut)| *is_cut);
    let end = ends.filter_map(|(last, _)| Some(last?.cursor())).min();
    let mut turns = messages;
    turns.extend(answers);
    turns.retain(|turn| end.is_none_or(|end| turn.cursor() <= end));
    turns.sort_by_key(Turn::cursor);
    let mut budget = PageBudget::of(limit);
    let all = turns.len();
    let fit = turns.iter().take_while(|turn| budget.take(bytes(turn)));
    let fit = fit.count();
    turns.truncate(fit);
    Conversation {
        has_more: end.is_some() || fit < all,
        turns,
    }
}

fn bytes(turn: &Turn) -> usize {
    match turn {
        Turn::Message(message) => message.bytes(),
        Turn::Answer(answer) => answer.answer.bytes(),
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
