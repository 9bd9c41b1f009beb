//! How far entries advance a message, and the state that follows.

use time::OffsetDateTime;

use super::{After, Entry, Event};
use crate::named::named;

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
    pub(super) fn is_outbound(&self) -> bool {
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
