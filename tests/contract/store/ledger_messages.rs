//! Filters and pages of messages.

use roundtrip_model::{
    CallbackId, Entry, Event, MessageId, ReplayId, State, decision::DeadKind, journal::After,
};
use serde_json::{Value, json};
use time::Duration;

use super::{
    Harness,
    samples::{accepted, at, attempt, content, entry, message_id, reason, record, text, tried},
};
use roundtrip_store::{Detail, Journal, MAX_PAGE_BYTES, MessageFilter, MessageRecord};

/// Twelve messages, one each second. The channels alternate between `a` and `b`, the sessions
/// between `x`, `y`, `z`. The first four are delivered, the next four retrying, the others queued.
async fn fill(store: &(impl Journal + ?Sized)) {
    let mut entries = Vec::new();
    for number in 0..12 {
        let millis = 1000 * number;
        let of = |millis, event| Entry {
            channel_id: Some(super::id(
                ["a", "b"][usize::try_from(number).expect("a few") % 2],
            )),
            session_id: ["x", "y", "z"][usize::try_from(number).expect("a few") % 3]
                .parse()
                .expect("a session id"),
            ..entry(message_id(1000 * number), 0, millis, event)
        };
        entries.push(of(millis, accepted("1")));
        let next = match number {
            0..4 => After::Arrived,
            4..8 => After::Retry { wait_ms: 1 },
            _ => continue,
        };
        entries.push(of(millis + 1, tried(1, next)));
    }
    record(store, &entries).await;
}

/// The seconds of the messages found.
async fn seconds(
    store: &(impl Journal + ?Sized),
    filter: &MessageFilter,
    after: Option<&MessageId>,
    limit: u16,
) -> Vec<i64> {
    let page = store
        .messages(filter, after, limit, Detail::Outline)
        .await
        .expect("a page");
    let known = |id: MessageId| (0..100).find(|second| message_id(1000 * second) == id);
    page.iter()
        .map(|message| known(message.message_id).expect("a message of the case"))
        .collect()
}

/// The messages of a state that leave it make way for the next ones.
pub(crate) async fn the_oldest_message_of_a_state_is_found(harness: &impl Harness) {
    let store = &**harness.store();
    let oldest = async |state| store.oldest(state).await.expect("a message or none");
    assert_eq!(oldest(State::Queued).await, None);
    fill(store).await;
    assert_eq!(oldest(State::Queued).await, Some(message_id(8000)));
    assert_eq!(oldest(State::Retrying).await, Some(message_id(4000)));
    assert_eq!(oldest(State::Dead).await, None);
    let delivered = entry(message_id(8000), 0, 9000, tried(1, After::Arrived));
    record(store, &[delivered]).await;
    assert_eq!(oldest(State::Queued).await, Some(message_id(9000)));
}

