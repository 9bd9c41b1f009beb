//! RabbitMQ's raw rates: publishing with confirms and consuming with acks, by lapin alone, over the
//! same kind of queue as the gateway's.
//!
//! Invariant: it works as the gateway does. It publishes persistent messages, mandatory and
//! confirmed, to a quorum queue that refuses when full. It acks a message only after receiving it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use futures::StreamExt;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
        ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::options::Size;

/// The queue of the raw rates.
const QUEUE: &str = "benchmark.raw";

/// The unacked messages of a raw consumer.
pub(crate) const PREFETCH: u16 = 1_000;

/// The messages that one multiple ack settles.
pub(crate) const ACK_EVERY: u64 = 100;

/// AMQP's delivery mode for persistent messages.
const PERSISTENT: u8 = 2;

const LIMIT: Duration = Duration::from_mins(2);

/// Messages per second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rates {
    pub(crate) publish: f64,
    pub(crate) consume_each: f64,
    pub(crate) consume_multiple: f64,
}

/// Measures the three rates.
pub(crate) async fn measure(url: &str, size: Size) -> anyhow::Result<Rates> {
    let all = async {
        // Separate connections, as in the gateway.
        let publishing = connect(url).await?;
        let consuming = connect(url).await?;
        let channel = publishing.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        declare(&channel).await?;
        let first = publish(&channel, size).await?;
        let consume_each = consume(&consuming, size, 1).await?;
        let second = publish(&channel, size).await?;
        let consume_multiple = consume(&consuming, size, ACK_EVERY).await?;
        channel
            .queue_delete(QUEUE.into(), QueueDeleteOptions::default())
            .await?;
        for connection in [publishing, consuming] {
            connection.close(200, "done".into()).await?;
        }
        Ok(Rates {
            // Over both rounds together.
            publish: 2.0 / (1.0 / first + 1.0 / second),
            consume_each,
            consume_multiple,
        })
    };
    timeout(LIMIT, all)
        .await
        .context("the raw measurement's limit passed")?
}

async fn connect(url: &str) -> anyhow::Result<Connection> {
    Connection::connect(url, ConnectionProperties::default())
        .await
        .context("connecting to RabbitMQ")
}

async fn declare(channel: &Channel) -> anyhow::Result<()> {
    let mut arguments = FieldTable::default();
    for (name, value) in [("x-queue-type", "quorum"), ("x-overflow", "reject-publish")] {
        arguments.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(QUEUE.into(), options, arguments)
        .await?;
    Ok(())
}

async fn publish(channel: &Channel, size: Size) -> anyhow::Result<f64> {
    let body: Arc<[u8]> = vec![b'x'; size.body_bytes].into();
    let next = Arc::new(AtomicU64::new(0));
    let since = Instant::now();
    let mut publishers = JoinSet::new();
    for _ in 0..size.in_flight {
        let (channel, body, next) = (channel.clone(), Arc::clone(&body), Arc::clone(&next));
        publishers.spawn(async move {
            while next.fetch_add(1, Ordering::AcqRel) < size.messages {
                publish_one(&channel, &body).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = publishers.join_next().await {
        ended??;
    }
    Ok(size.per_second(since.elapsed()))
}

async fn publish_one(channel: &Channel, body: &[u8]) -> anyhow::Result<()> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    let confirmation = channel
        .basic_publish("".into(), QUEUE.into(), options, body, properties)
        .await?
        .await?;
    // A returned message is confirmed too.
    ensure!(
        confirmation == Confirmation::Ack(None),
        "not taken: {confirmation:?}"
    );
    Ok(())
}

async fn consume(connection: &Connection, size: Size, ack_every: u64) -> anyhow::Result<f64> {
    let channel = connection.create_channel().await?;
    channel
        .basic_qos(PREFETCH, BasicQosOptions::default())
        .await?;
    let since = Instant::now();
    let mut consumer = channel
        .basic_consume(
            QUEUE.into(),
            "benchmark".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let options = BasicAckOptions {
        multiple: ack_every > 1,
    };
    for received in 1..=size.messages {
        let delivery = consumer.next().await.context("the consumer ended")??;
        if received % ack_every == 0 || received == size.messages {
            ensure!(delivery.ack(options).await?, "an ack was not sent");
        }
    }
    let rate = size.per_second(since.elapsed());
    // Closing waits until the server has processed what was sent before, including the last ack.
    channel.close(200, "done".into()).await?;
    Ok(rate)
}
