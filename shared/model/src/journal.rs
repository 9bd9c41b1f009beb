//! What happened to a message: entries, and the state that follows from them.
//!
//! ```text
//!            ┌─────────── fails ───────────┐
//!            ▼                             │
//! queued ─▶ delivering ─▶ retrying ─▶ delivering ─▶ delivered ─▶ answered ─▶ forwarded
//!   │            └───────────┴───────▶ dead ◀────────────────────────┘
//!   │                                   │ replay
//!   └────────────◀── replayed ◀─────────┘
//!
//! delivered ─▶ overdue ─▶ answered
//!
//! queued, retrying or replayed ─▶ waiting ─▶ delivering
//!                                    └─────▶ cancelled
//! ```
//!
//! A message from a channel goes to the sessions server: its first 2xx leads to `forwarded`. A replayed
//! answer makes its message `answered` again.
//!
//! Invariant: the state is the greatest position among a message's entries. Entries that arrive
//! late, twice or in any order lead to the same state, so recorders need no coordination.

mod position;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;

pub use self::position::{MessageKind, Position, State};
use crate::{
    decision::{DeadReason, Decision},
    ids::{CallbackId, ChannelId, EntryId, MessageId, ReplayId, SessionId},
    message::OutboundMessage,
    outcome::Outcome,
    waiting::WaitReason,
};

/// One thing that happened to a message, or to an answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// Distinguishes a repeated entry from a second one.
    pub entry_id: EntryId,
    /// `None` if it is about an answer that came without a token. So is `channel_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<MessageId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel_id: Option<ChannelId>,
    pub session_id: SessionId,
    /// Of its message.
    #[serde(default, skip_serializing_if = "MessageKind::is_outbound")]
    pub kind: MessageKind,
    /// How many times the message had been replayed when this happened.
    #[serde(rename = "round")]
    pub replay_count: u32,
    #[serde(with = "crate::millis")]
    pub at: OffsetDateTime,
    pub event: Event,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The message was accepted and is in the queue. `None` in an entry that a store returns, if the
    /// content was erased.
    Accepted(Option<Box<Content>>),
    /// The inbound message was accepted and is in the queue. This is the data that its channel
    /// posted, as far as it is kept. `None` as for `Accepted`.
    Received(Option<Box<KeptAnswer>>),
    /// The message, or an answer to it, waits, which does not count as an attempt. There is an entry
    /// when the message begins to wait in the store and when the reason changes, and none for a
    /// short wait.
    Waiting {
        /// The answer, if it is one that waits.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        callback_id: Option<CallbackId>,
        /// The attempts made so far.
        attempts: u32,
        reason: WaitReason,
        /// The time of the next attempt. `None` if the wait ends with its reason.
        #[serde(
            default,
            with = "crate::millis::option",
            skip_serializing_if = "Option::is_none"
        )]
        until: Option<OffsetDateTime>,
    },
    /// The message was taken out of the store, and no attempt begins any more. One that had begun
    /// may still deliver it.
    Cancelled {},
    /// An attempt is still running after a while. A quick attempt has only its `Attempted` entry.
    Delivering {
        attempt: u32,
    },
    Attempted(Box<Attempt>),
    /// The channel accepted the message, and no answer came in time. An answer still counts.
    Overdue {},
    Answered {
        callback_id: CallbackId,
        /// `None` in an entry of an earlier version, and in one that a store returns.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content: Option<KeptAnswer>,
    },
    ForwardAttempted {
        callback_id: CallbackId,
        attempt: Box<Attempt>,
    },
    /// The message was found in the dead queue.
    Dead(DeadReason),
    /// An answer of the message was found in the dead queue.
    AnswerDead {
        callback_id: CallbackId,
        reason: DeadReason,
    },
    /// The message, or an answer to it, was put back into its queue.
    Replayed {
        replay_id: ReplayId,
        /// The answer, if it is one that was put back. An entry of an earlier version has none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        callback_id: Option<CallbackId>,
    },
}

impl Event {
    /// The answer that it is about.
    pub const fn callback_id(&self) -> Option<CallbackId> {
        match self {
            Self::Answered { callback_id, .. }
            | Self::ForwardAttempted { callback_id, .. }
            | Self::AnswerDead { callback_id, .. } => Some(*callback_id),
            Self::Waiting { callback_id, .. } | Self::Replayed { callback_id, .. } => *callback_id,
            _ => None,
        }
    }

