//! The answers to a message, as `GET /channel/message/{message_id}` shows them.
//!
//! Invariant: a timeline may leave entries out. If it may lack the latest entries of an answer, the
//! answer has no `forward`, because that could be out of date.

use std::collections::BTreeMap;

use roundtrip_model::{
    CallbackId, DeadReason, Entry, Event,
    journal::{After, Attempt, KeptAnswer},
};
use roundtrip_store::{
    AnswerRecord, Answers, FIRST_ENTRIES, MAX_ANSWERS, MAX_ENTRIES, StoredAnswer,
};
use serde::Serialize;
use time::OffsetDateTime;

use super::wait::Waiting;

#[derive(Debug, Serialize)]
pub(super) struct ShownAnswers {
    answers: Vec<ShownAnswer>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    earlier_answers_omitted: bool,
}

/// An answer in a response.
#[derive(Debug, Serialize)]
pub(crate) struct ShownAnswer {
    callback_id: CallbackId,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    /// `None` if an earlier version accepted the answer, until the store has it, and after it was erased.
    #[serde(flatten)]
    content: Option<KeptAnswer>,
    #[serde(
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    contents_erased_at: Option<OffsetDateTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    forward: Option<Forward>,
}

/// An answer without a message gets its `forward` here, from its latest entry.
impl From<StoredAnswer> for ShownAnswer {
    fn from(answer: StoredAnswer) -> Self {
        let latest: Vec<&Entry> = answer.latest.iter().collect();
        let belongs_to_none = answer.message_id.is_none();
        Self {
            callback_id: answer.callback_id,
            at: answer.at,
            content: answer.content,
            contents_erased_at: answer.contents_erased_at,
            forward: belongs_to_none.then(|| Forward::of(&latest)),
        }
    }
}

impl From<AnswerRecord> for ShownAnswer {
    fn from(answer: AnswerRecord) -> Self {
        Self {
            callback_id: answer.callback_id,
            at: answer.at,
            content: answer.content,
            contents_erased_at: answer.contents_erased_at,
            forward: None,
        }
    }
}

impl ShownAnswer {
    /// An answer of which only the entry is known.
    fn without_content(callback_id: CallbackId, at: OffsetDateTime) -> Self {
        Self {
            callback_id,
            at,
            content: None,
            contents_erased_at: None,
            forward: None,
        }
    }
}

/// What became of an answer since its last replay.
#[derive(Debug, Serialize)]
struct Forward {
    state: ForwardState,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_attempt: Option<LastAttempt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<Waiting>,
    /// Of a dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<DeadReason>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum ForwardState {
    /// Not attempted yet, or not since it was replayed.
    Queued,
    Waiting,
    Retrying,
    Forwarded,
    Dead,
}

#[derive(Debug, Serialize)]
struct LastAttempt {
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The answers, with what the timeline says of them.
pub(super) fn shown(stored: Answers, timeline: &[Entry]) -> ShownAnswers {
    let is_whole = timeline.len() < MAX_ENTRIES;
    // Only the entries after the gap are certainly the latest of their answers.
    let latest = if is_whole {
        timeline
    } else {
        &timeline[FIRST_ENTRIES..]
    };
    let mut entries: BTreeMap<CallbackId, Vec<&Entry>> = BTreeMap::new();
    for entry in latest {
        if let Some(callback_id) = entry.event.callback_id() {
            entries.entry(callback_id).or_default().push(entry);
        }
    }
    let answers = stored.answers.into_iter();
    let mut answers: Vec<_> = answers.map(ShownAnswer::from).collect();
    answers.extend(without_content(&answers, stored.has_earlier, timeline));
    answers.sort_by_key(|answer| (answer.at, answer.callback_id));
    let omitted = answers.len().saturating_sub(usize::from(MAX_ANSWERS));
    let answers = answers.drain(omitted..).map(|answer| {
        let own = entries.get(&answer.callback_id).map(Vec::as_slice);
        ShownAnswer {
            forward: own.or(is_whole.then_some(&[][..])).map(Forward::of),
            ..answer
        }
    });
    ShownAnswers {
        answers: answers.collect(),
        earlier_answers_omitted: stored.has_earlier || omitted > 0,
    }
}

/// Answers that an earlier version of the gateway stored without content. If one is older than the
/// earliest answer with content on this page, it looks the same as an answer that the page omits. So
/// both kinds are omitted.
fn without_content(
    stored: &[ShownAnswer],
    has_earlier: bool,
    timeline: &[Entry],
) -> Vec<ShownAnswer> {
    let from = stored.first().map(|first| first.at);
    let from = from.filter(|_| has_earlier);
    let mut found = BTreeMap::new();
    for entry in timeline
        .iter()
        .filter(|entry| from.is_none_or(|from| entry.at >= from))
    {
        if let Event::Answered { callback_id, .. } = entry.event
            && stored.iter().all(|known| known.callback_id != callback_id)
        {
            found.entry(callback_id).or_insert(entry.at);
        }
    }
    found
        .into_iter()
        .map(|(callback_id, at)| ShownAnswer::without_content(callback_id, at))
        .collect()
}

impl Forward {
    /// What became of the answer with these entries, the earliest first.
    fn of(entries: &[&Entry]) -> Self {
        let Some(latest) = Entry::latest_of_answer(entries.iter().copied()) else {
            return Self {
                state: ForwardState::Queued,
                attempts: 0,
                last_attempt: None,
                waiting: None,
                reason: None,
            };
        };
        let since_replay = entries
            .iter()
            .filter(|entry| entry.replay_count == latest.replay_count);
        let mut attempts = 0;
        let mut last_attempt = None;
        for entry in since_replay {
            match &entry.event {
                Event::ForwardAttempted { attempt, .. } => {
                    attempts = attempts.max(attempt.attempt);
                    last_attempt = Some(LastAttempt::of(entry.at, attempt));
                }
                Event::Waiting { attempts: made, .. } => attempts = attempts.max(*made),
                _ => {}
            }
        }
        let (state, waiting, reason) = match &latest.event {
            Event::Waiting { reason, until, .. } => {
                let waiting = Waiting::new(*reason, *until);
                (ForwardState::Waiting, Some(waiting), None)
            }
            Event::ForwardAttempted { attempt, .. } => match &attempt.next {
                After::Arrived => (ForwardState::Forwarded, None, None),
                After::Retry { .. } => (ForwardState::Retrying, None, None),
                After::Dead(reason) => (ForwardState::Dead, None, Some(reason.clone())),
            },
            Event::AnswerDead { reason, .. } => (ForwardState::Dead, None, Some(reason.clone())),
            _ => (ForwardState::Queued, None, None),
        };
        Self {
            state,
            attempts,
            last_attempt,
            waiting,
            reason,
        }
    }
}

impl LastAttempt {
    fn of(at: OffsetDateTime, attempt: &Attempt) -> Self {
        Self {
            at,
            status: attempt.status,
            error: attempt.error.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
