//! The connection of a mailbox: notes go out on one of its channels and come in on another one.
//!
//! Invariant: a note is never redelivered, and none outlasts its connection. Its queue is exclusive
//! to the connection, and bounded in number, bytes and time. A lost note is no error.

use std::{future::pending, pin::pin, sync::Arc, time::Duration};

use backoff::{ExponentialBackoff, backoff::Backoff};
use futures::StreamExt;
use lapin::{
    BasicProperties, Consumer,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
        QueueBindOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable, ShortString},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    channel::OpenChannel,
    endpoint::Endpoint,
    link::Link,
    link_error::{LinkError, limited},
    refusals::{Refusal, STEADY, waits},
    topology::Topology,
};
use crate::{
    mailbox::{Carrier, Note},
    metrics::Purpose,
};

/// The bounds of a queue of notes. A further note removes the oldest one.
const MAX_QUEUED: i64 = 1024;
const MAX_QUEUED_BYTES: i64 = 4 << 20;

/// How long a note waits in a queue. Later its reader has found elsewhere what it says.
const TIME_TO_LIVE: Duration = Duration::from_secs(5);

/// How many notes RabbitMQ sends ahead.
const WINDOW: u16 = 64;

const RESPONSE_LIMIT: Duration = Duration::from_secs(5);

/// AMQP's delivery mode for a message that is not written to disk.
const TRANSIENT: u8 = 1;

pub(super) struct NotesLink {
    endpoint: Endpoint,
    topology: Arc<Topology>,
    carrier: Carrier,
    waits: ExponentialBackoff,
    /// The number of queues so far. A new connection declares a queue with another name, because the
    /// lost one's may still exist.
    queues: u64,
    is_logged: bool,
}

impl NotesLink {
    pub(super) fn new(endpoint: Endpoint, topology: Arc<Topology>, carrier: Carrier) -> Self {
        Self {
            endpoint,
            topology,
            carrier,
            waits: waits(),
            queues: 0,
            is_logged: false,
        }
    }

    /// Keeps a connection until the broker is `closed`, or the mailbox.
    pub(super) async fn run(mut self, closed: CancellationToken) {
        let received = self.carrier.received.clone();
        let mut done = pin!(async {
            tokio::select! {
                () = closed.cancelled() => {}
                () = received.closed() => {}
            }
        });
        loop {
            let connected = tokio::select! {
                () = &mut done => return,
                connected = Link::connect(&self.endpoint, Purpose::Notes) => connected,
            };
            let reason = match connected {
                Ok((link, mut events)) => {
                    let since = Instant::now();
                    let reason = tokio::select! {
                        () = &mut done => None,
                        reason = link.lost(&mut events) => Some(reason),
                        reason = link.silent() => Some(reason),
                        reason = self.serve(&link) => Some(reason),
                    };
                    // RabbitMQ then removes the queue at once.
                    link.close().await;
                    if since.elapsed() > STEADY {
                        self.waits.reset();
                        self.is_logged = false;
                    }
                    match reason {
                        Some(reason) => reason,
                        None => return,
                    }
                }
                Err(reason) => reason,
            };
            self.failed(&reason);
            let wait = self.waits.next_backoff();
            let wait = wait.unwrap_or(self.waits.max_interval);
            tokio::select! {
                () = &mut done => return,
                () = sleep(wait) => {}
            }
        }
    }

    /// Logs a failure once, until a connection has worked for a while.
    fn failed(&mut self, reason: &LinkError) {
        if !std::mem::replace(&mut self.is_logged, true) {
            tracing::warn!(
                %reason,
                remedy = Refusal::from(reason).advice(),
                "the notes between ingress processes do not arrive, so that a producer waits up to \
                 half a second longer for an answer that another one accepts; trying again"
            );
        }
    }

    async fn serve(&mut self, link: &Link) -> LinkError {
        let served = async {
            let incoming = link.channel().await?;
            let consumer = self.subscribe(&incoming).await?;
            let outgoing = link.channel().await?;
            if self.is_logged {
                tracing::info!("the notes between ingress processes arrive again");
            }
            let Carrier {
                unsent, received, ..
            } = &mut self.carrier;
            // Those that waited for the connection are late.
            while unsent.try_recv().is_ok() {}
            tokio::select! {
                received = receive(&incoming, consumer, received) => received,
                sent = send(&outgoing, &self.topology, unsent) => sent,
            }
        };
        served.await.err().unwrap_or(LinkError::Ended)
    }

    /// Declares a queue, and consumes it.
    async fn subscribe(&mut self, channel: &OpenChannel) -> Result<Consumer, LinkError> {
        self.queues += 1;
        let (exchange, key) = self.topology.notes(self.carrier.own);
        let queue = ShortString::from(format!("{key}.{}", self.queues));
        let subscribing = async {
            // The publishing connection of a new deployment may not have declared it yet.
            let declaration = self.topology.exchange_declaration();
            self.topology.declare(channel, &declaration).await?;
            let options = QueueDeclareOptions {
                exclusive: true,
                auto_delete: true,
                ..QueueDeclareOptions::default()
            };
            channel
                .queue_declare(queue.clone(), options, arguments())
                .await?;
            let options = QueueBindOptions::default();
            let none = FieldTable::default();
            channel
                .queue_bind(queue.clone(), exchange, key, options, none.clone())
                .await?;
            let options = BasicQosOptions { global: false };
            channel.basic_qos(WINDOW, options).await?;
            let options = BasicConsumeOptions::default();
            channel.basic_consume(queue, "".into(), options, none).await
        };
        limited("the queue of notes", RESPONSE_LIMIT, subscribing).await
    }
}

fn arguments() -> FieldTable {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut arguments = FieldTable::default();
    // A virtual host may have another default.
    arguments.insert("x-queue-type".into(), text("classic"));
    arguments.insert("x-overflow".into(), text("drop-head"));
    for (argument, bound) in [
        ("x-max-length", MAX_QUEUED),
        ("x-max-length-bytes", MAX_QUEUED_BYTES),
        (
            "x-message-ttl",
            i64::try_from(TIME_TO_LIVE.as_millis()).unwrap_or(i64::MAX),
        ),
    ] {
        arguments.insert(argument.into(), bound.into());
    }
    arguments
}

/// Hands out what comes, and acknowledges it so that more comes.
async fn receive(
    channel: &OpenChannel,
    mut consumer: Consumer,
    received: &mpsc::Sender<bytes::Bytes>,
) -> Result<(), LinkError> {
    while let Some(note) = consumer.next().await {
        let note = note?;
        // Without a reader the mailbox is closed, which `run` sees.
        let _ = received.send(note.data.into()).await;
        let one = BasicAckOptions { multiple: false };
        channel.basic_ack(note.delivery_tag, one).await?;
    }
    Ok(())
}

/// Publishes notes without confirms. RabbitMQ drops those for a mailbox that does not exist.
async fn send(
    channel: &OpenChannel,
    topology: &Topology,
    unsent: &mut mpsc::Receiver<Note>,
) -> Result<(), LinkError> {
    let transient = BasicProperties::default().with_delivery_mode(TRANSIENT);
    while let Some(Note { to, body }) = unsent.recv().await {
        let (exchange, key) = topology.notes(to);
        let options = BasicPublishOptions::default();
        let publishing = channel.basic_publish(exchange, key, options, &body, transient.clone());
        publishing.await?;
    }
    pending().await
}
