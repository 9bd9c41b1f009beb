//! Inbound messages: what channels posted by themselves, beside what they were sent.

use roundtrip_model::{
    Entry, Event, MessageId, MessageKind, ReplayId, State,
    decision::DeadKind,
    journal::{After, KeptAnswer},
};
use roundtrip_store::{Detail, MessageContent, Turn};
use serde_json::{json, value::RawValue};

use super::{
    Harness,
    samples::{accepted, entry, found, message_id, reason, record, state, texts, tried},
};

/// An entry of the inbound message of this millisecond.
fn inbound(id: MessageId, replay_count: u32, millis: i64, event: Event) -> Entry {
    Entry {
        kind: MessageKind::Inbound,
        ..entry(id, replay_count, millis, event)
    }
}

/// The acceptance of this JSON, of which at most so many bytes are kept.
fn received(json: &str, most: usize) -> Event {
    let json = RawValue::from_string(json.to_owned()).expect("JSON");
    Event::Received(Some(Box::new(KeptAnswer::of(&json, most))))
}

/// In any order of the entries, and with the data byte for byte.
pub(crate) async fn an_inbound_message_has_its_own_timeline(harness: &impl Harness) {
    let store = &**harness.store();
    let replayed = Event::Replayed {
        replay_id: ReplayId::generate(),
        callback_id: None,
    };
    for (millis, most) in [(0, 100), (100, 4)] {
        let id = message_id(millis);
        let life = [
            (0, received(r#"{"n": 1.50}"#, most), State::Queued),
            (0, tried(1, After::Retry { wait_ms: 1 }), State::Retrying),
            (0, Event::Dead(reason(DeadKind::Refused)), State::Dead),
            (1, replayed.clone(), State::Replayed),
            (1, tried(1, After::Arrived), State::Forwarded),
        ];
        let mut entries = Vec::new();
        for (later, (replay_count, event, expected)) in (millis..).zip(life) {
            let entry = inbound(id, replay_count, later, event);
            record(store, std::slice::from_ref(&entry)).await;
            assert_eq!(state(store, &id).await, expected);
            entries.push(entry);
        }
        entries.reverse();
        record(store, &entries).await;
        entries.reverse();
        let (message, timeline) = found(store, &id).await;
        assert_eq!(texts(&timeline), texts(&entries));
        assert_eq!(message.kind, MessageKind::Inbound);
        assert_eq!(message.state, State::Forwarded);
    }
}

/// Alone, by state, and within channels. A channel takes none.
pub(crate) async fn messages_are_found_by_their_kind(harness: &impl Harness) {
    let store = &**harness.store();
    let arrived = || tried(1, After::Arrived);
    let entries = [
        entry(message_id(0), 0, 0, accepted("1")),
        entry(message_id(0), 0, 1, arrived()),
        inbound(message_id(10), 0, 10, received("2", 10)),
        inbound(message_id(20), 0, 20, received("3", 10)),
        inbound(message_id(20), 0, 21, arrived()),
        entry(message_id(30), 0, 30, accepted("4")),
    ];
    record(store, &entries).await;
    for (filter, expected) in [
        (json!({}), vec![30, 20, 10, 0]),
        (json!({"kind": "outbound"}), vec![30, 0]),
        (json!({"kind": "inbound"}), vec![20, 10]),
        (json!({"kind": "inbound", "state": "queued"}), vec![10]),
        (json!({"state": "queued"}), vec![30, 10]),
        (json!({"state": "forwarded"}), vec![20]),
        (json!({"state": "taken"}), vec![0]),
        (json!({"state": "taken", "kind": "outbound"}), vec![0]),
        (json!({"state": "taken", "kind": "inbound"}), vec![]),
        (
            json!({"kind": "inbound", "channel_ids": ["c"]}),
            vec![20, 10],
        ),
        (json!({"kind": "inbound", "channel_ids": ["d"]}), vec![]),
    ] {
        let parsed = serde_json::from_value(filter.clone()).expect("a filter");
        let page = store.messages(&parsed, None, 10, Detail::Outline).await;
        let ids: Vec<_> = page
            .expect("a page")
            .into_iter()
            .map(|message| message.message_id)
            .collect();
        let expected: Vec<_> = expected.into_iter().map(message_id).collect();
        assert_eq!(ids, expected, "{filter}");
        let count = store.count_messages(&parsed).await.expect("a count");
        assert_eq!(count, expected.len() as u64, "{filter}");
    }
}

pub(crate) async fn a_conversation_shows_what_was_said_first(harness: &impl Harness) {
    let store = &**harness.store();
    let entries = [
        inbound(message_id(10), 0, 10, received("\"hello?\"", 100)),
        entry(message_id(0), 0, 0, accepted("1")),
        entry(message_id(20), 0, 20, accepted("2")),
    ];
    record(store, &entries).await;
    let session = "s".parse().expect("a session id");
    let page = store.conversation(&session, None, None, 10).await;
    let said: Vec<_> = page
        .expect("a page")
        .turns
        .iter()
        .map(|turn| match turn {
            Turn::Message(message) => match &message.content {
                Some(MessageContent::Outbound(content)) => content.message.get().to_owned(),
                Some(MessageContent::Inbound(data)) => serde_json::to_string(data).expect("JSON"),
                None => panic!("{message:?}"),
            },
            Turn::Answer(answer) => panic!("{answer:?}"),
        })
        .collect();
    assert_eq!(said, ["1", r#"{"response_data":"hello?"}"#, "2"]);
}
