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

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use crate::{
    decision::{DeadReason, Decision},
    ids::{CallbackId, ChannelId, EntryId, MessageId, ReplayId, SessionId},
    message::OutboundMessage,
    named::named,
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

named! {
    /// Where a message goes.
    #[derive(Default)]
    pub enum MessageKind {
        /// From a producer to a channel.
        #[default]
        Outbound = "outbound",
        /// From a channel to the sessions server.
        Inbound = "inbound",
    }
}

impl MessageKind {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde passes it")]
    fn is_outbound(&self) -> bool {
        *self == Self::Outbound
    }

    /// The kind of a message whose position has this rank.
    pub const fn of_rank(rank: i64) -> Self {
        if rank & Position::INBOUND_BIT == 0 {
            Self::Outbound
        } else {
            Self::Inbound
        }
    }
}

named! {
    pub enum State {
        /// Accepted, and not attempted yet.
        Queued = "queued",
        Delivering = "delivering",
        /// An attempt failed, and a retry will follow.
        Retrying = "retrying",
        /// It waits for its channel, for its next attempt, or for its time.
        Waiting = "waiting",
        /// It was cancelled while it waited. Final, unless an attempt had begun.
        Cancelled = "cancelled",
        /// The channel accepted it with a 2xx.
        Delivered = "delivered",
        /// The channel accepted it, and no answer came in time. A late answer still counts.
        Overdue = "overdue",
        Answered = "answered",
        /// The sessions server accepted the answer, or the inbound message. Final.
        Forwarded = "forwarded",
        /// The message, or an answer to it, is a dead letter.
        Dead = "dead",
        /// It was put back into its queue, and not attempted since.
        Replayed = "replayed",
    }
}

impl State {
    /// Whether the message is still being delivered to its channel.
    pub const fn is_under_way(self) -> bool {
        matches!(
            self,
            Self::Queued | Self::Delivering | Self::Retrying | Self::Waiting | Self::Replayed
        )
    }

    /// The state that these entries of one message lead to; `None` without entries.
    pub fn of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Option<Self> {
        entries
            .into_iter()
            .map(Entry::position)
            .max()
            .map(|position| position.state)
    }
}

/// How far an entry advances its message. A store keeps the greatest position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Ordered by replay count, then phase, then attempt. Never negative.
    pub rank: i64,
    /// The state at this rank. A rank has exactly one state.
    pub state: State,
    /// The time by which an answer is due, of a delivered message that has such a time. Of two
    /// deliveries with one replay count the later time counts.
    pub answer_by: Option<OffsetDateTime>,
}

/// A rank in bits: 23 for the replay count, 4 for the kind and the phase, 36 for the attempt.
const PHASE_BITS: u32 = 4;
const STEP_BITS: u32 = 36;
const MAX_REPLAY_COUNT: u32 = (1 << 23) - 1;
const MAX_STEP: u64 = (1 << STEP_BITS) - 1;

impl Position {
    /// At least one of these bits of an outbound message's rank is set if the channel accepted the
    /// message, whatever happened to the answer.
    pub const TAKEN_BITS: i64 = 0b110 << STEP_BITS;
    /// Every rank of an inbound message has this bit, and no other rank has it.
    pub const INBOUND_BIT: i64 = 0b1000 << STEP_BITS;

    fn new(kind: MessageKind, replay_count: u32, phase: Phase, step: u64, state: State) -> Self {
        let step = step.min(MAX_STEP).cast_signed();
        let replay_count = i64::from(replay_count.min(MAX_REPLAY_COUNT));
        let kind = match kind {
            MessageKind::Outbound => 0,
            MessageKind::Inbound => Self::INBOUND_BIT,
        };
        let phase = (phase as i64) << STEP_BITS;
        Self {
            rank: (replay_count << (PHASE_BITS + STEP_BITS)) | kind | phase | step,
            state,
            answer_by: None,
        }
    }
}

/// The order within one replay count. A delivery outranks a death, because a dead letter may have
/// arrived after all; an answer outranks both. Every phase from `Delivered` on has one of
/// [`Position::TAKEN_BITS`].
#[derive(Debug, Clone, Copy)]
enum Phase {
    UnderWay = 0,
    Dead = 1,
    Delivered = 2,
    Answered = 3,
    AnswerDead = 4,
    Forwarded = 5,
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

    /// The entry that says what became of an answer: the one with the greatest position, and of equal
    /// positions the last. `entries` are those of the answer, the earliest first. `None` if the answer
    /// was only accepted.
    pub fn latest_of_answer<'a>(entries: impl IntoIterator<Item = &'a Self>) -> Option<&'a Self> {
        let later = |entry: &&Self| !matches!(entry.event, Event::Answered { .. });
        entries
            .into_iter()
            .filter(later)
            .max_by_key(|entry| entry.position())
    }

    /// How far this entry advances its message, or its answer.
    pub fn position(&self) -> Position {
        // The order is: an attempt's beginning, its end, the wait for the next one, the next one's
        // beginning. One is free.
        let begun = |attempt: u32| 4 * u64::from(attempt);
        let ended = |attempt: u32| begun(attempt) + 1;
        let waits = |attempts: u32| begun(attempts) + 2;
        let at =
            |phase, step, state| Position::new(self.kind, self.replay_count, phase, step, state);
        match &self.event {
            Event::Answered { .. }
            | Event::Waiting {
                callback_id: Some(_),
                ..
            }
            | Event::Replayed {
                callback_id: Some(_),
                ..
            } => at(Phase::Answered, 0, State::Answered),
            Event::Accepted(_) | Event::Received(_) | Event::Replayed { .. } => {
                let again = self.replay_count > 0;
                let state = if again {
                    State::Replayed
                } else {
                    State::Queued
                };
                at(Phase::UnderWay, 0, state)
            }
            Event::Waiting { attempts, .. } => {
                at(Phase::UnderWay, waits(*attempts), State::Waiting)
            }
            Event::Cancelled {} => at(Phase::UnderWay, MAX_STEP, State::Cancelled),
            Event::Delivering { attempt } => {
                at(Phase::UnderWay, begun(*attempt), State::Delivering)
            }
            Event::Attempted(attempt) => match attempt.next {
                After::Arrived if self.kind == MessageKind::Inbound => {
                    at(Phase::Forwarded, 0, State::Forwarded)
                }
                After::Arrived => Position {
                    answer_by: attempt.answer_by,
                    ..at(Phase::Delivered, 0, State::Delivered)
                },
                After::Retry { .. } => at(Phase::UnderWay, ended(attempt.attempt), State::Retrying),
                After::Dead(_) => at(Phase::Dead, 0, State::Dead),
            },
            Event::Overdue {} => at(Phase::Delivered, 1, State::Overdue),
            Event::Dead(_) => at(Phase::Dead, 0, State::Dead),
            Event::ForwardAttempted { attempt, .. } => match attempt.next {
                After::Arrived => at(Phase::Forwarded, 0, State::Forwarded),
                After::Retry { .. } => at(Phase::Answered, 0, State::Answered),
                After::Dead(_) => at(Phase::AnswerDead, 0, State::Dead),
            },
            Event::AnswerDead { .. } => at(Phase::AnswerDead, 0, State::Dead),
        }
    }
}

#[cfg(test)]
mod tests;
