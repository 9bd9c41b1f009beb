//! Windows, counts, full queues and closing.

use std::collections::HashSet;

use roundtrip_broker::{Message, PublishError, Queue, Route, SharedBroker, Status};
use roundtrip_model::Decision;
use tokio::time::timeout;

use super::{
    Engine, Harness, LIMIT, LONG_DELAY, assert_quiet, channel, consume, next, numbered, publish,
    settle, until_count,
};

/// Unsettled deliveries never exceed the window, and each settlement makes room for one more.
pub(crate) async fn a_window_is_hard<H: Harness>(engine: &mut Engine<H>) {
    const WINDOW: u16 = 3;
    let broker = engine.fresh().await;
    for number in 0..10 {
        publish(&broker, &numbered(number)).await;
    }
    let mut consumer = consume(&broker, Queue::Outbound, WINDOW).await;
    let mut held = Vec::new();
    for _ in 0..WINDOW {
        held.push(next(&mut consumer).await);
    }
    assert_quiet(&mut consumer).await;
    until_count(&broker, Queue::Outbound, 7).await;
    settle(held.remove(0), Decision::Done).await;
    held.push(next(&mut consumer).await);
    assert_quiet(&mut consumer).await;
    until_count(&broker, Queue::Outbound, 6).await;
}

/// Both receive some messages, and no message goes to both.
pub(crate) async fn two_consumers_share_a_queue<H: Harness>(engine: &mut Engine<H>) {
    const MESSAGES: usize = 40;
    let broker = engine.fresh().await;
    let mut one = consume(&broker, Queue::Outbound, 1).await;
    let mut other = consume(&broker, Queue::Outbound, 1).await;
    for number in 0..40 {
        publish(&broker, &numbered(number)).await;
    }
    let mut seen = HashSet::new();
    // Each holds one delivery while the other receives: with a window of one they must share.
    for _ in 0..MESSAGES / 2 {
        let from_one = next(&mut one).await;
        let from_other = next(&mut other).await;
        for delivery in [from_one, from_other] {
            assert!(
                seen.insert(delivery.message().id.clone()),
                "one message came twice"
            );
            settle(delivery, Decision::Done).await;
        }
    }
    assert_eq!(seen.len(), MESSAGES);
    until_count(&broker, Queue::Outbound, 0).await;
}

/// The messages in its window, and the delivery in hand that was then dropped.
pub(crate) async fn a_dropped_consumer_returns_its_deliveries<H: Harness>(engine: &mut Engine<H>) {
    let broker = engine.fresh().await;
    let mut sent = HashSet::new();
    for number in 0..10 {
        let message = numbered(number);
        publish(&broker, &message).await;
        sent.insert(message.id);
    }
    let mut first = consume(&broker, Queue::Outbound, 8).await;
    let in_hand = next(&mut first).await;
    drop(first);
    drop(in_hand);
    let mut second = consume(&broker, Queue::Outbound, 3).await;
    for _ in 0..10 {
        let delivery = next(&mut second).await;
        assert!(
            sent.remove(&delivery.message().id),
            "one message came twice"
        );
        assert_eq!(delivery.message().attempts, 0);
        settle(delivery, Decision::Done).await;
    }
    assert!(sent.is_empty());
}

/// A ready message is one that a consumer would get now.
pub(crate) async fn ready_counts_neither_the_delayed_nor_the_handed_out<H: Harness>(
    engine: &mut Engine<H>,
) {
    let broker = engine.fresh().await;
    until_count(&broker, Queue::Outbound, 0).await;
    for number in 0..5 {
        publish(&broker, &numbered(number)).await;
    }
    until_count(&broker, Queue::Outbound, 5).await;
    let mut consumer = consume(&broker, Queue::Outbound, 1).await;
    settle(next(&mut consumer).await, Decision::RetryAfter(LONG_DELAY)).await;
    let held = next(&mut consumer).await;
    until_count(&broker, Queue::Outbound, 3).await;
    drop(consumer);
    held.release();
    until_count(&broker, Queue::Outbound, 4).await;
}