    /// Whether an answer whose latest event is this one is still to be forwarded.
    pub const fn leaves_an_answer_under_way(&self) -> bool {
        match self {
            Self::ForwardAttempted { attempt, .. } => matches!(attempt.next, After::Retry { .. }),
            Self::AnswerDead { .. } => false,
            _ => true,
        }
    }
}

/// The content of an accepted message, and the URL for its answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Content {
    /// The producer's JSON, unchanged.
    pub message: Box<RawValue>,
    pub response_url: String,
    /// How long the channel has to answer, if the producer set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_within_ms: Option<u64>,
}

/// The content of an answer or of an inbound message, as far as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeptAnswer {
    /// All of it: the channel's JSON, unchanged.
    ResponseData(Box<RawValue>),
    /// The beginning of a longer one.
    TruncatedResponseData {
        /// The beginning of the channel's JSON. It is text, and no JSON.
        head: String,
        /// The length of all of it.
        bytes: usize,
    },
}

impl KeptAnswer {
    /// How many bytes of the answer are kept.
    pub fn bytes(&self) -> usize {
        match self {
            Self::ResponseData(json) => json.get().len(),
            Self::TruncatedResponseData { head, .. } => head.len(),
        }
    }

    /// Keeps at most this many bytes.
    pub fn of(response_data: &RawValue, max_bytes: usize) -> Self {
        let json = response_data.get();
        if json.len() <= max_bytes {
            return Self::ResponseData(response_data.to_owned());
        }
        Self::TruncatedResponseData {
            head: json[..json.floor_char_boundary(max_bytes)].to_owned(),
            bytes: json.len(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub attempt: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The target of a redirect: scheme, host and path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub excerpt: String,
    pub duration_ms: u64,
    pub next: After,
    /// The time by which an answer is due, if the channel accepted the message and has such a time.
    #[serde(
        default,
        with = "crate::millis::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub answer_by: Option<OffsetDateTime>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum After {
    /// Nothing: it was delivered.
    Arrived,
    Retry {
        wait_ms: u64,
    },
    Dead(DeadReason),
}

impl Attempt {
    /// An attempt with this outcome, which led to this decision.
    pub fn new(attempt: u32, outcome: &Outcome, duration_ms: u64, decision: &Decision) -> Self {
        let (status, error, location, excerpt) = match outcome {
            Outcome::Responded {
                status,
                location,
                excerpt,
                ..
            } => (Some(*status), None, location.clone(), excerpt.clone()),
            Outcome::Failed(failure) => (None, Some(failure.to_string()), None, String::new()),
        };
        let next = match decision {
            Decision::Done => After::Arrived,
            Decision::RetryAfter(wait) | Decision::Snooze(wait) => After::Retry {
                wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            },
            Decision::DeadLetter(reason) | Decision::Reject(reason) => After::Dead(reason.clone()),
            // It waits for its channel, not for a time.
            Decision::Wait(_) => After::Retry { wait_ms: 0 },
        };
        Self {
            attempt,
            status,
            error,
            location,
            excerpt,
            duration_ms,
            next,
            answer_by: None,
        }
    }

    /// This attempt, which gives the channel until this time to answer if it accepted the message.
    #[must_use]
    pub fn answer_by(self, answer_by: Option<OffsetDateTime>) -> Self {
        Self {
            answer_by: answer_by.filter(|_| self.next == After::Arrived),
            ..self
        }
    }
}

impl Entry {
    /// A new entry of this message, which had been replayed `replay_count` times.
    pub fn of(
        message: &OutboundMessage,
        replay_count: u32,
        at: OffsetDateTime,
        event: Event,
    ) -> Self {
        Self {
            entry_id: EntryId::generate(),
            message_id: Some(message.message_id),
            channel_id: Some(message.channel_id.clone()),
            session_id: message.session_id.clone(),
            kind: MessageKind::Outbound,
            replay_count,
            at,
            event,
        }
    }

    /// The entry of a message without an answer at the time by which one was due. Its id and its time
    /// follow from these, so an entry that is made twice is recorded once.
    pub fn overdue(
        message_id: MessageId,
        channel_id: ChannelId,
        session_id: SessionId,
        replay_count: u32,
        answer_by: OffsetDateTime,
    ) -> Self {
        Self {
            entry_id: EntryId::of_overdue(&message_id, replay_count),
            message_id: Some(message_id),
            channel_id: Some(channel_id),
            session_id,
            kind: MessageKind::Outbound,
            replay_count,
            at: answer_by,
            event: Event::Overdue {},
        }
    }
}

#[cfg(test)]
mod tests;
