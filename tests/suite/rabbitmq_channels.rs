//! RabbitMQ's channels only: abandoned calls and closed channels.

use std::{collections::HashSet, sync::Arc, time::Duration};

use anyhow::ensure;
use futures::future::{join_all, try_join_all};
use harness::{
    servers::Server,
    stuck::{Method, StuckProxy},
    wait::until,
};
use lapin::{options::QueueDeclareOptions, types::FieldTable};
use roundtrip_broker::{Config, Message, PublishError, Queue, Route, SharedBroker, Status};
use roundtrip_model::{Decision, SystemClock};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use url::Url;

use crate::rabbitmq::{Place, address, message, next, publish, receive_all, until_published};

/// How long an answer is held back: longer than the gateway waits for any call here (5 s).
const STUCK: Duration = Duration::from_secs(7);

const DURABLE: QueueDeclareOptions = QueueDeclareOptions {
    passive: false,
    durable: true,
    exclusive: false,
    auto_delete: false,
    nowait: false,
};

const PASSIVE: QueueDeclareOptions = QueueDeclareOptions {
    passive: true,
    ..DURABLE
};

/// A broker behind a proxy that can hold back RabbitMQ's answers.
async fn open_by(place: &Place) -> anyhow::Result<(StuckProxy, SharedBroker)> {
    let proxy = StuckProxy::start(address(&place.direct)?).await?;
    let mut url: Url = place.direct.clone();
    url.set_host(Some("127.0.0.1"))?;
    // A URL with a host takes a port.
    let _ = url.set_port(Some(proxy.address().port()));
    let config = Config {
        url: url.into(),
        ..place.config.clone()
    };
    let broker = roundtrip_broker::open(&config, Arc::new(SystemClock)).await?;
    Ok((proxy, broker))
}

async fn consumers(place: &Place, queue: &str) -> anyhow::Result<u32> {
    let (_connection, channel) = place.other_client().await?;
    let name = place.name(queue).into();
    let answer = channel.queue_declare(name, PASSIVE, FieldTable::default());
    Ok(answer.await?.consumer_count())
}

