//! The commands that are sent, without a server.

use roundtrip_model::{
    EntryId, Event, MessageId, MessageKind,
    journal::{After, Attempt, Content},
};
use serde_json::value::RawValue;
use time::macros::datetime;

use super::{super::super::MESSAGES, *};

/// The server refuses larger commands.
const SERVER_LIMIT: usize = 16 << 20;

fn entry(message_id: MessageId, event: Event) -> Entry {
    Entry {
        entry_id: EntryId::generate(),
        message_id: Some(message_id),
        channel_id: "c".parse().ok(),
        session_id: "s".parse().unwrap(),
        kind: MessageKind::Outbound,
        replay_count: 0,
        at: datetime!(2026-11-23 12:00 UTC),
        event,
    }
}

fn accepted(bytes: usize) -> Event {
    let message = format!("\"{}\"", "x".repeat(bytes));
    Event::Accepted(Some(Box::new(Content {
        message: RawValue::from_string(message).unwrap(),
        response_url: "http://h/".to_owned(),
        answer_within_ms: None,
    })))
}

fn arrived() -> Event {
    Event::Attempted(Box::new(Attempt {
        attempt: 1,
        status: Some(200),
        error: None,
        location: None,
        excerpt: String::new(),
        duration_ms: 1,
        next: After::Arrived,
        answer_by: None,
    }))
}

#[test]
fn no_command_is_larger_than_the_server_takes() {
    let entries: Vec<Entry> = (0..40)
        .map(|_| entry(MessageId::generate(), accepted(1 << 20)))
        .collect();
    let commands = commands(&entries).unwrap();
    for updates in &commands {
        let command = doc! { "update": MESSAGES, "updates": updates.clone() };
        let bytes = bson::serialize_to_vec(&command).unwrap().len();
        assert!(bytes < SERVER_LIMIT, "{bytes}");
    }
    assert_eq!(commands.iter().map(Vec::len).sum::<usize>(), entries.len());
}

#[test]
fn a_message_is_updated_once_by_all_of_its_entries() {
    let id = MessageId::generate();
    let (first, last) = (entry(id, accepted(1)), entry(id, arrived()));
    for entries in [[&first, &last], [&last, &first]] {
        let commands = commands(&entries.map(Clone::clone)).unwrap();
        let [update] = &commands.concat()[..] else {
            panic!("one message, {commands:?}")
        };
        let change = update.get_document("u").unwrap();
        let position = change
            .get_document("$max")
            .unwrap()
            .get_document("position");
        assert_eq!(position.unwrap().get_str("s").unwrap(), "delivered");
        assert!(change.get_document("$set").unwrap().contains_key("content"));
    }
}
