//! One channel on which one of the broker's queues is received: its deliveries, and the way back
//! for their settlements.
//!
//! Invariant: the channel lives until every delivery that was handed out is settled or the
//! connection is gone, also when the consumer itself is gone or the broker has cancelled it.

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
    acks::{Acks, Batch, Tag},
    channel::OpenChannel,
    lease::{Lease, Settled},
    link::{Link, LinkError, limited},
    wire::decode,
};
use crate::{Parcel, Queue};

/// The limit on the broker's answer to a question about a consumer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// The limit on writing acknowledgements to the socket.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// Where deliveries go.
pub(super) type Out = mpsc::Sender<(Parcel, Lease)>;

/// Why a lane receives no longer.
#[derive(Debug)]
pub(super) enum End {
    /// The broker (ours) was closed.
    Closed,
    /// The consumer was dropped.
    Dropped,
    /// RabbitMQ has cancelled it: the queue was deleted.
    Cancelled,
    /// The connection or the channel is gone.
    Lost(LinkError),
}

/// Why a lane could not be opened.
#[derive(Debug)]
pub(super) enum NotOpened {
    /// Its queue could not be declared.
    Declaring(LinkError),
    /// Anything else.
    Consuming(LinkError),
}

/// What a lane receives.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) queue: Queue,
    /// One of the broker's queues that `queue` is made of.
    pub(super) name: ShortString,
    /// The prefetch: the whole window, so that one busy queue can fill it. What is handed out over
    /// all of them is bounded by the window's permits; what lapin buffers, by the window times
    /// their number.
    pub(super) window: u16,
}

/// A channel with a consumer on one of the broker's queues.
pub(super) struct Lane {
    engine: Arc<Engine>,
    queue: Queue,
    /// Held so that the connection outlives the lane's deliveries.
    _link: Arc<Link>,
    /// Before the consumer, so that it is closed first and the consumer has nothing to cancel.
    channel: OpenChannel,
    consumer: Consumer,
    /// Received, and waits for a permit.
    received: Option<Delivery>,
    permit: Fuse<BoxFuture<'static, Option<OwnedSemaphorePermit>>>,
    /// Unbounded, and holds no more than the window: each delivery is settled once.
    settled: mpsc::UnboundedReceiver<Settled>,
    /// For the leases; `None` once no more are made.
    lease_settled: Option<mpsc::UnboundedSender<Settled>>,
    acks: Acks,
    acked: Vec<Tag>,
    requeued: Vec<Tag>,
    waiting: Vec<oneshot::Sender<()>>,
    writing: Fuse<BoxFuture<'static, Result<(), LinkError>>>,
}

impl Lane {
    /// Opens a channel, declares the queue and consumes it. Where that fails the channel is closed
    /// before this returns, so that no call is repeated that the broker may still carry out.
    pub(super) async fn open(
        engine: &Arc<Engine>,
        link: Arc<Link>,
        source: &Source,
    ) -> Result<Self, NotOpened> {
        let channel = link.channel().await.map_err(NotOpened::Consuming)?;
        let consumer = match consume(engine, &channel, source).await {
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

    /// Hands out deliveries, each under a permit, and acknowledges what is settled. It receives
    /// first and then asks for the permit: a lane whose queue is empty must not keep one.
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
        let lease = Lease::new(Arc::clone(&self.engine), self.queue, tag, settled, permit);
        let parcel = decode(delivery, self.queue, &*self.engine.clock);
        // There is room, for there was a permit. Where the consumer was dropped meanwhile, so is
        // the lease, and the parcel goes back.
        let _ = out.try_send((parcel, lease));
    }

    /// Takes in what was settled by now.
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

    /// Starts to write what was settled, unless a write is under way: then that gathers, and goes
    /// out in one when the write is done.
    fn write(&mut self) {
        let nothing = self.acked.is_empty() && self.requeued.is_empty();
        if nothing || !self.writing.is_terminated() {
            return;
        }
        let batch = self.acks.batch(
            std::mem::take(&mut self.acked),
            std::mem::take(&mut self.requeued),
        );
        let told = std::mem::take(&mut self.waiting);
        let channel = (*self.channel).clone();
        let writing = async move {
            limited("acknowledging", WRITE_LIMIT, write(&channel, batch)).await?;
            for done in told {
                // Fails where nobody waits any more.
                let _ = done.send(());
            }
            Ok(())
        };
        self.writing = writing.boxed().fuse();
    }

    /// Writes all that was settled by now.
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

    /// Receives no more and gives back what was not handed out; then goes on settling until every
    /// delivery that was handed out is settled, or the broker is closed.
    pub(super) async fn retire(mut self) {
        let closing = self.engine.closing.clone();
        tokio::select! {
            () = closing.cancelled() => self.write_the_rest().await,
            // An error means that the channel is gone, and everything on it is back in its queue.
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
        limited("basic.cancel", ANSWER_LIMIT, cancelling).await?;
        let received = self.received.take();
        self.requeued
            .extend(received.map(|delivery| delivery.delivery_tag));
        // The stream ends once its consumer is cancelled, so this waits for nothing.
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

/// Declares the queue, which may have been deleted, and consumes it.
async fn consume(
    engine: &Engine,
    channel: &Channel,
    source: &Source,
) -> Result<Consumer, NotOpened> {
    let topology = &engine.topology;
    for declaration in [
        topology.exchange_declaration(),
        topology.declaration(source.queue, &source.name),
    ] {
        let declaring = topology.declare(channel, &declaration);
        limited("declaring the queue", ANSWER_LIMIT, declaring)
            .await
            .map_err(NotOpened::Declaring)?;
    }
    let qos = channel.basic_qos(source.window, BasicQosOptions { global: false });
    limited("basic.qos", ANSWER_LIMIT, qos)
        .await
        .map_err(NotOpened::Consuming)?;
    let consuming = channel.basic_consume(
        source.name.clone(),
        "".into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    limited("basic.consume", ANSWER_LIMIT, consuming)
        .await
        .map_err(NotOpened::Consuming)
}

async fn write(channel: &Channel, batch: Batch) -> lapin::Result<()> {
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
