//! Storage for messages: their journal, their dead letters, the replays of those, the messages that
//! wait long, the erasure of their contents, and the producers' idempotency keys. Each has a trait and
//! its types.
//!
//! Invariant: what a queue may redeliver ([`Journal::record`], [`DeadLetters::insert`],
//! [`WaitingRoom::put_waiting`]) changes nothing the second time, in any order.

mod conversation;
mod dead_letters;
mod erasures;
mod idempotency;
mod journal;
mod projection;
mod records;
mod replays;
mod waiting;

pub use conversation::{Conversation, SessionAnswer, Turn, TurnCursor, TurnCursorError};
pub use dead_letters::{DeadFilter, DeadLetter, DeadLetters, DeadQueue};
pub use erasures::{Erasure, Erasures, MAX_ERASED_AT_ONCE};
pub use idempotency::{Idempotency, Reservation};
pub use journal::{Detail, FIRST_ENTRIES, Journal, MAX_ENTRIES, MessageFilter, StateFilter};
pub use records::{AnswerRecord, Answers, MAX_ANSWERS, MessageContent, MessageRecord};
pub use replays::{
    MAX_RUNNING_REPLAYS, Progress, Replay, ReplayError, ReplayFilter, ReplaySource, ReplayStatus,
    Replays,
};
pub use waiting::{
    SettledRow, Settlement, WaitingCursor, WaitingMessage, WaitingRoom, WaitingSelection,
    WaitingSummary,
};

pub(crate) use conversation::{Part, merged};
pub(crate) use erasures::{ERASED, without_contents};
pub(crate) use journal::timeline;
pub(crate) use projection::MessageProjection;
pub(crate) use records::{
    ACCEPTED, RECEIVED, StoredContent, answers_in, first_message_id, stored_event,
};
pub(crate) use waiting::{Looks, earliest_looks, look_no_later};

/// The most messages, or dead letters, on one page.
pub const MAX_PAGE: u16 = 1000;

/// The most rows of one read: a page, and one more row that shows that another page follows.
pub(crate) const MAX_ROWS: u16 = MAX_PAGE + 1;