/// An engine that counts late may exceed the bound by a few messages.
pub(crate) async fn a_full_queue_refuses_publishes_and_keeps_its_messages<H: Harness>(
    engine: &mut Engine<H>,
) {
    const BOUND: usize = 10;
    let broker = engine
        .fresh_with(|config| config.max_backlog = BOUND as u64)
        .await;
    let accepted = fill(&broker, numbered).await;
    let count = accepted.len();
    assert!(count >= BOUND, "only {count} were accepted");
    empty(&broker, accepted).await;
    publish(&broker, &numbered(FAR_BEYOND)).await;
}

/// Every queue has its own bound.
pub(crate) async fn a_queue_that_holds_its_bytes_refuses_publishes<H: Harness>(
    engine: &mut Engine<H>,
) {
    const BYTES: usize = 1000;
    const BOUND: usize = 10;
    let broker = engine
        .fresh_with(|config| config.max_backlog_bytes = (BOUND * BYTES) as u64)
        .await;
    let large = |number| Message {
        body: vec![b'x'; BYTES].into(),
        ..numbered(number)
    };
    let accepted = fill(&broker, large).await;
    let count = accepted.len();
    assert!(count >= BOUND, "only {count} were accepted");
    let other = broker.publish(Route::Callbacks, large(0)).await;
    other.expect("the other queue accepts it");
    empty(&broker, accepted).await;
    publish(&broker, &large(FAR_BEYOND)).await;
}

/// More messages than the bounds above let in.
const FAR_BEYOND: u32 = 1000;

/// Publishes until the queue refuses, and returns the ids of the accepted messages.
async fn fill(broker: &SharedBroker, message: impl Fn(u32) -> Message) -> HashSet<String> {
    let mut accepted = HashSet::new();
    for number in 0..FAR_BEYOND {
        let message = message(number);
        let id = message.id.clone();
        match broker
            .publish(Route::Outbound(&channel("c")), message)
            .await
        {
            Ok(()) => accepted.insert(id),
            Err(PublishError::Refused(_)) => return accepted,
            Err(error) => panic!("{error}"),
        };
    }
    panic!("the queue accepted {FAR_BEYOND} messages");
}

/// Receives and settles these messages, and no others.
async fn empty(broker: &SharedBroker, mut accepted: HashSet<String>) {
    let mut consumer = consume(broker, Queue::Outbound, 1).await;
    while !accepted.is_empty() {
        let delivery = next(&mut consumer).await;
        assert!(
            accepted.remove(&delivery.message().id),
            "it was refused and came, or came twice"
        );
        settle(delivery, Decision::Done).await;
    }
}

/// The status is `Unavailable`.
pub(crate) async fn after_closing_publishes_are_refused<H: Harness>(engine: &mut Engine<H>) {
    let broker = engine.fresh().await;
    broker.close().await;
    let taken = timeout(LIMIT, broker.publish(Route::Callbacks, numbered(1))).await;
    let taken = taken.expect("an answer in time");
    assert!(
        matches!(taken, Err(PublishError::Unavailable(_))),
        "{taken:?}"
    );
    assert!(
        matches!(broker.status(), Status::Unavailable(_)),
        "{:?}",
        broker.status()
    );
    assert!(broker.consume(Queue::Callbacks, 1).await.is_err());
}

/// Whether or not it is waiting at that time.
pub(crate) async fn a_consumer_ends_with_its_broker<H: Harness>(engine: &mut Engine<H>) {
    let broker = engine.fresh().await;
    let mut waiting = consume(&broker, Queue::Callbacks, 1).await;
    let ended = tokio::spawn(async move { waiting.next().await.is_none() });
    publish(&broker, &numbered(1)).await;
    let mut full = consume(&broker, Queue::Outbound, 1).await;
    let held = next(&mut full).await;
    broker.close().await;
    let ended = timeout(LIMIT, ended)
        .await
        .expect("ends in time")
        .expect("ends well");
    assert!(ended, "it got a message");
    let after = timeout(LIMIT, full.next()).await.expect("ends in time");
    assert!(after.is_none(), "{after:?}");
    held.release();
}
