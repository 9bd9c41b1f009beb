//! A timeline entry as the API shows it.
//!
//! The stored form of an entry is older and stays: queues and stores hold it. Invariant: every entry
//! names its `type` beside the fields of that type, and every time is RFC 3339.

use std::collections::BTreeMap;

use roundtrip_model::{
    CallbackId, ChannelId, DeadReason, Entry, EntryId, Event, MessageId, MessageKind, ReplayId,
    SessionId,
    journal::{After, Attempt, Content, KeptAnswer},
    waiting::WaitReason,
};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use time::OffsetDateTime;

#[derive(Debug, Serialize)]
pub(super) struct TimelineEntry {
    #[serde(flatten, with = "ShownEntry")]
    entry: Entry,
    /// The entry is an answer that came after it was due.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    late: bool,
}

/// The entries of one message. An answer to a delivery is late if it came after the time by which the
/// delivery's entry, or that of the overdue message, says that it was due.
pub(super) fn timeline(entries: Vec<Entry>) -> Vec<TimelineEntry> {
    let mut due = BTreeMap::new();
    for entry in &entries {
        let answer_by = match &entry.event {
            Event::Attempted(attempt) => attempt.answer_by,
            Event::Overdue {} => Some(entry.at),
            _ => None,
        };
        let latest = due.entry(entry.replay_count).or_insert(answer_by);
        *latest = answer_by.max(*latest);
    }
    let shown = entries.into_iter().map(|entry| {
        let is_answer = matches!(entry.event, Event::Answered { .. });
        let due = due.get(&entry.replay_count).copied().flatten();
        TimelineEntry {
            late: is_answer && due.is_some_and(|due| entry.at > due),
            entry,
        }
    });
    shown.collect()
}

#[derive(Serialize)]
#[serde(remote = "Entry")]
struct ShownEntry {
    entry_id: EntryId,
    message_id: Option<MessageId>,
    channel_id: Option<ChannelId>,
    session_id: SessionId,
    /// In the message.
    #[serde(skip)]
    kind: MessageKind,
    replay_count: u32,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    #[serde(flatten, with = "ShownEvent")]
    event: Event,
}

#[derive(Serialize)]
#[serde(remote = "Event", tag = "type", rename_all = "snake_case")]
enum ShownEvent {
    Accepted(#[serde(serialize_with = "if_kept")] Option<Box<Content>>),
    Received(#[serde(serialize_with = "data_if_kept")] Option<Box<KeptAnswer>>),
    Waiting {
        #[serde(skip_serializing_if = "Option::is_none")]
        callback_id: Option<CallbackId>,
        attempts: u32,
        reason: WaitReason,
        #[serde(
            with = "time::serde::rfc3339::option",
            skip_serializing_if = "Option::is_none"
        )]
        until: Option<OffsetDateTime>,
    },
    Cancelled {},
    Delivering {
        attempt: u32,
    },
    Attempted(#[serde(with = "ShownAttempt")] Box<Attempt>),
    Overdue {},
    Answered {
        callback_id: CallbackId,
        /// In the message's answers.
        #[serde(skip)]
        content: Option<KeptAnswer>,
    },
    ForwardAttempted {
        callback_id: CallbackId,
        #[serde(flatten, with = "ShownAttempt")]
        attempt: Box<Attempt>,
    },
    Dead(#[serde(serialize_with = "as_field")] DeadReason),
    AnswerDead {
        callback_id: CallbackId,
        reason: DeadReason,
    },
    Replayed {
        replay_id: ReplayId,
        #[serde(skip_serializing_if = "Option::is_none")]
        callback_id: Option<CallbackId>,
    },
}

/// The data of an inbound message.
#[derive(Debug, Serialize)]
#[serde(remote = "KeptAnswer", rename_all = "snake_case")]
enum ShownData {
    #[serde(rename = "data")]
    ResponseData(Box<RawValue>),
    #[serde(rename = "truncated_data")]
    TruncatedResponseData { head: String, bytes: usize },
}

#[derive(Serialize)]
#[serde(remote = "Attempt")]
struct ShownAttempt {
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    excerpt: String,
    duration_ms: u64,
    #[serde(serialize_with = "next")]
    next: After,
    #[serde(
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    answer_by: Option<OffsetDateTime>,
}

#[derive(Serialize)]
#[serde(remote = "After", tag = "type", rename_all = "snake_case")]
enum Next {
    #[serde(rename = "done")]
    Arrived,
    Retry {
        wait_ms: u64,
    },
    #[serde(rename = "dead_letter")]
    Dead(#[serde(serialize_with = "as_field")] DeadReason),
}

/// A retry without a time is stored for a message that waits, as for its paused channel.
fn next<S: Serializer>(after: &After, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(tag = "type", rename = "wait")]
    struct Wait {}
    match after {
        After::Retry { wait_ms: 0 } => Wait {}.serialize(serializer),
        after => Next::serialize(after, serializer),
    }
}

/// Shown in the place of contents that were erased.
#[derive(Serialize)]
struct Erased {}

/// The fields of the content, or none if it was erased.
#[expect(clippy::ref_option, reason = "serde calls it so")]
fn if_kept<S: Serializer>(
    content: &Option<Box<Content>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match content {
        Some(content) => content.serialize(serializer),
        None => Erased {}.serialize(serializer),
    }
}

/// The data of an inbound message, or nothing if it was erased.
#[expect(clippy::ref_option, reason = "serde calls it so")]
pub(super) fn data_if_kept<S: Serializer>(
    data: &Option<Box<KeptAnswer>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match data {
        Some(data) => ShownData::serialize(data, serializer),
        None => Erased {}.serialize(serializer),
    }
}

/// The reason as a field beside the `type`, instead of its own fields.
fn as_field<S: Serializer>(reason: &DeadReason, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Field<'a> {
        reason: &'a DeadReason,
    }
    Field { reason }.serialize(serializer)
}

#[cfg(test)]
mod tests {
    use axum::http::Method;
    use rstest::rstest;
    use serde_json::{Value, json};