/// Each condition alone and several together. The count agrees with the list.
pub(crate) async fn messages_are_found_by_their_filter(harness: &impl Harness) {
    let store = &**harness.store();
    fill(store).await;
    let ids = |seconds: &[i64]| -> Value {
        seconds
            .iter()
            .map(|s| message_id(1000 * s).to_string())
            .collect()
    };
    for (filter, expected) in [
        (json!({}), vec![11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
        (json!({"session_id": "y"}), vec![10, 7, 4, 1]),
        (json!({"session_id": "unknown"}), vec![]),
        (json!({"channel_id": "b"}), vec![11, 9, 7, 5, 3, 1]),
        (
            json!({"channel_ids": ["b", "unknown", "b"]}),
            vec![11, 9, 7, 5, 3, 1],
        ),
        (json!({"channel_ids": []}), vec![]),
        (
            json!({"channel_ids": ["b", "a"], "state": "retrying"}),
            vec![7, 6, 5, 4],
        ),
        (
            json!({"channel_ids": ["b"], "since": text(at(9000))}),
            vec![11, 9],
        ),
        (
            json!({"channel_ids": ["a"], "session_id": "y"}),
            vec![10, 4],
        ),
        (json!({"channel_id": "a", "channel_ids": ["b"]}), vec![]),
        (json!({"state": "retrying"}), vec![7, 6, 5, 4]),
        (json!({"state": "dead"}), vec![]),
        (json!({"ids": ids(&[9, 2, 50])}), vec![9, 2]),
        (json!({"ids": []}), vec![]),
        (json!({"since": text(at(9000))}), vec![11, 10, 9]),
        (json!({"until": text(at(2000))}), vec![1, 0]),
        (
            json!({"since": text(at(2000)), "until": text(at(5000))}),
            vec![4, 3, 2],
        ),
        (json!({"channel_id": "a", "state": "delivered"}), vec![2, 0]),
        (
            json!({
                "ids": ids(&[0, 1, 2, 3, 6, 7, 10]),
                "session_id": "x",
                "channel_id": "a",
                "channel_ids": ["a", "b"],
                "state": "retrying",
                "since": text(at(1000)),
                "until": text(at(11_000)),
            }),
            vec![6],
        ),
    ] {
        let parsed = serde_json::from_value(filter.clone()).expect("a filter");
        let found = seconds(store, &parsed, None, 1000).await;
        assert_eq!(found, expected, "{filter}");
        let count = store.count_messages(&parsed).await.expect("a count");
        assert_eq!(count, expected.len() as u64, "{filter}");
    }
}

/// Delivered, answered or forwarded, or with a dead answer. Messages that are dead themselves or
/// were replayed since do not match.
pub(crate) async fn messages_that_their_channel_took_are_found_together(harness: &impl Harness) {
    let store = &**harness.store();
    let callback_id = CallbackId::generate();
    let replay_id = ReplayId::generate();
    let dead = reason(DeadKind::Refused);
    let arrived = || tried(1, After::Arrived);
    let answered = || Event::Answered {
        callback_id,
        content: None,
    };
    let forwarded = Event::ForwardAttempted {
        callback_id,
        attempt: Box::new(attempt(1, After::Arrived)),
    };
    let answer_dead = Event::AnswerDead {
        callback_id,
        reason: dead.clone(),
    };
    let lives = [
        vec![],
        vec![tried(1, After::Retry { wait_ms: 1 })],
        vec![arrived()],
        vec![arrived(), answered()],
        vec![arrived(), answered(), forwarded],
        vec![arrived(), answered(), answer_dead],
        vec![tried(1, After::Dead(dead.clone())), Event::Dead(dead)],
    ];
    let mut entries = Vec::new();
    for (second, life) in (0..).zip(lives) {
        let of = |event| entry(message_id(1000 * second), 0, 1000 * second, event);
        entries.push(of(accepted("1")));
        entries.extend(life.into_iter().map(of));
    }
    let again = Event::Replayed {
        replay_id,
        callback_id: None,
    };
    entries.push(entry(message_id(2000), 1, 9000, again));
    record(store, &entries).await;
    let (all, own) = (
        json!({"state": "taken"}),
        json!({"state": "taken", "channel_ids": ["c"]}),
    );
    for filter in [all, own] {
        let parsed = serde_json::from_value(filter.clone()).expect("a filter");
        let found = seconds(store, &parsed, None, 1000).await;
        assert_eq!(found, [5, 4, 3], "{filter}");
        let count = store.count_messages(&parsed).await.expect("a count");
        assert_eq!(count, 3, "{filter}");
    }
}

/// A message accepted exactly at a bound is within `since` and outside `until`. A bound between two
/// milliseconds counts as the later one.
pub(crate) async fn a_time_begins_with_since_and_ends_before_until(harness: &impl Harness) {
    let store = &**harness.store();
    fill(store).await;
    let little = Duration::nanoseconds(1);
    for (bound, newer, older) in [
        (at(10_000) - little, vec![11, 10], 10),
        (at(10_000), vec![11, 10], 10),
        (at(10_000) + little, vec![11], 11),
        (at(10_001), vec![11], 11),
        (
            time::macros::datetime!(1900-01-01 0:00 UTC),
            (0..12).rev().collect(),
            0,
        ),
        (time::macros::datetime!(9999-12-31 0:00 UTC), vec![], 12),
    ] {
        let since = MessageFilter {
            since: Some(bound),
            ..MessageFilter::default()
        };
        assert_eq!(
            seconds(store, &since, None, 1000).await,
            newer,
            "since {bound}"
        );
        let until = MessageFilter {
            until: Some(bound),
            ..MessageFilter::default()
        };
        let found = seconds(store, &until, None, 1000).await;
        assert_eq!(found, (0..older).rev().collect::<Vec<_>>(), "until {bound}");
    }
}

/// A list shows the same of a message as a single read, including its content.
pub(crate) async fn a_listed_message_is_the_message(harness: &impl Harness) {
    let store = &**harness.store();
    fill(store).await;
    let only = MessageFilter {
        message_ids: Some(vec![message_id(5000)]),
        ..MessageFilter::default()
    };
    let listed = async |detail| {
        let page = store.messages(&only, None, 10, detail).await;
        let page = page.expect("a page");
        assert_eq!(page.len(), 1, "{page:?}");
        page.into_iter().next().expect("one message")
    };
    let outline = listed(Detail::Outline).await;
    assert!(outline.content.is_none(), "{outline:?}");
    let listed = listed(Detail::Whole).await;
    assert_eq!(
        (outline.message_id, outline.state, outline.updated_at),
        (listed.message_id, listed.state, listed.updated_at)
    );
    assert_eq!(listed.message_id, message_id(5000));
    assert_eq!(listed.channel_id.as_str(), "b");
    assert_eq!(listed.session_id.as_str(), "z");
    assert_eq!(listed.state, State::Retrying);
    assert_eq!(listed.replay_count, 0);
    assert_eq!(listed.updated_at, at(5001));
    assert_eq!(content(&listed).message.get(), "1");
}

/// New messages arrive and old ones change their state between two pages.
pub(crate) async fn pages_hold_every_message_once_while_new_ones_come(harness: &impl Harness) {
    let store = &**harness.store();
    let all = MessageFilter::default();
    fill(store).await;
    let mut seen = Vec::new();
    let mut after = None;
    let mut newest = 12;
    loop {
        let page = seconds(store, &all, after.as_ref(), 5).await;
        let Some(last) = page.last() else {
            break;
        };
        after = Some(message_id(1000 * last));
        seen.extend(page);
        let millis = 1000 * newest;
        let delivered = tried(2, After::Arrived);
        record(
            store,
            &[
                entry(message_id(millis), 0, millis, accepted("1")),
                entry(message_id(8000), 0, millis, delivered),
            ],
        )
        .await;
        newest += 1;
    }
    assert_eq!(seen, (0..12).rev().collect::<Vec<_>>());
    assert_eq!(seconds(store, &all, None, 1).await, [newest - 1]);
}

/// Also within channels: the latest of all of them first.
pub(crate) async fn pages_within_channels_list_each_message_once(harness: &impl Harness) {
    let store = &**harness.store();
    fill(store).await;
    let own = json!({"channel_ids": ["a", "b", "unknown"], "until": text(at(11_000))});
    let own = serde_json::from_value(own).expect("a filter");
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = seconds(store, &own, after.as_ref(), 4).await;
        let Some(last) = page.last() else { break };
        after = Some(message_id(1000 * last));
        seen.extend(page);
    }
    assert_eq!(seen, (0..11).rev().collect::<Vec<_>>());
}

/// A page of whole messages ends where it is full.
pub(crate) async fn pages_of_large_messages_end_early_and_list_each_once(harness: &impl Harness) {
    let store = &**harness.store();
    let long = format!("\"{}\"", "x".repeat(1 << 20));
    for number in 0..7 {
        let millis = 1000 * number;
        let entry = entry(message_id(millis), 0, millis, accepted(&long));
        record(store, &[entry]).await;
    }
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let all = MessageFilter::default();
        let page = store.messages(&all, after.as_ref(), 100, Detail::Whole);
        let page = page.await.expect("a page");
        let bytes = |message: &MessageRecord| content(message).message.get().len();
        assert!(page.iter().skip(1).map(bytes).sum::<usize>() <= MAX_PAGE_BYTES);
        let Some(last) = page.last() else { break };
        after = Some(last.message_id);
        seen.extend(page.iter().map(|message| message.message_id));
    }
    let all: Vec<_> = (0..7)
        .rev()
        .map(|number| message_id(1000 * number))
        .collect();
    assert_eq!(seen, all);
}
