//! What was said in a session.

use roundtrip_model::{ChannelId, Entry, Event, MessageId, SessionId, journal::KeptAnswer};
use roundtrip_store::{Conversation, Journal, MAX_PAGE_BYTES, Turn};
use serde_json::value::RawValue;

use super::{
    Harness,
    samples::{accepted, at, content, entry, message_id, record},
};

/// A message that was accepted this many milliseconds after the beginning.
fn message(millis: i64, json: &str) -> Entry {
    entry(message_id(millis), 0, millis, accepted(json))
}

/// An answer to it.
fn answer(of: MessageId, millis: i64, json: &str) -> Entry {
    let json = RawValue::from_string(json.to_owned()).expect("JSON");
    let event = Event::Answered {
        callback_id: roundtrip_model::CallbackId::generate(),
        content: Some(KeptAnswer::ResponseData(json)),
    };
    entry(of, 0, millis, event)
}

fn session() -> SessionId {
    "s".parse().expect("a session id")
}

/// Each turn's time after the beginning and its content, as text.
fn texts(page: &Conversation) -> Vec<String> {
    let text = |turn: &Turn| {
        let millis = (turn.at() - at(0)).whole_milliseconds();
        match turn {
            Turn::Message(message) => {
                format!("{millis} says {}", content(message).message)
            }
            Turn::Answer(answer) => match &answer.content {
                Some(KeptAnswer::ResponseData(json)) => format!("{millis} answers {json}"),
                content => panic!("{content:?}"),
            },
        }
    };
    page.turns.iter().map(text).collect()
}

/// All pages of this length, one after the other.
async fn pages(
    store: &(impl Journal + ?Sized),
    channels: Option<&[ChannelId]>,
    limit: u16,
) -> Vec<Vec<String>> {
    let session = session();
    let mut pages = Vec::new();
    let mut after = None;
    loop {
        let page = store.conversation(&session, channels, after.as_ref(), limit);
        let page = page.await.expect("a page");
        assert!(page.turns.len() <= usize::from(limit));
        after = page.turns.last().map(Turn::cursor);
        pages.push(texts(&page));
        if !page.has_more {
            return pages;
        }
        assert!(after.is_some(), "a page that others follow is not empty");
    }
}

/// On pages of every length; the answer of a millisecond comes after its message.
pub(crate) async fn a_conversation_is_in_the_order_of_time(harness: &impl Harness) {
    let store = &**harness.store();
    assert_eq!(pages(store, None, 2).await, [[""; 0]]);
    let mut elsewhere = message(3, "\"elsewhere\"");
    elsewhere.session_id = "other".parse().expect("a session id");
    let mut answered_elsewhere = answer(message_id(3), 4, "0");
    answered_elsewhere.session_id = elsewhere.session_id.clone();
    let entries = [
        elsewhere,
        answered_elsewhere,
        answer(message_id(10), 30, "30"),
        answer(message_id(0), 10, "10"),
        message(10, "{\"n\": 1.0}"),
        answer(message_id(0), 9, "9"),
        message(0, "0"),
        answer(message_id(0), 40, "40"),
        message(50, "50"),
    ];
    record(store, &entries).await;
    let expected = [
        "0 says 0",
        "9 answers 9",
        "10 says {\"n\": 1.0}",
        "10 answers 10",
        "30 answers 30",
        "40 answers 40",
        "50 says 50",
    ];
    for limit in 1..9 {
        let pages = pages(store, None, limit).await;
        assert_eq!(pages.concat(), expected, "by {limit}");
        let most = expected.len().div_ceil(usize::from(limit));
        assert_eq!(pages.len(), most, "by {limit}");
    }
}

pub(crate) async fn a_conversation_has_only_the_callers_channels(harness: &impl Harness) {
    let store = &**harness.store();
    let mut other = [message(1, "1"), answer(message_id(1), 3, "3")];
    for entry in &mut other {
        entry.channel_id = Some(super::id("other"));
    }
    record(store, &[message(0, "0"), answer(message_id(0), 2, "2")]).await;
    record(store, &other).await;
    let of = async |channels: &[&str]| {
        let channels: Vec<_> = channels.iter().map(|id| super::id(id)).collect();
        pages(store, Some(&channels), 10).await.concat()
    };
    assert_eq!(of(&["c"]).await, ["0 says 0", "2 answers 2"]);
    assert_eq!(of(&["other"]).await, ["1 says 1", "3 answers 3"]);
    assert_eq!(of(&[]).await, [""; 0]);
    assert_eq!(of(&["c", "other"]).await.len(), 4);
}

pub(crate) async fn a_long_conversation_is_read_in_pages_of_bounded_bytes(harness: &impl Harness) {
    let store = &**harness.store();
    let json = format!("\"{}\"", "long ".repeat(MAX_PAGE_BYTES * 2 / 25));
    for millis in [0, 10, 20] {
        let answers = [1, 2].map(|later| answer(message_id(millis), millis + later, &json));
        record(store, &[message(millis, &json)]).await;
        record(store, &answers).await;
    }
    let pages = pages(store, None, 100).await;
    assert!(pages.iter().all(|page| page.len() <= 2), "{}", pages.len());
    let said: Vec<_> = pages
        .concat()
        .iter()
        .map(|turn| turn.split(" \"").next().unwrap_or_default().to_owned())
        .collect();
    let expected = [0, 10, 20].map(|millis| {
        [
            format!("{millis} says"),
            format!("{} answers", millis + 1),
            format!("{} answers", millis + 2),
        ]
    });
    assert_eq!(said, expected.concat());
}
