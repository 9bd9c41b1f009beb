//! A published message arrives unchanged in its queue.

use std::{collections::HashSet, time::Duration};

use futures::{StreamExt, stream};
use harness::wait;
use roundtrip_broker::{Message, Queue, Route};
use roundtrip_model::Decision;

use super::{
    DELAY, Engine, Harness, QUIET, assert_quiet, channel, consume, message, next, numbered,
    publish, publish_to, settle, until_count,
};

/// Id, attempts, replays, time of acceptance (to the millisecond), reason and body are preserved.
pub(crate) async fn a_message_arrives_unchanged<H: Harness>(engine: &mut Engine<H>) {
    let broker = engine.fresh().await;
    let every_byte: Vec<u8> = (0..=255).collect();
    let sent = Message {
        attempts: 3,
        replay_count: 2,
        ..message(every_byte)
    };
    publish(&broker, &sent).await;
    let mut consumer = consume(&broker, Queue::Outbound, 10).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(*delivery.message(), sent);
    settle(delivery, Decision::Done).await;
}

/// An engine that cannot tell never does.
pub(crate) async fn the_next_message_tells_for_how_long_it_is_ready<H: Harness>(
    engine: &mut Engine<H>,
) {
    let broker = engine.fresh().await;
    let age = async || broker.head_age(Queue::Outbound).await.expect("an answer");
    assert_eq!(age().await, None);
    for number in 0..3 {
        publish(&broker, &numbered(number)).await;
    }
    if age().await.is_none() {
        return;
    }
    wait::until("the first message to age", async || {
        age().await.filter(|age| *age > QUIET)
    })
    .await
    .expect("an age");
    let mut consumer = consume(&broker, Queue::Outbound, 2).await;
    let (first, second) = (next(&mut consumer).await, next(&mut consumer).await);
    assert!(age().await.is_some(), "the third is ready");
    drop(consumer);
    first.release();
    wait::until("the first to be back", async || {
        (broker.ready(Queue::Outbound).await.ok()? == 2).then_some(())
    })
    .await
    .expect("two ready messages");
    assert!(age().await > Some(QUIET), "the first is next again");
    drop(second);
}

/// Also if the consumer was waiting before the publish.
pub(crate) async fn a_waiting_consumer_gets_what_is_published<H: Harness>(engine: &mut Engine<H>) {
    let broker = engine.fresh().await;
    let mut consumer = consume(&broker, Queue::Outbound, 10).await;
    assert_quiet(&mut consumer).await;
    let mut sent = numbered(1);
    // Whole milliseconds are kept; the rest is cut off.
    sent.accepted_at += Duration::from_micros(300);
    publish(&broker, &sent).await;
    let delivery = next(&mut consumer).await;
    sent.accepted_at -= Duration::from_micros(300);
    assert_eq!(*delivery.message(), sent);
    settle(delivery, Decision::Done).await;
}

/// One channel's messages that are published one after another arrive in that order.
pub(crate) async fn a_fresh_queue_keeps_its_order<H: Harness>(engine: &mut Engine<H>) {
    let broker = engine.fresh().await;
    let sent: Vec<Message> = (0..100).map(numbered).collect();
    for message in &sent {
        publish(&broker, message).await;
    }
    let mut consumer = consume(&broker, Queue::Outbound, 7).await;
    for message in &sent {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.message().id, message.id);
        settle(delivery, Decision::Done).await;
    }
}

/// Messages, callbacks and journal entries stay in their own queues.
pub(crate) async fn queues_are_apart<H: Harness>(engine: &mut Engine<H>) {
    let broker = engine.fresh().await;
    let (message, callback) = (numbered(1), numbered(2));
    publish(&broker, &message).await;
    broker
        .publish(Route::Callbacks, callback.clone())
        .await
        .expect("the broker takes it");
    let entries = numbered(3);
    broker
        .publish(Route::Journal, entries.clone())
        .await
        .expect("the broker takes it");
    for (queue, sent) in [
        (Queue::Callbacks, callback),
        (Queue::Outbound, message),
        (Queue::Journal, entries),
    ] {
        until_count(&broker, queue, 1).await;
        let mut consumer = consume(&broker, queue, 5).await;
        let delivery = next(&mut consumer).await;
        assert_eq!(*delivery.message(), sent);
        settle(delivery, Decision::Done).await;
        assert_quiet(&mut consumer).await;
    }
}

/// Many concurrent publishes, while others receive.
pub(crate) async fn many_publishers_lose_nothing<H: Harness>(engine: &mut Engine<H>) {
    const MESSAGES: u32 = 2000;
    const CALLERS: usize = 64;
    let broker = engine.fresh().await;
    let mut consumer = consume(&broker, Queue::Outbound, 100).await;
    let publishing = {
        let broker = broker.clone();
        tokio::spawn(async move {
            let published = stream::iter((0..MESSAGES).map(numbered))
                .map(|message| {
                    let broker = &broker;
                    async move {
                        publish(broker, &message).await;
                        message.id
                    }
                })
                .buffer_unordered(CALLERS);
            published.collect::<HashSet<String>>().await
        })
    };
    let mut arrived = HashSet::new();
    for _ in 0..MESSAGES {
        let delivery = next(&mut consumer).await;
        assert!(
            arrived.insert(delivery.message().id.clone()),
            "one message came twice"
        );
        settle(delivery, Decision::Done).await;
    }
    assert_eq!(arrived, publishing.await.expect("the publishers end well"));
    until_count(&broker, Queue::Outbound, 0).await;
}

/// One mebibyte.
pub(crate) async fn a_large_body_arrives<H: Harness>(engine: &mut Engine<H>) {
    let broker = engine.fresh().await;
    let bytes: Vec<u8> = (0_u8..251).cycle().take(1024 * 1024).collect();
    let sent = message(bytes);
    publish(&broker, &sent).await;
    let mut consumer = consume(&broker, Queue::Outbound, 1).await;
    let delivery = next(&mut consumer).await;
    assert!(delivery.message().body == sent.body, "the body is another");
    settle(delivery, Decision::Done).await;
}

/// One consumer receives from all the shards, and a retry comes back to it.
pub(crate) async fn every_shard_reaches_the_consumer<H: Harness>(engine: &mut Engine<H>) {
    let broker = engine.fresh_with(|config| config.outbound_shards = 4).await;
    let mut sent = HashSet::new();
    for number in 0..40 {
        let message = numbered(number);
        publish_to(&broker, &channel(&format!("channel-{number}")), &message).await;
        sent.insert(message.id);
    }
    until_count(&broker, Queue::Outbound, 40).await;
    let mut consumer = consume(&broker, Queue::Outbound, 50).await;
    let mut retried = HashSet::new();
    while !sent.is_empty() {
        let delivery = next(&mut consumer).await;
        let id = delivery.message().id.clone();
        if delivery.message().attempts == 0 {
            assert!(retried.insert(id), "one message came twice");
            settle(delivery, Decision::RetryAfter(DELAY)).await;
        } else {
            assert!(sent.remove(&id), "one message came twice");
            settle(delivery, Decision::Done).await;
        }
    }
    until_count(&broker, Queue::Outbound, 0).await;
}
