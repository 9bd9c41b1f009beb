//! The effects of a settlement, at once and after a restart.

use std::time::Duration;

use roundtrip_broker::{Message, Queue, Route, SharedBroker};
use roundtrip_model::{DeadReason, Decision, Waiting, decision::DeadKind, waiting::WaitReason};
use tokio::time::{Instant, timeout};

use super::{
    DELAY, Engine, Harness, LIMIT, LONG_DELAY, consume, next, numbered, publish, settle,
    until_count,
};

fn refused() -> DeadReason {
    DeadReason::new(DeadKind::Refused, "answered 422: \"no such room\" \u{2713}")
}

/// Not after a restart either: the first message to arrive is the one published then.
pub(crate) async fn an_acked_message_is_not_delivered_again<H: Harness>(engine: &mut Engine<H>) {
    let broker = engine.fresh().await;
    publish(&broker, &numbered(1)).await;
    let mut consumer = consume(&broker, Queue::Outbound, 10).await;
    settle(next(&mut consumer).await, Decision::Done).await;
    drop(consumer);
    let broker = engine.reopen(broker).await;
    let later = numbered(2);
    publish(&broker, &later).await;
    let mut consumer = consume(&broker, Queue::Outbound, 10).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.message().id, later.id);
    settle(delivery, Decision::Done).await;
    until_count(&broker, Queue::Outbound, 0).await;
}

/// Delivered or not, it comes back unchanged.
pub(crate) async fn an_unsettled_message_is_delivered_again_after_reopening<H: Harness>(
    engine: &mut Engine<H>,
) {
    let broker = engine.fresh().await;
    let sent = [numbered(1), numbered(2), numbered(3)];
    for message in &sent {
        publish(&broker, message).await;
    }
    let mut consumer = consume(&broker, Queue::Outbound, 2).await;
    let held = next(&mut consumer).await;
    let broker = engine.reopen(broker).await;
    let settled = timeout(LIMIT, held.settle(Decision::Done))
        .await
        .expect("an answer in time");
    assert!(settled.is_err(), "its lease went with the broker");
    let mut consumer = consume(&broker, Queue::Outbound, 10).await;
    let mut back = Vec::new();
    for _ in &sent {
        let delivery = next(&mut consumer).await;
        back.push(delivery.message().clone());
        settle(delivery, Decision::Done).await;
    }
    back.sort_by(|one, other| one.id.cmp(&other.id));
    assert_eq!(back, sent);
}

/// At once, and without counting an attempt.
pub(crate) async fn a_dropped_delivery_is_delivered_again<H: Harness>(engine: &mut Engine<H>) {
    let broker = engine.fresh().await;
    let sent = numbered(1);
    publish(&broker, &sent).await;
    let mut consumer = consume(&broker, Queue::Outbound, 1).await;
    drop(next(&mut consumer).await);
    let again = next(&mut consumer).await;
    assert_eq!(*again.message(), sent);
    again.release();
    let delivery = next(&mut consumer).await;
    assert_eq!(*delivery.message(), sent);
    settle(delivery, Decision::Done).await;
}

/// The attempt is counted.
pub(crate) async fn a_retry_comes_after_its_delay_and_counts<H: Harness>(engine: &mut Engine<H>) {
    comes_after_its_delay(engine, Decision::RetryAfter(DELAY), 1).await;
}

/// No attempt is counted.
pub(crate) async fn a_snoozed_message_comes_after_its_delay_and_counts_no_attempt<H: Harness>(
    engine: &mut Engine<H>,
) {
    comes_after_its_delay(engine, Decision::Snooze(DELAY), 0).await;
}

async fn comes_after_its_delay<H: Harness>(
    engine: &mut Engine<H>,
    decision: Decision,
    counted: u32,
) {
    let broker = engine.fresh().await;
    let sent = Message {
        attempts: 2,
        ..numbered(1)
    };
    publish(&broker, &sent).await;
    let mut consumer = consume(&broker, Queue::Outbound, 1).await;
    let delivery = next(&mut consumer).await;
    let from = Instant::now();
    settle(delivery, decision).await;
    let delivery = next(&mut consumer).await;
    assert!(from.elapsed() >= DELAY, "came after {:?}", from.elapsed());
    assert_eq!(
        *delivery.message(),
        Message {
            attempts: sent.attempts + counted,
            ..sent
        }
    );
    settle(delivery, Decision::Done).await;
    until_count(&broker, Queue::Outbound, 0).await;
}

/// Neither in its queue nor in the window.
pub(crate) async fn a_delayed_message_does_not_delay_others<H: Harness>(engine: &mut Engine<H>) {
    let broker = engine.fresh().await;
    let mut consumer = consume(&broker, Queue::Outbound, 1).await;
    publish(&broker, &numbered(1)).await;
    settle(next(&mut consumer).await, Decision::RetryAfter(LONG_DELAY)).await;
    let other = numbered(2);
    publish(&broker, &other).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.message().id, other.id);
    settle(delivery, Decision::Done).await;
}

