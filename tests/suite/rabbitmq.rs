//! RabbitMQ only: connections that break, and other clients.

use std::{
    collections::HashSet,
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, ensure};
use futures::{
    StreamExt,
    future::{join_all, try_join_all},
    stream::FuturesUnordered,
};
use harness::{
    proxy::Proxy,
    test_namespace::{remove_namespace, server_url},
    wait::{WAIT_LIMIT, until},
};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicGetOptions, BasicPublishOptions, QueueDeleteOptions},
};
use roundtrip_broker::{
    Config, Consumer, Delivery, Message, PublishError, Queue, Route, SettleError, SharedBroker,
    Status,
};
use roundtrip_model::{
    ChannelId, Decision, MessageId, SystemClock,
    decision::{DeadKind, DeadReason},
};
use time::OffsetDateTime;
use tokio::time::timeout;
use url::Url;
use uuid::Uuid;

use crate::contract::broker::patient;

/// The delivery limit of the work queues (docs/adr/0002).
const DELIVERY_LIMIT: usize = 20;

/// A namespace on the server that the environment names, behind a proxy.
pub(crate) struct Place {
    pub(crate) direct: Url,
    pub(crate) proxy: Proxy,
    pub(crate) config: Config,
}

impl Place {
    pub(crate) async fn make() -> anyhow::Result<Self> {
        Self::on(server_url("TEST_AMQP_URL")?).await
    }

    /// The same, and its broker.
    pub(crate) async fn opened() -> anyhow::Result<(Self, SharedBroker)> {
        let place = Self::make().await?;
        let broker = place.open().await?;
        Ok((place, broker))
    }

    /// On another server than the environment's.
    pub(crate) async fn on(direct: Url) -> anyhow::Result<Self> {
        let proxy = Proxy::start(address(&direct)?).await?;
        let mut url = direct.clone();
        url.set_host(Some("127.0.0.1"))?;
        // A URL with a host takes a port.
        let _ = url.set_port(Some(proxy.address().port()));
        let config = Config {
            url: url.into(),
            namespace: format!("t-{}", Uuid::now_v7().simple()),
            ..patient()
        };
        Ok(Self {
            direct,
            proxy,
            config,
        })
    }

    pub(crate) async fn open(&self) -> anyhow::Result<SharedBroker> {
        Ok(roundtrip_broker::open(&self.config, Arc::new(SystemClock)).await?)
    }

    pub(crate) fn name(&self, end: &str) -> String {
        format!("{}.{end}", self.config.namespace)
    }

    /// Publishes to the work queue as another client.
    pub(crate) async fn publish_bare(
        &self,
        body: &[u8],
        properties: BasicProperties,
    ) -> anyhow::Result<()> {
        let (_connection, channel) = self.other_client().await?;
        let options = BasicPublishOptions::default();
        let queue = self.name("outbound.0").into();
        let published = channel.basic_publish("".into(), queue, options, body, properties);
        published.await?.await?;
        Ok(())
    }

    /// Another client's channel, past the proxy.
    pub(crate) async fn other_client(&self) -> anyhow::Result<(Connection, Channel)> {
        let properties = ConnectionProperties::default();
        let connection = Connection::connect(self.direct.as_str(), properties).await?;
        let channel = connection.create_channel().await?;
        Ok((connection, channel))
    }

    pub(crate) async fn delete_queue(&self, end: &str) -> anyhow::Result<()> {
        let (_connection, channel) = self.other_client().await?;
        let options = QueueDeleteOptions::default();
        channel.queue_delete(self.name(end).into(), options).await?;
        Ok(())
    }

    /// Closes the broker and removes everything from the server.
    pub(crate) async fn leave(self, broker: SharedBroker) -> anyhow::Result<()> {
        broker.close().await;
        let namespace = &self.config.namespace;
        remove_namespace(self.direct.as_str(), namespace, self.config.outbound_shards).await?;
        Ok(())
    }
}

pub(crate) fn address(url: &Url) -> anyhow::Result<SocketAddr> {
    let host = url.host_str().context("a host")?;
    let mut addresses = (host, url.port().unwrap_or(5672)).to_socket_addrs()?;
    addresses.next().context("an address")
}

pub(crate) fn channel() -> ChannelId {
    "c".parse().expect("a channel id")
}

pub(crate) fn message() -> Message {
    Message {
        id: MessageId::generate().to_string(),
        attempts: 0,
        replay_count: 0,
        accepted_at: OffsetDateTime::UNIX_EPOCH,
        dead: None,
        waiting: None,
        body: "{}".into(),
    }
}

pub(crate) async fn publish(broker: &SharedBroker) -> Result<String, PublishError> {
    let message = message();
    let id = message.id.clone();
    broker.publish(Route::Outbound(&channel()), message).await?;
    Ok(id)
}

pub(crate) async fn until_published(broker: &SharedBroker) -> anyhow::Result<String> {
    until("a publish to be taken", async || publish(broker).await.ok()).await
}

pub(crate) async fn until_status(
    broker: &SharedBroker,
    wanted: fn(&Status) -> bool,
) -> anyhow::Result<()> {
    until("the status", async || {
        wanted(&broker.status()).then_some(())
    })
    .await
}

