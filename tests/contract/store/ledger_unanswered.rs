//! Delivered messages whose answer is due.

use roundtrip_model::{
    CallbackId, Entry, Event, MessageId, ReplayId, State,
    journal::{After, Content},
};
use roundtrip_store::{Journal, MessageContent};
use serde_json::value::RawValue;

use super::{
    Harness,
    samples::{
        accepted, at, attempt, delivered, entry, found, message_id, record, state, texts, tried,
    },
};

/// Later than every time of these cases.
const LATER: i64 = 100_000;

/// The messages whose answer was due so many milliseconds after the beginning, each with that time.
async fn unanswered(
    store: &(impl Journal + ?Sized),
    millis: i64,
    limit: u16,
) -> Vec<(MessageId, i64)> {
    let found = store.unanswered(at(millis), limit).await;
    let found = found.expect("to look for them").into_iter();
    let due = found.map(|message| {
        assert_eq!(message.state, State::Delivered);
        let due = message.answer_by.expect("its time") - at(0);
        let due = i64::try_from(due.whole_milliseconds()).expect("a few");
        (message.message_id, due)
    });
    due.collect()
}

/// The earliest first, and not before its time. Other messages are never among them.
pub(crate) async fn a_delivered_message_is_unanswered_from_its_time_on(harness: &impl Harness) {
    let store = &**harness.store();
    let [first, second, third, without, queued] = [0, 1, 2, 3, 4].map(message_id);
    let entries = [
        entry(second, 0, 0, delivered(Some(2_000))),
        entry(third, 0, 0, delivered(Some(3_000))),
        entry(first, 0, 0, delivered(Some(1_000))),
        entry(without, 0, 0, tried(1, After::Arrived)),
        entry(queued, 0, 0, accepted("1")),
    ];
    record(store, &entries).await;
    let due = [(first, 1_000), (second, 2_000), (third, 3_000)];
    assert_eq!(unanswered(store, 999, 10).await, []);
    assert_eq!(unanswered(store, 1_000, 10).await, due[..1]);
    assert_eq!(unanswered(store, 2_999, 10).await, due[..2]);
    assert_eq!(unanswered(store, LATER, 10).await, due);
    assert_eq!(unanswered(store, LATER, 2).await, due[..2]);
    assert_eq!(unanswered(store, LATER, 0).await, []);
    let (message, timeline) = found(store, &first).await;
    assert_eq!(message.answer_by, Some(at(1_000)));
    assert_eq!(texts(&timeline), texts(&entries[2..3]));
    assert_eq!(found(store, &without).await.0.answer_by, None);
}

pub(crate) async fn the_order_of_entries_does_not_decide_whether_an_answer_is_due(
    harness: &impl Harness,
) {
    const ORDERS: [[usize; 3]; 6] = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    let store = &**harness.store();
    let callback_id = CallbackId::generate();
    let answered = Event::Answered {
        callback_id,
        content: None,
    };
    let forwarded = Event::ForwardAttempted {
        callback_id,
        attempt: Box::new(attempt(1, After::Arrived)),
    };
    let replay_id = ReplayId::generate();
    let retry = After::Retry { wait_ms: 1 };
    let replayed = Event::Replayed {
        replay_id,
        callback_id: None,
    };
    let cases = [
        // The ack of a delivery was lost, and the message was delivered again.
        (0, delivered(Some(70)), State::Delivered, Some(70)),
        (0, delivered(Some(30)), State::Delivered, Some(50)),
        (0, tried(1, After::Arrived), State::Delivered, Some(50)),
        (0, tried(1, retry), State::Delivered, Some(50)),
        (0, Event::Overdue {}, State::Overdue, None),
        (0, answered, State::Answered, None),
        (0, forwarded, State::Forwarded, None),
        (1, replayed, State::Replayed, None),
        (1, tried(1, After::Arrived), State::Delivered, None),
        (1, delivered(Some(90)), State::Delivered, Some(90)),
    ];
    let mut expected = Vec::new();
    let mut number = 0;
    for (replay_count, event, reached, due) in cases {
        for order in ORDERS {
            let id = message_id(number);
            number += 1;
            let entries = [
                entry(id, 0, 0, accepted("1")),
                entry(id, 0, 1, delivered(Some(50))),
                // Of the same time: the time of the latest entry does not change.
                entry(id, replay_count, 1, event.clone()),
            ];
            for index in order {
                record(store, &entries[index..=index]).await;
            }
            let message = found(store, &id).await.0;
            let stored = (message.state, message.answer_by);
            assert_eq!(stored, (reached, due.map(at)), "{event:?} {order:?}");
            expected.extend(due.map(|due| (due, id)));
        }
    }
    expected.sort_unstable();
    let expected: Vec<_> = expected.into_iter().map(|(due, id)| (id, due)).collect();
    assert_eq!(unanswered(store, LATER, 1000).await, expected);
}

/// By two recorders, or by one after a crash. A late answer leads on.
pub(crate) async fn an_overdue_entry_that_is_made_twice_is_one(harness: &impl Harness) {
    let store = &**harness.store();
    let id = message_id(0);
    record(store, &[entry(id, 0, 0, delivered(Some(50)))]).await;
    let overdue = || {
        let due = at(50);
        Entry::overdue(id, super::id("c"), "s".parse().expect("an id"), 0, due)
    };
    record(store, &[overdue(), overdue()]).await;
    record(store, &[overdue()]).await;
    let (message, timeline) = found(store, &id).await;
    assert_eq!(message.state, State::Overdue);
    assert_eq!(message.updated_at, at(50));
    assert_eq!(timeline.len(), 2);
    assert_eq!(unanswered(store, LATER, 10).await, []);
    let answered = Event::Answered {
        callback_id: CallbackId::generate(),
        content: None,
    };
    record(store, &[entry(id, 0, 70, answered)]).await;
    assert_eq!(state(store, &id).await, State::Answered);
}

/// A replay sends the message with it.
pub(crate) async fn the_time_that_a_producer_gave_for_an_answer_is_kept(harness: &impl Harness) {
    let store = &**harness.store();
    for (millis, answer_within_ms) in [(0, None), (1, Some(2_000))] {
        let id = message_id(millis);
        let content = Content {
            message: RawValue::from_string("1".to_owned()).expect("JSON"),
            response_url: "http://gateway/webhook-response".to_owned(),
            answer_within_ms,
        };
        record(
            store,
            &[entry(
                id,
                0,
                millis,
                Event::Accepted(Some(Box::new(content))),
            )],
        )
        .await;
        let (message, timeline) = found(store, &id).await;
        let Some(MessageContent::Outbound(kept)) = message.content else {
            panic!("its content");
        };
        assert_eq!(kept.answer_within_ms, answer_within_ms);
        let Event::Accepted(Some(content)) = &timeline[0].event else {
            panic!("{timeline:?}");
        };
        assert_eq!(content.answer_within_ms, answer_within_ms);
    }
}
