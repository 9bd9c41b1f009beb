use roundtrip_model::{EntryId, MessageKind};
use roundtrip_store::AnswerRecord;
use serde_json::{Value, json};
use time::{Duration, macros::datetime};

use super::*;

const BEGINNING: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);

fn id(number: usize) -> CallbackId {
    format!("cb_{number:032x}").parse().unwrap()
}

/// An entry so many seconds after the beginning.
fn entry(seconds: i64, replay_count: u32, event: &Value) -> Entry {
    Entry {
        entry_id: EntryId::generate(),
        message_id: "msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f".parse().ok(),
        channel_id: "c".parse().ok(),
        session_id: "s".parse().unwrap(),
        kind: MessageKind::Outbound,
        replay_count,
        at: BEGINNING + Duration::seconds(seconds),
        event: serde_json::from_str(&event.to_string()).unwrap(),
    }
}

fn answered(number: usize) -> Value {
    json!({"answered": {"callback_id": id(number).to_string()}})
}

fn forward(number: usize, attempt: u32, next: &Value) -> Value {
    json!({"forward_attempted": {"callback_id": id(number).to_string(), "attempt": {
        "attempt": attempt, "status": 503, "duration_ms": 1, "next": next
    }}})
}

fn waits(attempts: u32) -> Value {
    json!({"waiting": {
        "callback_id": id(1).to_string(), "attempts": attempts, "reason": "sessions_server_failing"
    }})
}

fn dies() -> Value {
    json!({"answer_dead": {
        "callback_id": id(1).to_string(), "reason": {"kind": "refused", "detail": "400"}
    }})
}

fn replayed(number: usize) -> Value {
    json!({"replayed": {
        "replay_id": "rpl_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f", "callback_id": id(number).to_string()
    }})
}

/// Answers with these numbers, whose content is their number.
fn stored(numbers: impl IntoIterator<Item = usize>) -> Answers {
    let answers = numbers.into_iter().map(|number| AnswerRecord {
        callback_id: id(number),
        at: BEGINNING + Duration::seconds(i64::try_from(number).unwrap()),
        content: Some(KeptAnswer::ResponseData(
            serde_json::from_str(&number.to_string()).unwrap(),
        )),
        contents_erased_at: None,
    });
    Answers {
        answers: answers.collect(),
        has_earlier: false,
    }
}

fn json(shown: &ShownAnswers) -> Value {
    serde_json::to_value(shown).unwrap()
}

/// The state and the attempts of answer 1 after each of these events.
#[track_caller]
fn walk(steps: Vec<(u32, Value, &str, u32)>) {
    let mut timeline = vec![entry(1, 0, &answered(1))];
    for (seconds, (replay_count, event, state, attempts)) in (2..).zip(steps) {
        timeline.push(entry(seconds, replay_count, &event));
        let shown = json(&shown(stored([1]), &timeline));
        let forward = &shown["answers"][0]["forward"];
        assert_eq!(forward["state"], state, "{event}");
        assert_eq!(forward["attempts"], attempts, "{event}");
    }
}

#[test]
fn the_forward_of_an_answer_follows_its_entries() {
    let retry = json!({"retry": {"wait_ms": 1}});
    let dead = json!({"dead": {"kind": "refused", "detail": "400"}});
    walk(vec![
        // Another answer changes nothing.
        (0, forward(2, 1, &json!("arrived")), "queued", 0),
        (0, waits(0), "waiting", 0),
        (0, forward(1, 1, &retry), "retrying", 1),
        (0, waits(1), "waiting", 1),
        (0, forward(1, 2, &dead), "dead", 2),
        (0, dies(), "dead", 2),
        (1, replayed(2), "dead", 2),
        (1, replayed(1), "queued", 0),
        (1, forward(1, 1, &retry), "retrying", 1),
        (1, forward(1, 2, &json!("arrived")), "forwarded", 2),
        // The channel posted it again, and an earlier attempt of a lost process ended late.
        (0, answered(1), "forwarded", 2),
        (1, forward(1, 1, &retry), "forwarded", 2),
    ]);
}

#[test]
fn an_answer_has_its_content_and_its_last_attempt() {
    let timeline = [
        entry(1, 0, &answered(1)),
        entry(9, 0, &forward(1, 1, &json!({"retry": {"wait_ms": 1}}))),
        entry(9, 0, &waits(1)),
    ];
    let expected = json!({"answers": [{
        "callback_id": id(1).to_string(),
        "at": "2026-11-23T12:00:01Z",
        "response_data": 1,
        "forward": {
            "state": "waiting",
            "attempts": 1,
            "last_attempt": {"at": "2026-11-23T12:00:09Z", "status": 503},
            "waiting": serde_json::to_value(Waiting::new(
                roundtrip_model::waiting::WaitReason::SessionsServerFailing, None
            )).unwrap(),
        },
    }]});
    assert_eq!(json(&shown(stored([1]), &timeline)), expected);
}

#[test]
fn an_answer_of_an_earlier_version_is_shown_without_content() {
    let timeline = [entry(1, 0, &answered(1)), entry(2, 0, &answered(2))];
    let shown = json(&shown(stored([2]), &timeline));
    assert_eq!(shown["answers"][0]["callback_id"], id(1).to_string());
    assert_eq!(shown["answers"][0].get("response_data"), None);
    assert_eq!(shown["answers"][1]["response_data"], 2);
    assert_eq!(shown.get("earlier_answers_omitted"), None);
}

#[test]
fn of_many_answers_the_latest_are_shown() {
    let most = usize::from(MAX_ANSWERS);
    let timeline: Vec<_> = (0..most + 5)
        .map(|number| entry(i64::try_from(number).unwrap(), 0, &answered(number)))
        .collect();
    let of_earlier_version = json(&shown(Answers::default(), &timeline));
    let page = Answers {
        has_earlier: true,
        ..stored(5..most + 5)
    };
    for shown in [of_earlier_version, json(&shown(page, &timeline))] {
        let answers = shown["answers"].as_array().unwrap();
        assert_eq!(answers.len(), most);
        assert_eq!(answers[0]["callback_id"], id(5).to_string());
        assert_eq!(shown["earlier_answers_omitted"], true);
    }
}

#[test]
fn a_forward_that_the_timeline_leaves_out_is_not_guessed() {
    let retry = json!({"retry": {"wait_ms": 1}});
    let mut timeline = vec![
        entry(1, 0, &answered(1)),
        entry(2, 0, &forward(1, 1, &retry)),
    ];
    timeline.extend((3..).take(MAX_ENTRIES - 2).map(|seconds| {
        entry(
            seconds,
            0,
            &forward(2, u32::try_from(seconds).unwrap(), &retry),
        )
    }));
    let shown = json(&shown(stored([1, 2]), &timeline));
    assert_eq!(shown["answers"][0].get("forward"), None);
    assert_eq!(shown["answers"][1]["forward"]["state"], "retrying");
}
