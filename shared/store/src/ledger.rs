//! Storage for messages: their journal, their answers, their dead letters, the replays of those, the
//! messages that wait long, the events of sessions, the erasure of contents, and the producers' idempotency
//! keys. Each
//! has a trait and its types.
//!
//! Invariant: what a queue may redeliver ([`Journal::record`], [`DeadLetters::insert`],
//! [`WaitingRoom::put_waiting`]) changes nothing the second time, in any order.

mod answers;
mod conversation;
mod cursor;
mod dead_letters;
mod erased;
mod erasures;
mod idempotency;
mod journal;
mod projection;
mod records;
mod replays;
mod session_events;
mod waiting;

pub use answers::{AnswerFilter, KeptAnswers, StoredAnswer};
pub use conversation::{Conversation, Turn};
pub use cursor::{TurnCursor, TurnCursorError};
pub use dead_letters::{DeadFilter, DeadLetter, DeadLetters, DeadQueue};
pub use erasures::{Erasure, Erasures, MAX_ERASED_AT_ONCE};
pub use idempotency::{Idempotency, Reservation};
pub use journal::{Detail, FIRST_ENTRIES, Journal, MAX_ENTRIES, MessageFilter, StateFilter};
pub use records::{AnswerRecord, Answers, MAX_ANSWERS, MessageContent, MessageRecord};
pub use replays::{
    MAX_NAMED_SKIPS, MAX_RUNNING_REPLAYS, Progress, Replay, ReplayError, ReplayFilter,
    ReplaySource, ReplayStatus, Replays, Skip, SkipReason,
};
pub use session_events::{
    EventCursor, EventCursorError, SessionEvent, SessionEventKind, SessionEvents,
};
pub use waiting::{
    SettledRow, Settlement, WaitingCursor, WaitingMessage, WaitingRoom, WaitingSelection,
    WaitingSummary,
};

pub(crate) use answers::{AnswerChange, answers_in, latest_entry, latest_without_contents};
pub(crate) use conversation::{Part, merged};
pub(crate) use erased::{ERASED, erased_event, without_contents};
pub(crate) use erasures::Subject;
pub(crate) use journal::timeline;
pub(crate) use projection::MessageProjection;
pub(crate) use records::{
    ACCEPTED, RECEIVED, StoredContent, first_callback_id, first_message_id, message_of,
    stored_event,
};
pub(crate) use session_events::{EventType, NewSessionEvent, events_in};
pub(crate) use waiting::{Looks, earliest_looks, look_no_later};

/// The most messages, or dead letters, on one page.
pub const MAX_PAGE: u16 = 1000;

/// The most rows of one read: a page, and one more row that shows that another page follows.
pub(crate) const MAX_ROWS: u16 = MAX_PAGE + 1;