    use crate::tests::Bench;

    const UUID: &str = "0192f0c1a2b37c4d8e9f0a1b2c3d4e5f";

    /// An entry as the journal stores it, with this event.
    fn stored(event: &Value) -> String {
        let kind = event.get("received").map_or("", |_| r#""kind":"inbound","#);
        format!(
            r#"{{"entry_id":"ent_{UUID}","message_id":"msg_{UUID}","channel_id":"c","session_id":"s",{kind}"round":2,"at":1795000000123,"event":{event}}}"#
        )
    }

    #[rstest]
    #[case::accepted(
        json!({"accepted": {"message": {"n": 1.0}, "response_url": "http://h/"}}),
        json!({"type": "accepted", "message": {"n": 1.0}, "response_url": "http://h/"})
    )]
    #[case::waiting(
        json!({"waiting": {"attempts": 0, "reason": "rate_limited"}}),
        json!({"type": "waiting", "attempts": 0, "reason": "rate_limited"})
    )]
    #[case::waiting_for_a_time(
        json!({"waiting": {"attempts": 1, "reason": "retry", "until": 1_795_000_000_123_i64}}),
        json!({
            "type": "waiting", "attempts": 1, "reason": "retry", "until": "2026-11-18T11:06:40.123Z"
        })
    )]
    #[case::cancelled(json!({"cancelled": {}}), json!({"type": "cancelled"}))]
    #[case::answer_waiting(
        json!({"waiting": {
            "callback_id": format!("cb_{UUID}"), "attempts": 2, "reason": "sessions_server_failing"
        }}),
        json!({
            "type": "waiting", "callback_id": format!("cb_{UUID}"), "attempts": 2,
            "reason": "sessions_server_failing"
        })
    )]
    #[case::delivering(
        json!({"delivering": {"attempt": 1}}),
        json!({"type": "delivering", "attempt": 1})
    )]
    #[case::done(
        json!({"attempted": {
            "attempt": 1, "status": 200, "excerpt": "ok", "duration_ms": 5, "next": "arrived"
        }}),
        json!({
            "type": "attempted", "attempt": 1, "status": 200, "excerpt": "ok", "duration_ms": 5,
            "next": {"type": "done"}
        })
    )]
    #[case::done_with_a_time_for_the_answer(
        json!({"attempted": {
            "attempt": 1, "status": 200, "duration_ms": 5, "next": "arrived",
            "answer_by": 1_795_000_002_123_i64
        }}),
        json!({
            "type": "attempted", "attempt": 1, "status": 200, "duration_ms": 5,
            "next": {"type": "done"}, "answer_by": "2026-11-18T11:06:42.123Z"
        })
    )]
    #[case::overdue(json!({"overdue": {}}), json!({"type": "overdue"}))]
    #[case::retry(
        json!({"attempted": {
            "attempt": 1, "status": 307, "location": "http://h/", "duration_ms": 5,
            "next": {"retry": {"wait_ms": 1000}}
        }}),
        json!({
            "type": "attempted", "attempt": 1, "status": 307, "location": "http://h/",
            "duration_ms": 5, "next": {"type": "retry", "wait_ms": 1000}
        })
    )]
    #[case::waits(
        json!({"attempted": {
            "attempt": 1, "status": 410, "duration_ms": 5, "next": {"retry": {"wait_ms": 0}}
        }}),
        json!({
            "type": "attempted", "attempt": 1, "status": 410, "duration_ms": 5,
            "next": {"type": "wait"}
        })
    )]
    #[case::answered(
        json!({"answered": {"callback_id": format!("cb_{UUID}")}}),
        json!({"type": "answered", "callback_id": format!("cb_{UUID}")})
    )]
    #[case::forward_attempted(
        json!({"forward_attempted": {"callback_id": format!("cb_{UUID}"), "attempt": {
            "attempt": 3, "error": "timed out", "duration_ms": 5,
            "next": {"dead": {"kind": "too_old", "detail": "x"}}
        }}}),
        json!({
            "type": "forward_attempted", "callback_id": format!("cb_{UUID}"), "attempt": 3,
            "error": "timed out", "duration_ms": 5,
            "next": {"type": "dead_letter", "reason": {"kind": "too_old", "detail": "x"}}
        })
    )]
    #[case::dead(
        json!({"dead": {"kind": "refused", "detail": "400"}}),
        json!({"type": "dead", "reason": {"kind": "refused", "detail": "400"}})
    )]
    #[case::answer_dead(
        json!({"answer_dead": {
            "callback_id": format!("cb_{UUID}"), "reason": {"kind": "too_old", "detail": "x"}
        }}),
        json!({
            "type": "answer_dead", "callback_id": format!("cb_{UUID}"),
            "reason": {"kind": "too_old", "detail": "x"}
        })
    )]
    #[case::answer_replayed(
        json!({"replayed": {
            "replay_id": format!("rpl_{UUID}"), "callback_id": format!("cb_{UUID}")
        }}),
        json!({
            "type": "replayed", "replay_id": format!("rpl_{UUID}"),
            "callback_id": format!("cb_{UUID}")
        })
    )]
    #[case::replayed(
        json!({"replayed": {"replay_id": format!("rpl_{UUID}")}}),
        json!({"type": "replayed", "replay_id": format!("rpl_{UUID}")})
    )]
    #[case::received(
        json!({"received": {"response_data": {"n": 1.0}}}),
        json!({"type": "received", "data": {"n": 1.0}})
    )]
    #[case::received_in_part(
        json!({"received": {"truncated_response_data": {"head": "[1", "bytes": 9}}}),
        json!({"type": "received", "truncated_data": {"head": "[1", "bytes": 9}})
    )]
    #[tokio::test]
    async fn an_entry_of_the_stored_form_is_shown_with_its_type_beside_its_fields(
        #[case] event: Value,
        #[case] shown: Value,
    ) {
        let bench = Bench::new().await;
        let stored = stored(&event);
        let entry = serde_json::from_str(&stored).unwrap();
        // Other versions read the same queues and stores.
        assert_eq!(serde_json::to_string(&entry).unwrap(), stored);
        bench.store.record(&[entry]).await.unwrap();
        let path = format!("/channel/message/msg_{UUID}");
        let message = bench.request(Method::GET, &path, &[], "").await.json();
        let mut expected = json!({
            "entry_id": format!("ent_{UUID}"),
            "message_id": format!("msg_{UUID}"),
            "channel_id": "c",
            "session_id": "s",
            "replay_count": 2,
            "at": "2026-11-18T11:06:40.123Z",
        });
        let fields = shown.as_object().unwrap().clone();
        expected.as_object_mut().unwrap().extend(fields);
        assert_eq!(message["timeline"], json!([expected]));
        assert_eq!(message["updated_at"], "2026-11-18T11:06:40.123Z");
    }

    /// Deliveries of the replay counts 0 and 1, and answers to both.
    #[rstest]
    #[case::delivery(
        json!({"attempted": {
            "attempt": 1, "status": 200, "duration_ms": 5, "next": "arrived", "answer_by": 5
        }}),
        0
    )]
    #[case::overdue(json!({"overdue": {}}), 5)]
    fn an_answer_after_its_time_is_late(#[case] due: Value, #[case] at: i64) {
        let entry = |number: usize, replay_count: u32, at: i64, event: &Value| {
            let entry = json!({
                "entry_id": format!("ent_{number:032x}"), "message_id": format!("msg_{UUID}"),
                "channel_id": "c", "session_id": "s", "round": replay_count, "at": at,
                "event": event,
            });
            serde_json::from_value(entry).unwrap()
        };
        let answered = json!({"answered": {"callback_id": format!("cb_{UUID}")}});
        let entries = vec![
            entry(0, 0, at, &due),
            entry(1, 0, 4, &answered),
            entry(2, 0, 5, &answered),
            entry(3, 0, 6, &answered),
            entry(4, 1, 7, &answered),
        ];
        let shown = serde_json::to_value(super::timeline(entries)).unwrap();
        let late = shown.as_array().unwrap().iter();
        let late: Vec<_> = late.map(|entry| entry.get("late").is_some()).collect();
        assert_eq!(late, [false, false, false, true, false]);
    }
}
