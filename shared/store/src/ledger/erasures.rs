//! The erasure of contents: of a session, or of what has become too old.
//!
//! Contents are messages, answers, the bodies of dead letters, and what the other side wrote in a
//! response. Ids, times and states stay.
//!
//! Invariant: the erasure of a session is stored before anything is erased. From then on no call
//! stores contents of the session's earlier messages, and a process that dies leaves the erasure
//! unfinished, for any other to repeat. A message whose contents were erased never gets contents
//! again.

use async_trait::async_trait;
use roundtrip_model::{CallbackId, Entry, MessageId, SessionId};
use time::OffsetDateTime;

use super::{DeadLetter, first_callback_id, first_message_id, message_of};
use crate::Unavailable;

#[async_trait]
pub trait Erasures: Send + Sync + 'static {
    /// Stores that the contents of this session are to be erased: those of the messages, and of the
    /// answers without a message, that were accepted up to `at`, in whole milliseconds. A later
    /// request replaces an earlier one.
    async fn request_erasure(
        &self,
        session: &SessionId,
        at: OffsetDateTime,
    ) -> Result<(), Unavailable>;

    /// The latest erasure of a session. It is kept as long as a message after its end.
    async fn erasure(&self, session: &SessionId) -> Result<Option<Erasure>, Unavailable>;

    /// Erasures that have not ended, the earliest first.
    async fn unfinished_erasures(&self, limit: u16) -> Result<Vec<Erasure>, Unavailable>;

    /// Erases a session's contents and cancels its waiting messages, in steps, and then ends the
    /// erasure, unless a later request has replaced it. After an error, or if it is dropped, a part
    /// may be erased; a repeated call erases the rest.
    async fn erase_session(
        &self,
        erasure: &Erasure,
        now: OffsetDateTime,
    ) -> Result<(), Unavailable>;

    /// Erases the contents of these messages: at most
    /// [`MAX_ERASED_AT_ONCE`]. Waiting messages and dead letters keep theirs.
    async fn erase_messages(
        &self,
        ids: &[MessageId],
        at: OffsetDateTime,
    ) -> Result<(), Unavailable>;

    /// Erases the contents of these answers without a message: at most [`MAX_ERASED_AT_ONCE`].
    async fn erase_answers(
        &self,
        ids: &[CallbackId],
        at: OffsetDateTime,
    ) -> Result<(), Unavailable>;

    /// Erases the contents of these dead letters: at most [`MAX_ERASED_AT_ONCE`].
    async fn erase_dead_letters(
        &self,
        dead_ids: &[String],
        at: OffsetDateTime,
    ) -> Result<(), Unavailable>;

    /// Removes what was erased also from the places where the engine keeps it for itself.
    async fn overwrite_erased(&self) -> Result<(), Unavailable> {
        Ok(())
    }
}

/// The most messages, answers or dead letters that one call or step erases.
pub const MAX_ERASED_AT_ONCE: u16 = 50;

/// The erasure of a session's contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erasure {
    pub session_id: SessionId,
    /// The contents of what was accepted until then are erased.
    pub requested_at: OffsetDateTime,
    /// `None` until everything is erased.
    pub ended_at: Option<OffsetDateTime>,
}

impl Erasure {
    /// The ids of the messages that it erases are less than this.
    pub(crate) fn end_of_ids(&self) -> String {
        let millis = roundtrip_model::millis::of(self.requested_at);
        first_message_id(millis.saturating_add(1))
    }

    /// The ids of the answers without a message that it erases are less than this.
    pub(crate) fn end_of_answer_ids(&self) -> String {
        let millis = roundtrip_model::millis::of(self.requested_at);
        first_callback_id(millis.saturating_add(1))
    }

    /// Whether it erases the contents of this subject.
    pub(crate) fn covers_subject(&self, subject: &Subject) -> bool {
        match subject {
            Subject::Message(id) => self.covers(&id.to_string()),
            Subject::Answer(id) => *id.to_string() < *self.end_of_answer_ids(),
        }
    }

    /// Whether it erases the contents of this message.
    pub(crate) fn covers(&self, message_id: &str) -> bool {
        *message_id < *self.end_of_ids()
    }

    /// Whether it erases the contents of this dead letter of the session. The id of an answer without a
    /// message has the time of its acceptance, which a replay does not change.
    pub(crate) fn covers_letter(&self, letter: &DeadLetter) -> bool {
        letter.message_id.map_or_else(
            || letter.webhook_id < self.end_of_answer_ids(),
            |id| self.covers(&id.to_string()),
        )
    }
}

/// What the contents of an entry belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// A message, with its answers.
    Message(MessageId),
    /// An answer without a message.
    Answer(CallbackId),
}

impl Subject {
    pub(crate) fn of(entry: &Entry) -> Option<Self> {
        let message = message_of(entry).map(|(id, _)| Self::Message(id));
        message.or_else(|| entry.event.callback_id().map(Self::Answer))
    }
}