/// A delayed message is neither lost nor early after a restart.
pub(crate) async fn a_delay_outlasts_reopening<H: Harness>(engine: &mut Engine<H>) {
    let broker = engine.fresh().await;
    let sent = numbered(1);
    publish(&broker, &sent).await;
    let mut consumer = consume(&broker, Queue::Outbound, 1).await;
    let delivery = next(&mut consumer).await;
    let from = Instant::now();
    settle(delivery, Decision::RetryAfter(DELAY)).await;
    drop(consumer);
    let broker = engine.reopen(broker).await;
    let mut consumer = consume(&broker, Queue::Outbound, 1).await;
    let delivery = next(&mut consumer).await;
    assert!(from.elapsed() >= DELAY, "came after {:?}", from.elapsed());
    assert_eq!(
        *delivery.message(),
        Message {
            attempts: 1,
            ..sent
        }
    );
    settle(delivery, Decision::Done).await;
}

/// Publishes an outbound message that was attempted so often, settles it, and returns it as it was
/// published.
async fn settle_one(broker: &SharedBroker, attempts: u32, decision: Decision) -> Message {
    let sent = Message {
        attempts,
        ..numbered(1)
    };
    publish(broker, &sent).await;
    let mut consumer = consume(broker, Queue::Outbound, 1).await;
    settle(next(&mut consumer).await, decision).await;
    sent
}

/// With its reason, its attempts and its body; it has left the work queue for good.
pub(crate) async fn a_dead_message_lies_in_its_dead_queue<H: Harness>(engine: &mut Engine<H>) {
    let broker = engine.fresh().await;
    let sent = settle_one(&broker, 4, Decision::DeadLetter(refused())).await;
    let dead = Message {
        attempts: 5,
        dead: Some(refused()),
        ..sent
    };

    let mut dead_letters = consume(&broker, Queue::OutboundDead, 1).await;
    let delivery = next(&mut dead_letters).await;
    assert_eq!(*delivery.message(), dead);
    delivery.release();
    drop(dead_letters);

    let broker = engine.reopen(broker).await;
    until_count(&broker, Queue::Outbound, 0).await;
    until_count(&broker, Queue::OutboundDead, 1).await;
    let mut dead_letters = consume(&broker, Queue::OutboundDead, 1).await;
    let delivery = next(&mut dead_letters).await;
    assert_eq!(*delivery.message(), dead);
    settle(delivery, Decision::Done).await;
}

/// Its attempts are those that were made before.
pub(crate) async fn a_rejected_message_counts_no_attempt<H: Harness>(engine: &mut Engine<H>) {
    let broker = engine.fresh().await;
    let sent = settle_one(&broker, 4, Decision::Reject(refused())).await;
    let mut dead_letters = consume(&broker, Queue::OutboundDead, 1).await;
    let delivery = next(&mut dead_letters).await;
    assert_eq!(delivery.message().attempts, sent.attempts);
    settle(delivery, Decision::Done).await;
}

/// With its due time and its reason, after a settlement and after a publish, and after a restart.
/// Only the wait for a retry counts as an attempt.
pub(crate) async fn a_waiting_message_lies_in_the_waiting_queue<H: Harness>(
    engine: &mut Engine<H>,
) {
    let broker = engine.fresh().await;
    let due_at = numbered(1).accepted_at + Duration::from_hours(6);
    let mut expected = Vec::new();
    for (number, reason, attempts) in [(1, WaitReason::Retry, 5), (2, WaitReason::ChannelPaused, 4)]
    {
        let sent = Message {
            attempts: 4,
            ..numbered(number)
        };
        publish(&broker, &sent).await;
        let mut consumer = consume(&broker, Queue::Outbound, 1).await;
        let waiting = Waiting { due_at, reason };
        settle(next(&mut consumer).await, Decision::Wait(waiting)).await;
        expected.push(Message {
            attempts,
            waiting: Some(waiting),
            ..sent
        });
    }
    let scheduled = Message {
        waiting: Some(Waiting {
            due_at,
            reason: WaitReason::Scheduled,
        }),
        ..numbered(3)
    };
    let published = broker.publish(Route::Waiting, scheduled.clone()).await;
    published.expect("the broker takes it");
    expected.push(scheduled);

    let broker = engine.reopen(broker).await;
    until_count(&broker, Queue::Outbound, 0).await;
    until_count(&broker, Queue::Waiting, 3).await;
    let mut consumer = consume(&broker, Queue::Waiting, 3).await;
    for _ in 0..3 {
        let delivery = next(&mut consumer).await;
        assert!(expected.contains(delivery.message()), "{delivery:?}");
        expected.retain(|expected| expected != delivery.message());
        settle(delivery, Decision::Done).await;
    }
}

