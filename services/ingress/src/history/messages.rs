//! The history of messages: `GET /channel/message/{message_id}` and `GET /messages`.

use std::time::Duration;

use axum::{extract::State, response::Response};
use roundtrip_model::{
    ChannelId, Entry, Event, MessageId, MessageKind, SessionId, State as MessageState,
    waiting::WaitReason,
};
use roundtrip_store::{Detail, MessageFilter, MessageRecord, StateFilter};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::time::Instant;

use super::{
    answers::{ShownAnswers, shown},
    entry::{self, TimelineEntry},
    wait::Waiting,
};
use crate::{
    auth::Principal,
    ingress::Ingress,
    messages::prefer,
    pages::{Page, page_size},
    parameters::{Parameters, PathId},
    problem::{Kind, Problem},
    waiters::{Pauses, RECORDED_WITHIN, Waited, ends_a_wait, has_answer, recorded},
};

/// A message in a response.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    record: MessageRecord,
    /// Lists are sorted by it.
    #[serde(with = "time::serde::rfc3339")]
    accepted_at: OffsetDateTime,
}

impl From<MessageRecord> for Shown {
    fn from(record: MessageRecord) -> Self {
        Self {
            accepted_at: record.message_id.made_at(),
            record,
        }
    }
}

/// A message with its answers and its timeline, the earliest first.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "the field's name in the API")]
pub(crate) struct Timeline {
    #[serde(flatten)]
    message: Shown,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<Waiting>,
    #[serde(flatten)]
    answers: ShownAnswers,
    timeline: Vec<TimelineEntry>,
}

/// The query parameters of `GET /channel/message/{message_id}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TimelineParameters {
    /// How many seconds to wait for an answer, or for the end of the message.
    wait: Option<String>,
}

/// `GET /channel/message/{message_id}`
pub(crate) async fn timeline(
    State(ingress): State<Ingress>,
    principal: Principal,
    PathId(id): PathId,
    Parameters(parameters): Parameters<TimelineParameters>,
) -> Result<Response, Problem> {
    let id: MessageId = id.parse().map_err(|_error| Problem::unknown_message(&id))?;
    let (message, timeline) = match wait(&ingress, parameters.wait.as_deref())? {
        Some(wait) => {
            let found = read_after(&ingress, &principal, &id, Instant::now() + wait).await?;
            // The key may have been revoked meanwhile.
            if !ingress.authenticator.still_admits(&principal) {
                return Err(Kind::NoValidKey.into());
            }
            found
        }
        None => read(&ingress, &principal, &id).await?,
    };
    let waiting = waiting(&ingress, &message, &timeline).await?;
    let answers = ingress.store.answers(&id).await?;
    let timeline = Timeline {
        message: message.into(),
        waiting,
        answers: shown(answers, &timeline),
        timeline: entry::timeline(timeline),
    };
    ingress.response_budget.json(&timeline, ())
}

/// The time to wait, at most `max_wait`. `None` if it is not to wait.
fn wait(ingress: &Ingress, parameter: Option<&str>) -> Result<Option<Duration>, Problem> {
    let Some(text) = parameter else {
        return Ok(None);
    };
    let wait = prefer::wait_parameter(text)?.min(ingress.limits.max_wait);
    Ok(Some(wait).filter(|wait| !wait.is_zero()))
}

/// The message and its timeline, after an answer, the message's end or the deadline.
async fn read_after(
    ingress: &Ingress,
    principal: &Principal,
    id: &MessageId,
    deadline: Instant,
) -> Result<(MessageRecord, Vec<Entry>), Problem> {
    // Before the first read, because the message may end after it.
    let mut waiter = ingress.waiters.begin(principal, *id)?;
    let recorded_by = deadline.min(Instant::now() + RECORDED_WITHIN);
    let age = (ingress.clock.now() - id.made_at()).abs();
    let mut pauses = Pauses::default();
    let first = loop {
        match read(ingress, principal, id).await {
            // It may have been accepted a moment ago.
            Err(problem)
                if problem.status() == 404
                    && age < RECORDED_WITHIN
                    && Instant::now() < recorded_by =>
            {
                pauses.next().await;
            }
            found => break found?,
        }
    };
    let state = first.0.state;
    let waited = if ends_a_wait(state) {
        Waited::Ended(state)
    } else {
        waiter.wait(deadline).await
    };
    // The response then has the answer.
    let store = &ingress.store;
    match waited {
        Waited::Answer(answer) => {
            recorded(store, id, Some(&answer.callback_id), deadline).await;
        }
        // An inbound message has no answer.
        Waited::Ended(state) if has_answer(state) && first.0.kind == MessageKind::Outbound => {
            recorded(store, id, None, deadline).await;
        }
        Waited::Ended(_) | Waited::InVain => {}
    }
    read(ingress, principal, id).await
}

/// The message and its timeline, if the principal sees them.
async fn read(
    ingress: &Ingress,
    principal: &Principal,
    id: &MessageId,
) -> Result<(MessageRecord, Vec<Entry>), Problem> {
    let found = ingress.store.message(id).await?;
    // Another channel's message gives the same 404 as one that does not exist.
    let found = found.filter(|(message, _)| principal.sees(Some(&message.channel_id)));
    found.ok_or_else(|| Problem::unknown_message(&id.to_string()))
}

