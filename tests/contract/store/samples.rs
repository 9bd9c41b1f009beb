//! Messages, entries and dead letters for the cases.
//!
//! Their times are in the hour before the suite runs, so that a database with a retention keeps
//! them.

use std::{sync::LazyLock, time::Duration};

use bytes::Bytes;
use roundtrip_model::{
    CallbackId, Clock, DeadReason, Entry, EntryId, Event, MessageId, MessageKind, State,
    SystemClock,
    decision::DeadKind,
    journal::{After, Attempt, Content},
};
use serde_json::value::RawValue;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use roundtrip_store::{DeadLetter, DeadQueue, Journal, MessageContent, MessageRecord};

/// An hour before the first case, to the millisecond.
static BEGINNING: LazyLock<OffsetDateTime> = LazyLock::new(|| {
    let before = SystemClock.now() - Duration::from_hours(1);
    before.replace_nanosecond(0).expect("a whole second")
});

/// This many milliseconds after the beginning.
pub(super) fn at(millis: i64) -> OffsetDateTime {
    *BEGINNING + time::Duration::milliseconds(millis)
}

/// The time as a filter has it.
pub(super) fn text(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).expect("a time as text")
}

/// The id of the message accepted this many milliseconds after the beginning.
pub(super) fn message_id(millis: i64) -> MessageId {
    let made = at(millis).unix_timestamp_nanos() / 1_000_000;
    let id = format!("msg_{made:012x}70008000000000000000");
    id.parse().expect("a message id")
}

/// An entry of that message in channel `c` and session `s`, this many milliseconds after the
/// beginning.
pub(super) fn entry(message_id: MessageId, replay_count: u32, millis: i64, event: Event) -> Entry {
    Entry {
        entry_id: EntryId::generate(),
        message_id: Some(message_id),
        channel_id: Some(super::id("c")),
        session_id: "s".parse().expect("a session id"),
        kind: MessageKind::Outbound,
        replay_count,
        at: at(millis),
        event,
    }
}

/// The acceptance of a message with this JSON.
pub(super) fn accepted(json: &str) -> Event {
    Event::Accepted(Some(Box::new(Content {
        message: RawValue::from_string(json.to_owned()).expect("JSON"),
        response_url: "http://gateway/webhook-response".to_owned(),
        answer_within_ms: None,
    })))
}

/// An attempt that led to this.
pub(super) fn attempt(attempt: u32, next: After) -> Attempt {
    let arrived = next == After::Arrived;
    Attempt {
        attempt,
        status: arrived.then_some(200),
        error: (!arrived).then(|| "no connection".to_owned()),
        location: Some("https://h.example/in".to_owned()),
        excerpt: "an \u{0}answer 🚀".to_owned(),
        duration_ms: 86_400_000,
        next,
        answer_by: None,
    }
}

/// The end of an attempt that led to this.
pub(super) fn tried(number: u32, next: After) -> Event {
    Event::Attempted(Box::new(attempt(number, next)))
}

/// A delivery whose answer is due this many milliseconds after the beginning.
pub(super) fn delivered(due: Option<i64>) -> Event {
    let attempt = attempt(1, After::Arrived).answer_by(due.map(at));
    Event::Attempted(Box::new(attempt))
}

pub(super) fn reason(kind: DeadKind) -> DeadReason {
    DeadReason::new(kind, "the channel answered 400 'no'")
}

/// One event of each kind, from a message that died once, was replayed, and was forwarded. The
/// first has replay count 0, the last 1.
pub(super) fn life(message_id: MessageId, beginning: i64) -> Vec<Entry> {
    let callback_id = CallbackId::generate();
    let retry = After::Retry { wait_ms: 1000 };
    let dead = reason(DeadKind::Refused);
    let replayed = Event::Replayed {
        replay_id: roundtrip_model::ReplayId::generate(),
        callback_id: None,
    };
    let events = [
        (0, accepted(r#"{"text":"hello"}"#)),
        (0, Event::Delivering { attempt: 1 }),
        (0, tried(1, retry.clone())),
        (0, tried(2, After::Dead(dead.clone()))),
        (0, Event::Dead(dead.clone())),
        (1, replayed),
        (1, tried(1, After::Arrived)),
        (
            1,
            Event::Answered {
                callback_id,
                content: None,
            },
        ),
        (
            1,
            Event::ForwardAttempted {
                callback_id,
                attempt: Box::new(attempt(1, retry)),
            },
        ),
        (
            1,
            Event::AnswerDead {
                callback_id,
                reason: dead,
            },
        ),
        (
            1,
            Event::ForwardAttempted {
                callback_id,
                attempt: Box::new(attempt(2, After::Arrived)),
            },
        ),
    ];
    (beginning..)
        .zip(events)
        .map(|(millis, (replay_count, event))| entry(message_id, replay_count, millis, event))
        .collect()
}

/// Entries as text, for comparison.
pub(super) fn texts(entries: &[Entry]) -> Vec<String> {
    entries
        .iter()
        .map(|entry| serde_json::to_string(entry).expect("JSON"))
        .collect()
}

pub(super) async fn record(store: &(impl Journal + ?Sized), entries: &[Entry]) {
    store.record(entries).await.expect("to record");
}

/// An existing message, and its timeline.
pub(super) async fn found(
    store: &(impl Journal + ?Sized),
    id: &MessageId,
) -> (MessageRecord, Vec<Entry>) {
    let found = store.message(id).await.expect("to look for the message");
    found.expect("the message to be there")
}

/// The content of a message to a channel.
pub(super) fn content(message: &MessageRecord) -> &Content {
    match &message.content {
        Some(MessageContent::Outbound(content)) => content,
        other => panic!("its content, not {other:?}"),
    }
}

/// The state of an existing message.
pub(super) async fn state(store: &(impl Journal + ?Sized), id: &MessageId) -> State {
    found(store, id).await.0.state
}

/// A dead letter whose message was accepted and died this many milliseconds after the beginning.
pub(super) fn dead_letter(millis: i64) -> DeadLetter {
    let message_id = message_id(millis);
    DeadLetter {
        dead_id: format!("{message_id}.0"),
        queue: DeadQueue::Outbound,
        webhook_id: message_id.to_string(),
        message_id: Some(message_id),
        channel_id: Some(super::id("c")),
        session_id: Some("s".parse().expect("a session id")),
        reason: reason(DeadKind::Refused),
        attempts: 3,
        replay_count: 0,
        accepted_at: at(millis),
        dead_at: at(millis),
        body: Bytes::from_static(b"\x00 not text \xff"),
        contents_erased_at: None,
    }
}
