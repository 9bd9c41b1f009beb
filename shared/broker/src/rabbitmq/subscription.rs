//! One AMQP channel that consumes one RabbitMQ queue, and settles its deliveries.
//!
//! Invariant: the channel lives until every delivery is settled or the connection is lost, even
//! after the consumer was dropped or RabbitMQ cancelled it.

use std::{sync::Arc, time::Duration};

use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, Fuse, FusedFuture, try_join_all},
};
use lapin::{
    Channel, Consumer,
    message::Delivery,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    },
    types::{FieldTable, ShortString},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{
    Engine,
    acks::{AckBatch, Acks, Tag},
    channel::OpenChannel,
    lease::{ChannelLease, Settled},
    link::Link,
    link_error::{LinkError, limited},
    wire::decode,
};
use crate::{Message, Queue};

const RESPONSE_LIMIT: Duration = Duration::from_secs(5);

const WRITE_LIMIT: Duration = Duration::from_secs(10);

pub(super) type Out = mpsc::Sender<(Message, ChannelLease)>;

#[derive(Debug)]
pub(super) enum End {
    Closed,
    Dropped,
    /// RabbitMQ cancelled the consumer: the queue was deleted.
    Cancelled,
    Lost(LinkError),
}

#[derive(Debug)]
pub(super) enum SubscribeError {
    Declaring(LinkError),
    Consuming(LinkError),
}

#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) queue: Queue,
    pub(super) name: ShortString,
    /// The prefetch: the whole window, so that one busy queue can fill it. The window's permits
    /// bound the deliveries of all queues. lapin buffers at most the window times the number of
    /// queues.
    pub(super) window: u16,
}

pub(super) struct Subscription {
    engine: Arc<Engine>,
    queue: Queue,
    /// Held so that the connection outlives the subscription's deliveries.
    _link: Arc<Link>,
    /// Before the consumer: it is dropped first, so the consumer has nothing left to cancel.
    channel: OpenChannel,
    consumer: Consumer,
    /// A received delivery that waits for a permit.
    received: Option<Delivery>,
    permit: Fuse<BoxFuture<'static, Option<OwnedSemaphorePermit>>>,
    /// Unbounded, yet it holds at most the window: each delivery is settled once.
    settled: mpsc::UnboundedReceiver<Settled>,
    /// For the leases; `None` once no more are made.
    lease_settled: Option<mpsc::UnboundedSender<Settled>>,
    acks: Acks,
    acked: Vec<Tag>,
    requeued: Vec<Tag>,
    waiting: Vec<oneshot::Sender<()>>,
    writing: Fuse<BoxFuture<'static, Result<(), LinkError>>>,
}

impl Subscription {
    /// Opens a channel and consumes the queue, after declaring it if it is `missing`. After a
    /// failure the channel is closed, or its close is sent, before this returns. A consumer that the
    /// broker adds later ends with that close.
    pub(super) async fn open(
        engine: &Arc<Engine>,
        link: Arc<Link>,
        source: &Source,
        missing: bool,
    ) -> Result<Self, SubscribeError> {
        let channel = link.channel().await.map_err(SubscribeError::Consuming)?;
        let opening = async {
            if missing {
                declare(engine, &channel, source)
                    .await
                    .map_err(SubscribeError::Declaring)?;
            }
            let consuming = consume(&channel, source).await;
            consuming.map_err(SubscribeError::Consuming)
        };
        let consumer = match opening.await {
            Ok(consumer) => consumer,
            Err(reason) => {
                // An error means that the channel is gone already.
                let _ = channel.close().await;
                return Err(reason);
            }
        };
        let (lease_settled, settled) = mpsc::unbounded_channel();
        Ok(Self {
            engine: Arc::clone(engine),
            queue: source.queue,
            _link: link,
            channel,
            consumer,
            received: None,
            permit: Fuse::terminated(),
            settled,
            lease_settled: Some(lease_settled),
            acks: Acks::default(),
            acked: Vec::new(),
            requeued: Vec::new(),
            waiting: Vec::new(),
            writing: Fuse::terminated(),
        })
    }

    /// Passes on deliveries, each under a permit, and acknowledges the settled ones. It receives
    /// before it takes the permit, so that a subscription with an empty queue holds none.
    pub(super) async fn run(&mut self, out: &Out, window: &Arc<Semaphore>) -> End {
        let closing = self.engine.closing.clone();
        loop {
            tokio::select! {
                biased;
                () = closing.cancelled() => {
                    self.write_the_rest().await;
                    return End::Closed;
                }
                () = out.closed() => return End::Dropped,
                Some(settled) = self.settled.recv() => {
                    self.note(settled);
                    self.write();
                }
                written = &mut self.writing, if !self.writing.is_terminated() => {
                    if let Err(error) = written {
                        return End::Lost(error);
                    }
                    self.write();
                }
                permit = &mut self.permit, if !self.permit.is_terminated() => {
                    if let (Some(permit), Some(delivery)) = (permit, self.received.take()) {
                        self.hand_out(delivery, permit, out);
                    }
                }
                received = self.consumer.next(), if self.received.is_none() => match received {
                    Some(Ok(delivery)) => {
                        self.received = Some(delivery);
                        // The semaphore is never closed.
                        let permit = Arc::clone(window).acquire_owned().map(Result::ok);
                        self.permit = permit.boxed().fuse();
                    }
                    None => return End::Cancelled,
                    Some(Err(error)) => return End::Lost(error.into()),
                },
            }
        }
    }