/// What the message, or its answer, waits for. A time that has not come is read from the store, a
/// pause from the channel, and all else from the last entry of the dispatcher or the forwarder.
async fn waiting(
    ingress: &Ingress,
    message: &MessageRecord,
    timeline: &[Entry],
) -> Result<Option<Waiting>, Problem> {
    if message.state == MessageState::Answered {
        return Ok(answer_waits(timeline));
    }
    if !message.state.is_under_way() || message.state == MessageState::Delivering {
        return Ok(None);
    }
    if message.state == MessageState::Waiting {
        let id = message.message_id.to_string();
        let stored = ingress.store.waiting_message(&id).await?;
        let later = stored.filter(|stored| stored.due_at > ingress.clock.now());
        if let Some(stored) = later {
            return Ok(Some(Waiting::new(stored.reason, Some(stored.due_at))));
        }
    }
    let known = ingress.channel_cache.get(&message.channel_id).await;
    let is_paused = known.is_ok_and(|known| known.target.settings.paused);
    // A pause concerns what is delivered to the channel.
    if is_paused && message.kind == MessageKind::Outbound {
        return Ok(Some(Waiting::new(WaitReason::ChannelPaused, None)));
    }
    let wait = last_wait(timeline);
    // If the channel was resumed, its pause no longer explains the wait.
    let wait = wait.filter(|(reason, _)| *reason != WaitReason::ChannelPaused);
    Ok(wait.map(|(reason, until)| Waiting::new(reason, until)))
}

/// What a message under way waits for. The entry that is furthest on is not always the last one: the
/// entries of two processes may have the same millisecond.
fn last_wait(timeline: &[Entry]) -> Option<(WaitReason, Option<OffsetDateTime>)> {
    let furthest = timeline.iter().max_by_key(|entry| entry.position())?;
    match &furthest.event {
        Event::Waiting { reason, until, .. } => Some((*reason, *until)),
        _ => None,
    }
}

/// Why an answer waits; `None` unless the latest event of an answer is a wait.
fn answer_waits(timeline: &[Entry]) -> Option<Waiting> {
    timeline
        .iter()
        .rev()
        .find_map(|entry| match &entry.event {
            Event::Waiting {
                callback_id: Some(_),
                reason,
                until,
                ..
            } => Some(Some(Waiting::new(*reason, *until))),
            Event::ForwardAttempted { .. }
            | Event::AnswerDead { .. }
            | Event::Replayed {
                callback_id: Some(_),
                ..
            } => Some(None),
            _ => None,
        })
        .flatten()
}

/// The query parameters of `GET /messages`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MessageParameters {
    session_id: Option<SessionId>,
    channel_id: Option<ChannelId>,
    kind: Option<MessageKind>,
    state: Option<StateFilter>,
    #[serde(default, deserialize_with = "crate::json::times::rfc3339")]
    since: Option<OffsetDateTime>,
    #[serde(default, deserialize_with = "crate::json::times::rfc3339")]
    until: Option<OffsetDateTime>,
    limit: Option<String>,
    cursor: Option<MessageId>,
}

/// `GET /messages`
pub(crate) async fn list(
    State(ingress): State<Ingress>,
    principal: Principal,
    Parameters(parameters): Parameters<MessageParameters>,
) -> Result<Response, Problem> {
    let limit = page_size(parameters.limit.as_deref())?;
    let filter = MessageFilter {
        message_ids: None,
        session: parameters.session_id,
        channels: principal.visible_channels(parameters.channel_id.as_ref())?,
        channel: parameters.channel_id,
        kind: parameters.kind,
        state: parameters.state,
        since: parameters.since,
        until: parameters.until,
    };
    let under_way = ingress.queries.begin(&principal)?;
    let cursor = parameters.cursor.as_ref();
    let page = ingress
        .store
        .messages(&filter, cursor, limit + 1, Detail::Outline);
    let found = under_way.ask(page).await?;
    let found = found.into_iter().map(Shown::from).collect();
    let page = Page::of("messages", found, limit, |shown: &Shown| {
        shown.record.message_id
    });
    ingress.response_budget.json(&page, under_way)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// An entry of one message, at one and the same time.
    fn entry(event: &Value) -> Entry {
        let entry = json!({
            "entry_id": roundtrip_model::EntryId::generate(),
            "message_id": "msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f",
            "channel_id": "c",
            "session_id": "s",
            "round": 0,
            "at": 1_780_000_000_000_i64,
            "event": event,
        });
        serde_json::from_str(&entry.to_string()).unwrap()
    }

    #[test]
    fn a_wait_of_the_same_millisecond_as_the_acceptance_is_shown() {
        let accepted = entry(&json!({"accepted": {"message": 1, "response_url": "http://h/"}}));
        let waiting = entry(&json!({"waiting": {"attempts": 0, "reason": "secret_unreadable"}}));
        for timeline in [[accepted.clone(), waiting.clone()], [waiting, accepted]] {
            let (reason, until) = last_wait(&timeline).unwrap();
            assert_eq!((reason, until), (WaitReason::SecretUnreadable, None));
        }
    }

    #[test]
    fn an_attempt_ends_a_wait() {
        let waiting = entry(&json!({"waiting": {"attempts": 0, "reason": "secret_unreadable"}}));
        let attempt = json!({"attempt": 1, "duration_ms": 1, "next": {"retry": {"wait_ms": 1}}});
        let attempted = entry(&json!({"attempted": attempt}));
        assert!(last_wait(&[waiting, attempted]).is_none());
    }
}
