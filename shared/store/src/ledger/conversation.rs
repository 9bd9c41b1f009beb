//! What was said in a session, in the order of time.

use time::OffsetDateTime;

use super::{MessageRecord, StoredAnswer, TurnCursor};
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
    Answer(StoredAnswer),
}

impl Turn {
    /// The place after this turn.
    pub fn cursor(&self) -> TurnCursor {
        match self {
            Self::Message(message) => TurnCursor::after_message(message.message_id),
            Self::Answer(answer) => answer.cursor(),
        }
    }

    /// When it was accepted.
    pub fn at(&self) -> OffsetDateTime {
        match self {
            Self::Message(message) => message.message_id.made_at(),
            Self::Answer(answer) => answer.at,
        }
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
    answers: Part<StoredAnswer>,
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
        Turn::Answer(answer) => answer.bytes(),
    }
}