pub(crate) async fn until_ready(
    broker: &SharedBroker,
    queue: Queue,
    count: u64,
) -> anyhow::Result<()> {
    until(format!("{count} in {}", queue.name()), async || {
        (broker.ready(queue).await.ok() == Some(count)).then_some(())
    })
    .await
}

pub(crate) fn refused() -> Decision {
    Decision::DeadLetter(DeadReason::new(DeadKind::Refused, "no"))
}

pub(crate) async fn next(consumer: &mut Box<dyn Consumer>) -> anyhow::Result<Delivery> {
    let delivery = timeout(WAIT_LIMIT, consumer.next()).await;
    delivery
        .context("a message in time")?
        .context("an open broker")
}

/// Receives and acks until all of these have come.
pub(crate) async fn receive_all(
    consumer: &mut Box<dyn Consumer>,
    mut wanted: HashSet<String>,
) -> anyhow::Result<()> {
    while !wanted.is_empty() {
        let delivery = next(consumer).await?;
        wanted.remove(&delivery.message().id);
        // If the lease is lost, it is redelivered and settled then.
        let _ = delivery.settle(Decision::Done).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_confirmed_around_a_cut_arrive() -> anyhow::Result<()> {
    const PUBLISHES: usize = 500;
    let (place, broker) = Place::opened().await?;
    let mut consumer = broker.consume(Queue::Outbound, 10).await?;
    let first = until_published(&broker).await?;
    receive_all(&mut consumer, HashSet::from([first])).await?;

    let publishing = join_all((0..PUBLISHES).map(|_| {
        let broker = broker.clone();
        tokio::spawn(async move { publish(&broker).await })
    }));
    place.proxy.cut();
    let answers = timeout(WAIT_LIMIT, publishing)
        .await
        .context("every publish ends")?;
    let mut confirmed = HashSet::new();
    for answer in answers {
        confirmed.extend(answer?.ok());
    }
    confirmed.insert(until_published(&broker).await?);
    receive_all(&mut consumer, confirmed).await?;
    place.leave(broker).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_into_silence_ends_unconfirmed_and_the_silent_connection_is_left()
-> anyhow::Result<()> {
    let mut place = Place::make().await?;
    place.config.publish_timeout = Config::default().publish_timeout;
    let broker = place.open().await?;
    let mut consumer = broker.consume(Queue::Outbound, 10).await?;
    until_published(&broker).await?;
    next(&mut consumer).await?.settle(Decision::Done).await?;

    place.proxy.stall();
    let answer = timeout(WAIT_LIMIT, publish(&broker))
        .await
        .context("the publish ends")?;
    ensure!(
        matches!(answer, Err(PublishError::Unconfirmed)),
        "{answer:?}"
    );
    until_status(&broker, |status| matches!(status, Status::Unavailable(_))).await?;
    place.proxy.cut();
    place.proxy.resume();
    let id = until_published(&broker).await?;
    receive_all(&mut consumer, HashSet::from([id])).await?;
    place.leave(broker).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_starts_later_is_used() -> anyhow::Result<()> {
    let place = Place::make().await?;
    place.proxy.refuse();
    let broker = place.open().await?;
    ensure!(
        matches!(broker.status(), Status::Unavailable(_)),
        "{:?}",
        broker.status()
    );
    let mut consumer = broker.consume(Queue::Outbound, 1).await?;
    let answer = publish(&broker).await;
    ensure!(
        matches!(answer, Err(PublishError::Unavailable(_))),
        "{answer:?}"
    );

    place.proxy.resume();
    until_status(&broker, |status| *status == Status::Ready).await?;
    let id = publish(&broker).await?;
    receive_all(&mut consumer, HashSet::from([id])).await?;
    place.leave(broker).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_of_a_lost_connection_is_lost_and_the_message_comes_again() -> anyhow::Result<()> {
    let (place, broker) = Place::opened().await?;
    let mut consumer = broker.consume(Queue::Outbound, 2).await?;
    let id = publish(&broker).await?;
    let leased = next(&mut consumer).await?;
    place.proxy.cut();
    let again = next(&mut consumer).await?;
    ensure!(again.message().id == id);
    let settled = timeout(WAIT_LIMIT, leased.settle(Decision::Done)).await?;
    ensure!(matches!(settled, Err(SettleError::Lost(_))), "{settled:?}");
    again.settle(Decision::Done).await?;
    place.leave(broker).await
}

/// A window of one: it must be free again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_that_does_not_reach_the_broker_costs_a_redelivery() -> anyhow::Result<()>
{
    let (place, broker) = Place::opened().await?;
    let mut consumer = broker.consume(Queue::Outbound, 1).await?;
    let id = publish(&broker).await?;
    let first = next(&mut consumer).await?;
    place.proxy.stall();
    // It may be written to the socket, or fail once the silent connection is left.
    let _ = timeout(WAIT_LIMIT, first.settle(Decision::Done)).await?;
    until_status(&broker, |status| matches!(status, Status::Unavailable(_))).await?;
    place.proxy.cut();
    place.proxy.resume();
    let again = next(&mut consumer).await?;
    ensure!(again.message().id == id);
    again.settle(Decision::Done).await?;
    until_ready(&broker, Queue::Outbound, 0).await?;
    place.leave(broker).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_that_the_broker_cannot_take_now_is_not_lost() -> anyhow::Result<()> {
    let (place, broker) = Place::opened().await?;
    let mut consumer = broker.consume(Queue::Outbound, 2).await?;
    let id = publish(&broker).await?;
    let leased = next(&mut consumer).await?;
    place.delete_queue("delay.1s").await?;
    // The first publish is returned, the tier is declared again, and the next one is accepted.
    let settled = leased.settle(Decision::RetryAfter(Duration::from_secs(1)));
    timeout(WAIT_LIMIT, settled).await??;
    let again = next(&mut consumer).await?;
    let found = (&again.message().id, again.message().attempts);
    ensure!(found == (&id, 1), "{found:?}");
    again.settle(Decision::Done).await?;
    place.leave(broker).await
}

/// If the broker accepted a message and the confirm is lost, it is published again. The duplicate
/// has the same id, by which a receiver can drop it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_delayed_around_a_cut_come_again_under_their_ids() -> anyhow::Result<()> {
    const MESSAGES: u16 = 500;
    const BEFORE_THE_CUT: usize = 20;
    let (place, broker) = Place::opened().await?;
    let sent = try_join_all((0..MESSAGES).map(|_| publish(&broker))).await?;
    let sent: HashSet<String> = sent.into_iter().collect();
    let mut consumer = broker.consume(Queue::Outbound, MESSAGES).await?;
    let mut settling = FuturesUnordered::new();
    for _ in 0..MESSAGES {
        let leased = next(&mut consumer).await?;
        settling.push(leased.settle(Decision::RetryAfter(Duration::from_secs(1))));
    }
    let mut settled = 0;
    while let Some(outcome) = timeout(WAIT_LIMIT, settling.next()).await? {
        // If the lease is lost, it is redelivered unchanged.
        settled += usize::from(outcome.is_ok());
        if settled == BEFORE_THE_CUT {
            place.proxy.cut();
        }
    }
    let mut missing = sent.clone();
    while !missing.is_empty() {
        let delivery = next(&mut consumer).await?;
        let id = &delivery.message().id;
        ensure!(sent.contains(id), "{id} was never sent");
        missing.remove(id);
        // If the lease is lost, it is redelivered and settled then.
        let _ = delivery.settle(Decision::Done).await;
    }
    place.leave(broker).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_can_be_settled_after_its_consumer_was_dropped() -> anyhow::Result<()> {
    let (place, broker) = Place::opened().await?;
    publish(&broker).await?;
    let buffered = publish(&broker).await?;
    let mut first = broker.consume(Queue::Outbound, 2).await?;
    let leased = next(&mut first).await?;
    drop(first);
    let mut second = broker.consume(Queue::Outbound, 2).await?;
    ensure!(next(&mut second).await?.message().id == buffered);
    leased.settle(Decision::Done).await?;
    // The end of the connection would requeue what was not acked.
    drop(second);
    broker.close().await;
    let broker = place.open().await?;
    until_ready(&broker, Queue::Outbound, 1).await?;
    place.leave(broker).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_over_the_delivery_limit_is_dead_with_that_reason() -> anyhow::Result<()> {
    let (place, broker) = Place::opened().await?;
    let id = publish(&broker).await?;
    let (connection, _channel) = place.other_client().await?;
    for _ in 0..=DELIVERY_LIMIT {
        let channel = connection.create_channel().await?;
        until("the message, back in its queue", async || {
            let queue = place.name("outbound.0").into();
            let got = channel.basic_get(queue, BasicGetOptions::default());
            got.await.ok().flatten()
        })
        .await?;
        // What it received and did not ack counts as a failed delivery.
        channel.close(200, "as if it had crashed".into()).await?;
    }
    let mut dead_letters = broker.consume(Queue::OutboundDead, 1).await?;
    let dead = next(&mut dead_letters).await?;
    ensure!(dead.message().id == id);
    let reason = dead.message().dead.as_ref().context("a reason")?;
    ensure!(reason.kind == DeadKind::DeliveryLimit, "{reason:?}");
    dead.settle(Decision::Done).await?;
    place.leave(broker).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_clients_bare_message_is_handed_out_like_any_other() -> anyhow::Result<()> {
    let (place, broker) = Place::opened().await?;
    let bare = BasicProperties::default();
    place.publish_bare(b"not JSON", bare).await?;
    let mut consumer = broker.consume(Queue::Outbound, 1).await?;
    let delivery = next(&mut consumer).await?;
    let id = delivery.message().id.clone();
    ensure!(!id.is_empty() && delivery.message().body == "not JSON");
    delivery.settle(Decision::Snooze(Duration::ZERO)).await?;
    let delivery = next(&mut consumer).await?;
    ensure!((delivery.message().id.as_str(), delivery.message().attempts) == (id.as_str(), 0));
    delivery.settle(Decision::Done).await?;
    place.leave(broker).await
}
