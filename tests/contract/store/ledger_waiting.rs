//! Messages that wait: how they are stored, settled, made due and listed.

use bytes::Bytes;
use futures::future::join_all;
use roundtrip_model::waiting::WaitReason;
use roundtrip_store::{
    MAX_PAGE_BYTES, Settlement, WaitingCursor, WaitingMessage, WaitingRoom, WaitingSelection,
};

use super::{
    Harness,
    samples::{at, message_id},
    waiting_channels::claimed,
};

/// A message for this channel that was accepted this many milliseconds after the beginning, and has
/// been due since then.
pub(super) fn waiting(millis: i64, channel: &str) -> WaitingMessage {
    WaitingMessage {
        id: message_id(millis).to_string(),
        channel_id: super::id(channel),
        session_id: "s".parse().expect("a session id"),
        replay_count: 0,
        attempts: 1,
        accepted_at: at(millis),
        due_at: at(millis),
        reason: WaitReason::ChannelPaused,
        expires_at: None,
        body: Bytes::from_static(b"\x00 not text \xff"),
    }
}

fn outline(message: &WaitingMessage) -> WaitingMessage {
    WaitingMessage {
        body: Bytes::new(),
        ..message.clone()
    }
}

pub(super) async fn put(store: &(impl WaitingRoom + ?Sized), messages: &[WaitingMessage]) {
    store.put_waiting(messages).await.expect("to put them");
}

async fn page(
    store: &(impl WaitingRoom + ?Sized),
    channel: &str,
    after: Option<&WaitingCursor>,
    millis: i64,
    limit: u16,
) -> Vec<WaitingMessage> {
    let channel = super::id(channel);
    let page = store.due_messages(&channel, after, at(millis), limit).await;
    page.expect("a page")
}

/// The channel's messages that are due this many milliseconds after the beginning.
async fn due(
    store: &(impl WaitingRoom + ?Sized),
    channel: &str,
    millis: i64,
) -> Vec<WaitingMessage> {
    page(store, channel, None, millis, 100).await
}

pub(super) async fn settle(
    store: &(impl WaitingRoom + ?Sized),
    message: &WaitingMessage,
    settlement: Settlement,
) {
    let settled = store.settle_waiting(&[message.settled(settlement)]).await;
    settled.expect("to settle it");
}

pub(super) fn deferred(attempts: u32, millis: i64) -> Settlement {
    Settlement::Deferred {
        attempts,
        due_at: at(millis),
        reason: WaitReason::Retry,
    }
}

async fn find(store: &(impl WaitingRoom + ?Sized), id: &str) -> Option<WaitingMessage> {
    store.waiting_message(id).await.expect("to look for it")
}

/// With every reason, and with an empty body.
pub(crate) async fn a_waiting_message_reads_back_unchanged(harness: &impl Harness) {
    let store = &**harness.store();
    let reasons = (0..).zip(WaitReason::ALL);
    let mut messages: Vec<_> = reasons
        .map(|(millis, reason)| WaitingMessage {
            reason,
            ..waiting(millis, "c")
        })
        .collect();
    messages[0].body = Bytes::new();
    messages[1].session_id = "a session 🚀".parse().expect("a session id");
    messages[1].replay_count = u32::MAX;
    messages[1].attempts = 70_000;
    messages[2].expires_at = Some(at(90_000));
    put(store, &[]).await;
    put(store, &messages).await;
    assert_eq!(due(store, "c", 1000).await, messages);
    for message in &messages {
        assert_eq!(find(store, &message.id).await, Some(outline(message)));
    }
    assert_eq!(find(store, "msg_unknown").await, None);
}

/// A queue redelivers what it does not know to be stored.
pub(crate) async fn a_message_that_is_put_again_is_unchanged(harness: &impl Harness) {
    let store = &**harness.store();
    let first = waiting(0, "c");
    let again = WaitingMessage {
        due_at: at(5000),
        reason: WaitReason::Retry,
        body: Bytes::from_static(b"another"),
        ..first.clone()
    };
    put(store, std::slice::from_ref(&first)).await;
    put(store, &[again, waiting(1, "c")]).await;
    assert_eq!(due(store, "c", 9000).await, [first, waiting(1, "c")]);
}