/// Its reason is kept, and a new message has none.
pub(crate) async fn a_dead_letter_can_be_published<H: Harness>(engine: &mut Engine<H>) {
    let broker = engine.fresh().await;
    let dead = Message {
        dead: Some(refused()),
        ..numbered(1)
    };
    let published = broker.publish(Route::OutboundDead, dead.clone()).await;
    published.expect("the broker takes it");
    publish(&broker, &dead).await;
    let mut consumer = consume(&broker, Queue::OutboundDead, 1).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(*delivery.message(), dead);
    settle(delivery, Decision::Done).await;
    let mut consumer = consume(&broker, Queue::Outbound, 1).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(*delivery.message(), Message { dead: None, ..dead });
    settle(delivery, Decision::Done).await;
}

/// Separate from dead messages.
pub(crate) async fn a_dead_callback_lies_in_its_own_dead_queue<H: Harness>(engine: &mut Engine<H>) {
    let broker = engine.fresh().await;
    let sent = numbered(1);
    broker
        .publish(Route::Callbacks, sent.clone())
        .await
        .expect("the broker takes it");
    let mut consumer = consume(&broker, Queue::Callbacks, 1).await;
    settle(next(&mut consumer).await, Decision::DeadLetter(refused())).await;
    let mut dead_letters = consume(&broker, Queue::CallbacksDead, 1).await;
    let delivery = next(&mut dead_letters).await;
    assert_eq!(
        *delivery.message(),
        Message {
            attempts: 1,
            dead: Some(refused()),
            ..sent
        }
    );
    settle(delivery, Decision::Done).await;
    until_count(&broker, Queue::OutboundDead, 0).await;
    until_count(&broker, Queue::Callbacks, 0).await;
}

/// Through a retry, its death and a restart.
pub(crate) async fn a_message_keeps_its_replay_count_in_every_queue<H: Harness>(
    engine: &mut Engine<H>,
) {
    let broker = engine.fresh().await;
    let sent = Message {
        replay_count: 7,
        ..numbered(1)
    };
    publish(&broker, &sent).await;
    let mut consumer = consume(&broker, Queue::Outbound, 1).await;
    settle(next(&mut consumer).await, Decision::RetryAfter(DELAY)).await;
    let again = next(&mut consumer).await;
    assert_eq!(again.message().replay_count, 7);
    settle(again, Decision::DeadLetter(refused())).await;
    drop(consumer);
    let broker = engine.reopen(broker).await;
    let mut dead_letters = consume(&broker, Queue::OutboundDead, 1).await;
    let dead = next(&mut dead_letters).await;
    assert_eq!(
        (dead.message().replay_count, dead.message().attempts),
        (7, 2)
    );
    settle(dead, Decision::Done).await;
}

/// Separate from dead messages and dead answers.
pub(crate) async fn a_dead_journal_batch_lies_in_its_own_dead_queue<H: Harness>(
    engine: &mut Engine<H>,
) {
    let broker = engine.fresh().await;
    let sent = numbered(1);
    broker
        .publish(Route::Journal, sent.clone())
        .await
        .expect("the broker takes it");
    let mut consumer = consume(&broker, Queue::Journal, 1).await;
    settle(next(&mut consumer).await, Decision::DeadLetter(refused())).await;
    let mut dead = consume(&broker, Queue::JournalDead, 1).await;
    let delivery = next(&mut dead).await;
    assert_eq!(delivery.message().id, sent.id);
    settle(delivery, Decision::Done).await;
    until_count(&broker, Queue::OutboundDead, 0).await;
    until_count(&broker, Queue::CallbacksDead, 0).await;
}

/// A dead queue is a queue: a snoozed dead letter comes back to it with its reason.
pub(crate) async fn a_dead_letter_can_be_snoozed_and_removed<H: Harness>(engine: &mut Engine<H>) {
    let broker = engine.fresh().await;
    publish(&broker, &numbered(1)).await;
    let mut consumer = consume(&broker, Queue::Outbound, 1).await;
    settle(next(&mut consumer).await, Decision::DeadLetter(refused())).await;
    let mut dead_letters = consume(&broker, Queue::OutboundDead, 1).await;
    let delivery = next(&mut dead_letters).await;
    let before = delivery.message().clone();
    settle(delivery, Decision::Snooze(DELAY)).await;
    let delivery = next(&mut dead_letters).await;
    assert_eq!(*delivery.message(), before);
    settle(delivery, Decision::Done).await;
    until_count(&broker, Queue::OutboundDead, 0).await;
    until_count(&broker, Queue::Outbound, 0).await;
}
