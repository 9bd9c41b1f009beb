//! New messages and retries are delivered in turn, however many of the others wait.

use std::time::Duration;

use futures::future::join_all;
use roundtrip_broker::{Consumer, Message, Queue, SharedBroker};
use roundtrip_model::Decision;

use super::{
    DELAY, Engine, Harness, consume, next, numbered, publish, settle, until_count, until_counted,
};

/// Number of waiting messages.
const BACKLOG: u16 = 2000;

/// All of them are back within this time: the tier releases them gradually, and other cases run at
/// the same time.
const BACKLOG_LIMIT: Duration = Duration::from_mins(2);

/// The consumer's window.
const WINDOW: u16 = 10;

/// Maximum number of deliveries before the last message is delivered. If the queues are independent
/// it comes after a few windows' worth, or more if a busy broker takes its time. Behind the backlog
/// it would come last.
const SOON: u16 = BACKLOG - WINDOW;

/// After a channel's outage thousands of its retries come due; other channels' messages must not be
/// delayed.
pub(crate) async fn a_new_message_does_not_wait_behind_retries<H: Harness>(engine: &mut Engine<H>) {
    let broker = engine.fresh().await;
    put_off(&broker, BACKLOG).await;
    // A busy broker may duplicate some: delivery is at least once.
    let all = u64::from(BACKLOG)..;
    until_counted(BACKLOG_LIMIT, &broker, Queue::Outbound, all).await;
    let mut consumer = consume(&broker, Queue::Outbound, WINDOW).await;
    settle(next(&mut consumer).await, Decision::Done).await;
    let new = numbered(0);
    publish(&broker, &new).await;
    assert_comes_soon(&broker, &mut consumer, &new).await;
}

/// A stream of new messages must not keep retries waiting.
pub(crate) async fn a_retry_does_not_wait_behind_new_messages<H: Harness>(engine: &mut Engine<H>) {
    let broker = engine.fresh().await;
    let retry = put_off(&broker, 1).await.remove(0);
    until_count(&broker, Queue::Outbound, 1).await;
    let new: Vec<Message> = (0..BACKLOG.into()).map(numbered).collect();
    join_all(new.iter().map(|message| publish(&broker, message))).await;
    let mut consumer = consume(&broker, Queue::Outbound, WINDOW).await;
    assert_comes_soon(&broker, &mut consumer, &retry).await;
}

/// Publishes this many messages and delays all of them by the same short time.
async fn put_off(broker: &SharedBroker, messages: u16) -> Vec<Message> {
    let sent: Vec<Message> = (0..messages.into()).map(numbered).collect();
    join_all(sent.iter().map(|message| publish(broker, message))).await;
    let mut consumer = consume(broker, Queue::Outbound, messages).await;
    let mut held = Vec::new();
    for _ in &sent {
        held.push(next(&mut consumer).await);
    }
    // Dropped, so that none comes back to it.
    drop(consumer);
    let settling = held
        .into_iter()
        .map(|delivery| settle(delivery, Decision::RetryAfter(DELAY)));
    join_all(settling).await;
    sent
}

async fn assert_comes_soon(
    broker: &SharedBroker,
    consumer: &mut Box<dyn Consumer>,
    message: &Message,
) {
    for _ in 0..SOON {
        // A round trip, so that the backlog is not worked off before a busy broker hands the message
        // out.
        let _ = broker.ready(Queue::Outbound).await;
        let delivery = next(consumer).await;
        let found = delivery.message().id == message.id;
        settle(delivery, Decision::Done).await;
        if found {
            return;
        }
    }
    panic!("not among the first {SOON}");
}