    fn hand_out(&self, delivery: Delivery, permit: OwnedSemaphorePermit, out: &Out) {
        let Some(settled) = self.lease_settled.clone() else {
            return;
        };
        let tag = delivery.delivery_tag;
        let lease = ChannelLease::new(Arc::clone(&self.engine), self.queue, tag, settled, permit);
        let message = decode(delivery, self.queue, &*self.engine.clock);
        // The permit guarantees capacity. If the consumer was dropped meanwhile, the lease drops
        // too and the message is requeued.
        let _ = out.try_send((message, lease));
    }

    fn note(&mut self, first: Settled) {
        let mut next = Some(first);
        while let Some(settled) = next {
            match settled {
                Settled::Ack(tag, done) => {
                    self.acked.push(tag);
                    self.waiting.push(done);
                }
                Settled::Requeue(tag) => self.requeued.push(tag),
            }
            next = self.settled.try_recv().ok();
        }
    }

    /// Writes the settled deliveries. During a write further ones collect, and are written together
    /// after it.
    fn write(&mut self) {
        let nothing = self.acked.is_empty() && self.requeued.is_empty();
        if nothing || !self.writing.is_terminated() {
            return;
        }
        let batch = self.acks.batch(
            std::mem::take(&mut self.acked),
            std::mem::take(&mut self.requeued),
        );
        let waiting = std::mem::take(&mut self.waiting);
        let channel = (*self.channel).clone();
        let writing = async move {
            limited("acknowledging", WRITE_LIMIT, write(&channel, batch)).await?;
            for done in waiting {
                // The receiver may have been dropped; that is fine.
                let _ = done.send(());
            }
            Ok(())
        };
        self.writing = writing.boxed().fuse();
    }

    async fn write_the_rest(&mut self) {
        while let Ok(settled) = self.settled.try_recv() {
            self.note(settled);
        }
        self.write();
        while !self.writing.is_terminated() {
            if (&mut self.writing).await.is_err() {
                return;
            }
            self.write();
        }
    }

    /// Stops receiving and requeues what was not passed on. Then it settles until every delivery is
    /// settled or the broker is closed.
    pub(super) async fn retire(mut self) {
        let closing = self.engine.closing.clone();
        tokio::select! {
            () = closing.cancelled() => self.write_the_rest().await,
            // An error means that the channel is gone, so its messages are back in the queue.
            _ = self.wind_down() => {}
        }
    }

    async fn wind_down(&mut self) -> Result<(), LinkError> {
        self.lease_settled = None;
        self.permit = Fuse::terminated();
        let tag = self.consumer.tag();
        let cancelling = self
            .channel
            .basic_cancel(tag, BasicCancelOptions::default());
        limited("basic.cancel", RESPONSE_LIMIT, cancelling).await?;
        let received = self.received.take();
        self.requeued
            .extend(received.map(|delivery| delivery.delivery_tag));
        // The cancelled consumer's stream ends, so this does not block.
        while let Some(received) = self.consumer.next().await {
            if let Ok(delivery) = received {
                self.requeued.push(delivery.delivery_tag);
            }
        }
        self.write();
        loop {
            tokio::select! {
                settled = self.settled.recv() => match settled {
                    Some(settled) => {
                        self.note(settled);
                        self.write();
                    }
                    None if self.writing.is_terminated() => break,
                    None => {
                        (&mut self.writing).await?;
                        self.write();
                    }
                },
                written = &mut self.writing, if !self.writing.is_terminated() => {
                    written?;
                    self.write();
                }
            }
        }
        self.channel.close().await
    }
}

async fn declare(engine: &Engine, channel: &Channel, source: &Source) -> Result<(), LinkError> {
    let topology = &engine.topology;
    for declaration in [
        topology.exchange_declaration(),
        topology.declaration(source.queue, &source.name),
    ] {
        let declaring = topology.declare(channel, &declaration);
        limited("declaring the queue", RESPONSE_LIMIT, declaring).await?;
    }
    Ok(())
}

async fn consume(channel: &Channel, source: &Source) -> Result<Consumer, LinkError> {
    let qos = channel.basic_qos(source.window, BasicQosOptions { global: false });
    limited("basic.qos", RESPONSE_LIMIT, qos).await?;
    let consuming = channel.basic_consume(
        source.name.clone(),
        "".into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    limited("basic.consume", RESPONSE_LIMIT, consuming).await
}

async fn write(channel: &Channel, batch: AckBatch) -> lapin::Result<()> {
    let requeue = BasicNackOptions {
        multiple: false,
        requeue: true,
    };
    for tag in batch.requeue {
        channel.basic_nack(tag, requeue).await?;
    }
    if let Some(tag) = batch.up_to {
        channel
            .basic_ack(tag, BasicAckOptions { multiple: true })
            .await?;
    }
    let one = BasicAckOptions { multiple: false };
    try_join_all(
        batch
            .single
            .into_iter()
            .map(|tag| channel.basic_ack(tag, one)),
    )
    .await?;
    Ok(())
}
