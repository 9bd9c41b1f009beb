//! RabbitMQ only: queues that others declared, and queues that vanish.

use std::collections::HashSet;

use anyhow::ensure;
use futures::future::join_all;
use harness::wait::WAIT_LIMIT;
use lapin::{
    BasicProperties,
    options::QueueDeclareOptions,
    types::{AMQPValue, FieldTable, ShortString},
};
use roundtrip_broker::{PublishError, Queue, Route, Status};
use tokio::time::timeout;

use crate::rabbitmq::{
    Place, channel, message, next, publish, receive_all, refused, until_published, until_ready,
    until_status,
};

impl Place {
    /// The arguments of a work queue in the first version.
    fn work_arguments(&self) -> FieldTable {
        let mut arguments = quorum();
        for (argument, value) in [
            ("x-dead-letter-exchange", &*self.name("direct")),
            ("x-dead-letter-strategy", "at-least-once"),
            ("x-overflow", "reject-publish"),
            ("x-dead-letter-routing-key", &self.name("outbound.dead")),
        ] {
            arguments.insert(argument.into(), text(value));
        }
        arguments.insert("x-delivery-limit".into(), 20.into());
        arguments
    }

    /// Declares a queue as another client.
    async fn declare(&self, end: &str, arguments: FieldTable) -> anyhow::Result<()> {
        let (_connection, channel) = self.other_client().await?;
        let durable = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let declared = channel.queue_declare(self.name(end).into(), durable, arguments);
        declared.await?;
        Ok(())
    }
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments
}

/// A work queue and a dead queue as the first version declared them: with another `max_backlog`,
/// and a dead queue that drops its oldest letters.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queues_of_an_older_version_are_taken_over() -> anyhow::Result<()> {
    const MAX_BACKLOG_THEN: i64 = 5;
    let place = Place::make().await?;
    let mut arguments = place.work_arguments();
    let max_backlog = AMQPValue::LongLongInt(MAX_BACKLOG_THEN);
    arguments.insert("x-max-length".into(), max_backlog);
    place.declare("outbound.0", arguments).await?;
    let mut arguments = quorum();
    arguments.insert("x-delivery-limit".into(), 1_000_000_000.into());
    place.declare("outbound.dead", arguments).await?;
    // The header of the replay count is absent.
    let old = BasicProperties::default().with_message_id("msg_old".into());
    place.publish_bare(b"{}", old).await?;

    let broker = place.open().await?;
    let mut consumer = broker.consume(Queue::Outbound, 1).await?;
    let delivery = next(&mut consumer).await?;
    let message_then = delivery.message();
    let found = (&*message_then.id, message_then.replay_count);
    ensure!(found == ("msg_old", 0), "{found:?}");
    delivery.settle(refused()).await?;
    let mut dead_letters = broker.consume(Queue::OutboundDead, 1).await?;
    ensure!(next(&mut dead_letters).await?.message().id == "msg_old");
    until_published(&broker).await?;
    broker.publish(Route::Journal, message()).await?;
    place.leave(broker).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn max_backlog_can_change_once_the_queues_exist() -> anyhow::Result<()> {
    let mut place = Place::make().await?;
    let broker = place.open().await?;
    publish(&broker).await?;
    broker.close().await;
    place.config.max_backlog = 1000;
    let broker = place.open().await?;
    ensure!(broker.status() == Status::Ready, "{:?}", broker.status());
    publish(&broker).await?;
    place.leave(broker).await
}

/// It would drop its oldest messages when full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_work_queue_without_its_promises_is_not_used() -> anyhow::Result<()> {
    let place = Place::make().await?;
    let mut arguments = place.work_arguments().inner().clone();
    arguments.remove(&ShortString::from("x-overflow"));
    place.declare("outbound.0", arguments.into()).await?;
    let broker = place.open().await?;
    until_status(&broker, |status| match status {
        Status::Ready => false,
        Status::Blocked(reason) | Status::Unavailable(reason) => reason.contains("'x-overflow'"),
    })
    .await?;
    let answer = publish(&broker).await;
    ensure!(answer.is_err(), "{answer:?}");
    place.leave(broker).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_returned_message_is_a_failure_and_its_queue_is_declared_again() -> anyhow::Result<()> {
    let (place, broker) = Place::opened().await?;
    publish(&broker).await?;
    place.delete_queue("outbound.0").await?;
    let answer = publish(&broker).await;
    ensure!(
        matches!(answer, Err(PublishError::Refused(_))),
        "{answer:?}"
    );
    let id = until_published(&broker).await?;
    let mut consumer = broker.consume(Queue::Outbound, 1).await?;
    ensure!(next(&mut consumer).await?.message().id == id);
    place.leave(broker).await
}

/// lapin attaches a returned message to the next confirm, which may be another message's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn among_many_publishes_only_those_that_were_returned_fail() -> anyhow::Result<()> {
    const CALLERS: usize = 100;
    const EACH: usize = 20;
    let (place, broker) = Place::opened().await?;
    place.delete_queue("callbacks").await?;
    // Half of the callers publish to a missing queue while the others' confirms arrive.
    let publishing = join_all((0..CALLERS).map(|caller| {
        let broker = broker.clone();
        tokio::spawn(async move {
            let mut taken = [0; 2];
            for number in 0..EACH {
                let channel = channel();
                let outbound = (caller + number) % 2;
                let route = [Route::Callbacks, Route::Outbound(&channel)][outbound];
                taken[outbound] += u64::from(broker.publish(route, message()).await.is_ok());
            }
            taken
        })
    }));
    let mut taken = [0_u64; 2];
    for answer in timeout(WAIT_LIMIT, publishing).await? {
        let [callbacks, messages] = answer?;
        taken[0] += callbacks;
        taken[1] += messages;
    }
    let [callbacks, messages] = taken;
    let half = (CALLERS * EACH / 2) as u64;
    ensure!(messages == half, "{messages} of {half} messages were taken");
    ensure!(callbacks < half, "no callback was returned");
    until_ready(&broker, Queue::Callbacks, callbacks).await?;
    until_ready(&broker, Queue::Outbound, messages).await?;
    place.leave(broker).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_outlives_its_queue() -> anyhow::Result<()> {
    let (place, broker) = Place::opened().await?;
    let mut consumer = broker.consume(Queue::Outbound, 1).await?;
    receive_all(&mut consumer, HashSet::from([publish(&broker).await?])).await?;
    place.delete_queue("outbound.0").await?;
    let id = until_published(&broker).await?;
    receive_all(&mut consumer, HashSet::from([id])).await?;
    place.leave(broker).await
}
