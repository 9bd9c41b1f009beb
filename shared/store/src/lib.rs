//! Storage for channels and messages, behind traits with two engines: MongoDB, and an embedded one
//! on SQLite.
//!
//! Invariant: both engines return the same for the same call. One contract suite tests both, and one
//! evaluator decides which channels match a filter. A document that another client wrote to the
//! database, with only the five fields of `ChannelStoreObject`, works.
//!
//! No type of the mongodb or rusqlite crates leaves this crate.

mod bulk_writer;
mod cache;
mod canonical;
mod channels;
mod config;
mod document;
mod embedded;
mod error;
mod filter;
mod keys;
mod ledger;
mod metrics;
mod mongo;
mod open;
mod page;
mod search;
mod secrets;
mod store;
mod target;
mod version;

pub use bulk_writer::{BulkWriter, GaveUp};
pub use cache::{CachedChannels, KnownChannel};
pub use channels::{Channels, SharedChannels};
pub use config::Config;
pub use error::{ChannelError, OpenError, QueryError, SecretsError, Unavailable};
pub use filter::{Filter, FilterError};
pub use keys::{ApiKeys, KeyError, MAX_ACTIVE_KEYS, MAX_KEYS_UNDER_ONE};
pub use ledger::{
    AnswerFilter, AnswerRecord, Answers, Conversation, DeadFilter, DeadLetter, DeadLetters,
    DeadQueue, Detail, Erasure, Erasures, EventCursor, EventCursorError, FIRST_ENTRIES,
    Idempotency, Journal, KeptAnswers, MAX_ANSWERS, MAX_ENTRIES, MAX_ERASED_AT_ONCE,
    MAX_NAMED_SKIPS, MAX_PAGE, MAX_RUNNING_REPLAYS, MessageContent, MessageFilter, MessageRecord,
    Progress, Replay, ReplayError, ReplayFilter, ReplaySource, ReplayStatus, Replays, Reservation,
    SessionEvent, SessionEventKind, SessionEvents, SettledRow, Settlement, Skip, SkipReason,
    StateFilter, StoredAnswer, Turn, TurnCursor, TurnCursorError, WaitingCursor, WaitingMessage,
    WaitingRoom, WaitingSelection, WaitingSummary,
};
pub use metrics::METRICS;
pub use open::open;
pub use page::{ChannelPage, Cursor, Direction, MAX_PAGE_BYTES, PageRequest, Sort, SortField};
pub use secrets::{SealedSecret, Secrets, SharedSecrets, Signing};
pub use store::{SharedStore, Store};
pub use target::DeliveryTarget;
pub use version::{Version, Versioned};