/// With its body and its times. A replay counts as later, with any number of attempts.
pub(crate) async fn a_later_attempt_replaces_an_earlier_one_only(harness: &impl Harness) {
    let store = &**harness.store();
    let version = |replay_count, attempts| WaitingMessage {
        replay_count,
        attempts,
        due_at: at(i64::from(10 * replay_count + attempts)),
        expires_at: (replay_count == 0).then(|| at(i64::from(5000 + attempts))),
        body: Bytes::from(format!("{replay_count} {attempts}")),
        ..waiting(0, "c")
    };
    for (put_now, stored) in [
        ((0, 3), (0, 3)),
        ((0, 2), (0, 3)),
        ((0, 4), (0, 4)),
        ((1, 0), (1, 0)),
        ((0, 9), (1, 0)),
        ((1, 1), (1, 1)),
    ] {
        put(store, &[version(put_now.0, put_now.1)]).await;
        let stored = version(stored.0, stored.1);
        assert_eq!(due(store, "c", 1000).await, [stored], "{put_now:?}");
    }
    // Also within one call.
    put(store, &[version(2, 5), version(2, 7), version(2, 6)]).await;
    assert_eq!(due(store, "c", 1000).await, [version(2, 7)]);
}

pub(crate) async fn of_many_puts_of_one_message_the_latest_attempt_stays(harness: &impl Harness) {
    let (store, second) = (&**harness.store(), harness.second_store().await);
    let version = |attempts| WaitingMessage {
        attempts,
        ..waiting(0, "c")
    };
    join_all((0..10).map(async |attempts| {
        let store = if attempts % 2 == 0 { store } else { &*second };
        put(store, &[version(attempts)]).await;
    }))
    .await;
    assert_eq!(due(store, "c", 0).await, [version(9)]);
}

/// Page by page, each message once, though settled messages leave.
pub(crate) async fn due_messages_come_by_their_due_times_and_then_ids(harness: &impl Harness) {
    let store = &**harness.store();
    let due_times = [40, 10, 30, 10, 10, 20, 30];
    let messages: Vec<_> = (0..)
        .zip(due_times)
        .map(|(millis, due_at)| WaitingMessage {
            due_at: at(due_at),
            ..waiting(millis, "c")
        })
        .collect();
    put(store, &messages).await;
    put(store, &[waiting(9, "another")]).await;
    let in_order = [1, 3, 4, 5, 2, 6, 0].map(|index: usize| messages[index].clone());
    assert_eq!(due(store, "c", 1000).await, in_order);
    for removed in [false, true] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = page(store, "c", after.as_ref(), 1000, 2).await;
            let Some(last) = page.last() else {
                break;
            };
            assert!(page.len() <= 2);
            after = Some(last.cursor());
            if removed {
                for message in &page {
                    settle(store, message, Settlement::Removed).await;
                }
            }
            seen.extend(page);
        }
        assert_eq!(seen, in_order);
    }
    assert_eq!(due(store, "c", 1000).await, []);
}

/// Neither by its own time, nor by a time between two milliseconds.
pub(crate) async fn a_message_is_not_due_before_its_time(harness: &impl Harness) {
    let store = &**harness.store();
    let scheduled = WaitingMessage {
        due_at: at(5000) + time::Duration::nanoseconds(1),
        ..waiting(0, "c")
    };
    put(store, &[scheduled]).await;
    let after = WaitingCursor {
        due_at: at(4000),
        id: String::new(),
    };
    for cursor in [None, Some(&after)] {
        assert_eq!(page(store, "c", cursor, 5000, 10).await, []);
        assert_eq!(page(store, "c", cursor, 5001, 10).await.len(), 1);
    }
    let past = WaitingCursor {
        due_at: at(6000),
        id: String::new(),
    };
    assert_eq!(page(store, "c", Some(&past), 5500, 10).await, []);
    assert_eq!(claimed(store, "one", 5000).await, [""; 0]);
    assert_eq!(claimed(store, "one", 5001).await, ["c"]);
}