/// The server executes a call after the gateway has given it up.
async fn nothing_is_left_behind(answer: Method) -> anyhow::Result<()> {
    const MESSAGES: usize = 50;
    let place = Place::make().await?;
    let (proxy, broker) = open_by(&place).await?;
    until_published(&broker).await?;
    proxy.hold_back(answer);
    let mut consumer = broker.consume(Queue::Outbound, 10).await?;
    let sent = try_join_all((0..MESSAGES).map(|_| publish(&broker))).await?;
    sleep(STUCK).await;
    proxy.release();
    receive_all(&mut consumer, HashSet::from_iter(sent)).await?;
    until("one consumer", async || {
        (consumers(&place, "outbound.0").await.ok() == Some(1)).then_some(())
    })
    .await?;
    place.leave(broker).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consume_that_was_given_up_leaves_no_consumer_behind() -> anyhow::Result<()> {
    nothing_is_left_behind(Method::CONSUME_OK).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_qos_that_was_given_up_leaves_no_consumer_behind() -> anyhow::Result<()> {
    nothing_is_left_behind(Method::QOS_OK).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_declare_that_was_given_up_leaves_no_consumer_behind() -> anyhow::Result<()> {
    nothing_is_left_behind(Method::DECLARE_OK).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_that_was_given_up_gives_back_what_was_received() -> anyhow::Result<()> {
    const MESSAGES: usize = 5;
    let place = Place::make().await?;
    let (proxy, broker) = open_by(&place).await?;
    let sent = try_join_all((0..MESSAGES).map(|_| publish(&broker))).await?;
    let mut first = broker.consume(Queue::Outbound, 10).await?;
    let held = next(&mut first).await?;
    proxy.hold_back(Method::CANCEL_OK);
    drop(first);
    let mut second = broker.consume(Queue::Outbound, 10).await?;
    // It is redelivered after the channel that received it closes.
    receive_all(&mut second, HashSet::from_iter(sent)).await?;
    drop(held);
    proxy.release();
    place.leave(broker).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_another_type_is_refused_and_disturbs_nothing_else() -> anyhow::Result<()> {
    let place = Place::make().await?;
    let (connection, other) = place.other_client().await?;
    let classic = place.name("callbacks").into();
    other
        .queue_declare(classic, DURABLE, FieldTable::default())
        .await?;
    let (proxy, broker) = open_by(&place).await?;
    let mut callbacks = broker.consume(Queue::Callbacks, 1).await?;
    let mut outbound = broker.consume(Queue::Outbound, 1).await?;
    let refused = until("a refusal", async || {
        match broker.publish(Route::Callbacks, message()).await {
            Err(PublishError::Refused(reason)) => Some(reason),
            _ => None,
        }
    })
    .await?;
    ensure!(refused.contains("PRECONDITION"), "{refused}");
    let status = broker.status();
    ensure!(
        matches!(&status, Status::Blocked(reason) if reason.contains("callbacks")),
        "{status:?}"
    );
    for _ in 0..20 {
        let id = publish(&broker).await?;
        let delivery = next(&mut outbound).await?;
        ensure!(delivery.message().id == id);
        delivery.settle(Decision::Done).await?;
    }

    place.delete_queue("callbacks").await?;
    until("a callback to be taken", async || {
        broker.publish(Route::Callbacks, message()).await.ok()
    })
    .await?;
    next(&mut callbacks).await?.settle(Decision::Done).await?;
    ensure!(broker.status() == Status::Ready);
    // One publishes, one receives.
    ensure!(proxy.connections() == 2, "{}", proxy.connections());
    connection.close(200, "OK".into()).await?;
    place.leave(broker).await
}

/// A separate RabbitMQ with these settings.
async fn place_with(settings: &str) -> anyhow::Result<(TempDir, Server, Place)> {
    let folder = TempDir::new()?;
    let server = Server::start_with_settings(folder.path(), settings).await?;
    let place = Place::on(server.url().parse()?).await?;
    Ok((folder, server, place))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_over_the_brokers_limit_is_too_large_and_disturbs_nothing_else()
-> anyhow::Result<()> {
    const EACH: usize = 100;
    let (_folder, _server, place) = place_with("{max_message_size, 200000}").await?;
    let (proxy, broker) = open_by(&place).await?;
    let sized = async |bytes: usize| {
        let body = format!("\"{}\"", "x".repeat(bytes)).into();
        let message = Message { body, ..message() };
        broker.publish(Route::Callbacks, message).await
    };
    // Small, large and too large messages, all at once.
    let publishing = (0..EACH).map(async |number| {
        let too_large = number % 10 == 0;
        let bytes = if too_large { 300_000 } else { 150_000 };
        (too_large, sized(bytes).await, sized(100).await)
    });
    for (too_large, large, small) in join_all(publishing).await {
        ensure!(
            matches!(large, Err(PublishError::TooLarge)) == too_large,
            "{large:?}"
        );
        ensure!(large.is_ok() != too_large, "{large:?}");
        small?;
    }
    ensure!(broker.status() == Status::Ready, "{:?}", broker.status());
    let taken = u64::try_from(EACH + EACH - EACH / 10)?;
    until("each that was taken, once", async || {
        (broker.ready(Queue::Callbacks).await.ok() == Some(taken)).then_some(())
    })
    .await?;
    ensure!(proxy.connections() == 2, "{}", proxy.connections());
    place.leave(broker).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_held_too_long_ends_only_its_own_consumer() -> anyhow::Result<()> {
    let settings = "{consumer_timeout, 1000}, {channel_tick_interval, 500}";
    let (_folder, _server, place) = place_with(settings).await?;
    let (proxy, broker) = open_by(&place).await?;
    let mut outbound = broker.consume(Queue::Outbound, 2).await?;
    let mut callbacks = broker.consume(Queue::Callbacks, 1).await?;
    let id = publish(&broker).await?;
    let held = next(&mut outbound).await?;
    let again = next(&mut outbound).await?;
    ensure!(again.message().id == id);
    again.settle(Decision::Done).await?;
    drop(held);
    broker.publish(Route::Callbacks, message()).await?;
    next(&mut callbacks).await?.settle(Decision::Done).await?;
    ensure!(proxy.connections() == 2, "{}", proxy.connections());
    place.leave(broker).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_permission_affects_only_its_queue() -> anyhow::Result<()> {
    let settings = r#"{default_permissions, [<<".*">>, <<".*">>, <<"^(?!.*callbacks).*">>]}"#;
    let (_folder, _server, place) = place_with(settings).await?;
    let (proxy, broker) = open_by(&place).await?;
    let _refused = broker.consume(Queue::Callbacks, 1).await?;
    let mut outbound = broker.consume(Queue::Outbound, 1).await?;
    // Meanwhile the server refuses the other consumer several times.
    let begun = Instant::now();
    while begun.elapsed() < STUCK {
        let id = publish(&broker).await?;
        receive_all(&mut outbound, HashSet::from([id])).await?;
    }
    // The status names the queue, which nothing can be published to.
    let named = match broker.status() {
        Status::Blocked(reason) => reason.contains(".callbacks"),
        _ => false,
    };
    ensure!(named, "{:?}", broker.status());
    ensure!(proxy.connections() == 2, "{}", proxy.connections());
    place.leave(broker).await
}

/// A place whose callers wait as long as by default.
async fn place_with_default_timeout() -> anyhow::Result<Place> {
    let mut place = Place::make().await?;
    place.config.publish_timeout = Config::default().publish_timeout;
    Ok(place)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_without_confirms_is_not_ready() -> anyhow::Result<()> {
    let place = place_with_default_timeout().await?;
    let (proxy, broker) = open_by(&place).await?;
    until_published(&broker).await?;
    proxy.hold_back(Method::ACK);
    let answer = publish(&broker).await;
    ensure!(
        matches!(answer, Err(PublishError::Unconfirmed)),
        "{answer:?}"
    );
    until("not ready", async || {
        matches!(broker.status(), Status::Blocked(_)).then_some(())
    })
    .await?;
    proxy.release();
    until("ready", async || {
        (broker.status() == Status::Ready).then_some(())
    })
    .await?;
    until_published(&broker).await?;
    ensure!(proxy.connections() == 2, "{}", proxy.connections());
    place.leave(broker).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_while_confirms_are_missing_is_not_stored() -> anyhow::Result<()> {
    const REFUSED: usize = 20;
    let place = place_with_default_timeout().await?;
    let (proxy, broker) = open_by(&place).await?;
    until_published(&broker).await?;
    let before = broker.ready(Queue::Outbound).await?;
    proxy.hold_back(Method::ACK);
    let unconfirmed = publish(&broker).await;
    ensure!(
        matches!(unconfirmed, Err(PublishError::Unconfirmed)),
        "{unconfirmed:?}"
    );
    until("not ready", async || {
        matches!(broker.status(), Status::Blocked(_)).then_some(())
    })
    .await?;
    for answer in join_all((0..REFUSED).map(|_| publish(&broker))).await {
        ensure!(
            matches!(answer, Err(PublishError::Refused(_))),
            "{answer:?}"
        );
    }
    proxy.release();
    until_published(&broker).await?;
    let after = broker.ready(Queue::Outbound).await?;
    ensure!(after == before + 2, "{before} {after}");
    place.leave(broker).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_without_confirms_is_left_and_its_connection_is_kept() -> anyhow::Result<()> {
    let place = place_with_default_timeout().await?;
    let (proxy, broker) = open_by(&place).await?;
    until_published(&broker).await?;
    proxy.hold_back(Method::ACK);
    let unconfirmed = publish(&broker).await;
    ensure!(
        matches!(unconfirmed, Err(PublishError::Unconfirmed)),
        "{unconfirmed:?}"
    );
    proxy.hold_back_no_more();
    until_published(&broker).await?;
    ensure!(broker.status() == Status::Ready, "{:?}", broker.status());
    ensure!(proxy.connections() == 2, "{}", proxy.connections());
    place.leave(broker).await
}