async fn expired(
    store: &(impl WaitingRoom + ?Sized),
    channel: &str,
    millis: i64,
    limit: u16,
) -> Vec<WaitingMessage> {
    let channel = super::id(channel);
    let expired = store.expired_messages(&channel, at(millis), limit).await;
    expired.expect("the expired messages")
}

/// A message that expires this many milliseconds after the beginning.
pub(super) fn expiring(millis: i64, due_at: i64, expires_at: i64) -> WaitingMessage {
    WaitingMessage {
        due_at: at(due_at),
        expires_at: Some(at(expires_at)),
        ..waiting(millis, "c")
    }
}

/// Due or not, and page by page as they are settled. A deferral does not change an expiry.
pub(crate) async fn expired_messages_come_by_their_expiries_and_then_ids(harness: &impl Harness) {
    let store = &**harness.store();
    let messages = [
        expiring(0, 0, 400),
        expiring(1, 90_000, 300),
        expiring(2, 0, 300),
        expiring(3, 0, 500),
        waiting(4, "c"),
    ];
    let another = WaitingMessage {
        channel_id: super::id("another"),
        ..expiring(5, 0, 100)
    };
    put(store, &messages).await;
    put(store, &[another]).await;
    assert_eq!(expired(store, "c", 299, 10).await, []);
    assert_eq!(expired(store, "c", 499, 0).await, []);
    let in_order = [1, 2, 0].map(|index: usize| messages[index].clone());
    assert_eq!(expired(store, "c", 499, 10).await, in_order);

    settle(store, &in_order[0], deferred(2, 95_000)).await;
    let later = WaitingMessage {
        attempts: 2,
        due_at: at(95_000),
        reason: WaitReason::Retry,
        ..in_order[0].clone()
    };
    let in_order = [later, in_order[1].clone(), in_order[2].clone()];
    for page in in_order.chunks(2) {
        assert_eq!(expired(store, "c", 499, 2).await, page);
        for message in page {
            settle(store, message, Settlement::Removed).await;
        }
    }
    assert_eq!(expired(store, "c", 499, 2).await, []);
}

/// A page ends before the message that would exceed it, and the next begins there.
pub(crate) async fn pages_of_large_waiting_messages_end_early(harness: &impl Harness) {
    let store = &**harness.store();
    let body = Bytes::from(vec![b'x'; 1 << 20]);
    let messages: Vec<_> = (0..7)
        .map(|millis| WaitingMessage {
            body: body.clone(),
            ..waiting(millis, "c")
        })
        .collect();
    for message in &messages {
        put(store, std::slice::from_ref(message)).await;
    }
    let mut seen: Vec<WaitingMessage> = Vec::new();
    loop {
        let after = seen.last().map(WaitingMessage::cursor);
        let page = page(store, "c", after.as_ref(), 1000, 100).await;
        let bytes = page.iter().skip(1).map(|message| message.body.len());
        assert!(bytes.sum::<usize>() <= MAX_PAGE_BYTES);
        if page.is_empty() {
            break;
        }
        seen.extend(page);
    }
    assert!(seen == messages, "{} messages", seen.len());
}

/// Also if it is settled twice.
pub(crate) async fn a_settled_message_is_gone_or_due_later(harness: &impl Harness) {
    let store = &**harness.store();
    let messages = [0, 1, 2].map(|millis| waiting(millis, "c"));
    let [delivered, failed, left] = &messages;
    put(store, &messages).await;
    let settled = [
        delivered.settled(Settlement::Removed),
        failed.settled(deferred(2, 5000)),
    ];
    for _ in 0..2 {
        store.settle_waiting(&settled).await.expect("to settle");
        store.settle_waiting(&[]).await.expect("to settle nothing");
        assert_eq!(due(store, "c", 4999).await, std::slice::from_ref(left));
        let later = WaitingMessage {
            attempts: 2,
            due_at: at(5000),
            reason: WaitReason::Retry,
            ..failed.clone()
        };
        assert_eq!(due(store, "c", 5000).await, [left.clone(), later]);
        assert_eq!(find(store, &delivered.id).await, None);
    }
}

/// A replay or a later attempt was put while the message was being delivered.
pub(crate) async fn a_settlement_of_a_replaced_message_changes_nothing(harness: &impl Harness) {
    let store = &**harness.store();
    let read = [0, 1, 2].map(|millis| waiting(millis, "c"));
    let [mut removed, mut deferred_one, mut replayed] = read.clone();
    put(store, &read).await;
    removed.attempts = 2;
    deferred_one.attempts = 2;
    replayed.replay_count = 1;
    let replaced = [removed, deferred_one, replayed];
    put(store, &replaced).await;
    let settlements = [Settlement::Removed, deferred(9, 1), Settlement::Removed];
    for (message, settlement) in read.iter().zip(settlements) {
        settle(store, message, settlement).await;
    }
    assert_eq!(due(store, "c", 1000).await, replaced);
}

async fn make_due(
    store: &(impl WaitingRoom + ?Sized),
    which: &WaitingSelection,
    millis: i64,
) -> u64 {
    let made_due = store.make_due(which, at(millis)).await;
    made_due.expect("to make them due")
}

/// Those that are due keep their places, the retries come after them by their ids. A scheduled
/// message keeps its time. The channel is looked at now.
pub(crate) async fn a_channels_messages_are_made_due(harness: &impl Harness) {
    let store = &**harness.store();
    let later = |millis, due_at, channel| WaitingMessage {
        due_at: at(due_at),
        reason: WaitReason::Retry,
        ..waiting(millis, channel)
    };
    let scheduled = WaitingMessage {
        reason: WaitReason::Scheduled,
        ..later(5, 20_000, "c")
    };
    let messages = [
        later(0, 50_000, "c"),
        later(1, 30_000, "c"),
        later(2, 500, "c"),
        later(3, 40_000, "c"),
        later(4, 30_000, "another"),
        scheduled.clone(),
    ];
    put(store, &messages).await;
    let channel = WaitingSelection::Channel(super::id("c"));
    assert_eq!(make_due(store, &channel, 1000).await, 3);
    let now = |index: usize| WaitingMessage {
        due_at: at(1000),
        ..messages[index].clone()
    };
    let expected = [messages[2].clone(), now(0), now(1), now(3)];
    assert_eq!(due(store, "c", 1000).await, expected);
    assert_eq!(due(store, "another", 1000).await, []);
    assert_eq!(due(store, "c", 20_000).await.last(), Some(&scheduled));
    assert_eq!(claimed(store, "one", 1000).await, ["c"]);
    assert_eq!(make_due(store, &channel, 1000).await, 0);
    let unknown = WaitingSelection::Channel(super::id("unknown"));
    assert_eq!(make_due(store, &unknown, 1000).await, 0);
}

/// Only that one, and its channel is looked at now.
pub(crate) async fn one_message_is_made_due(harness: &impl Harness) {
    let store = &**harness.store();
    let messages = [0, 1].map(|millis| WaitingMessage {
        due_at: at(9000),
        ..waiting(millis, "c")
    });
    put(store, &messages).await;
    let which = WaitingSelection::Message(messages[1].id.clone());
    for made_due in [1, 0] {
        assert_eq!(make_due(store, &which, 1000).await, made_due);
    }
    let now = WaitingMessage {
        due_at: at(1000),
        ..messages[1].clone()
    };
    assert_eq!(due(store, "c", 1000).await, [now]);
    assert_eq!(claimed(store, "one", 1000).await, ["c"]);
    let unknown = WaitingSelection::Message("msg_unknown".to_owned());
    assert_eq!(make_due(store, &unknown, 1000).await, 0);
}
