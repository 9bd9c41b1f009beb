//! One channel on which a consumer receives: its deliveries, and the way back for their
//! settlements.
//!
//! Invariant: the channel lives until every delivery that was handed out is settled or the
//! connection is gone, also when the consumer itself is gone or the broker has cancelled it.

use std::{sync::Arc, time::Duration};

use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, Fuse, FusedFuture, try_join_all},
    stream::{BoxStream, SelectAll, once},
};
use lapin::{
    Channel,
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
    lease::{Lease, Settled},
    link::{Link, LinkError, limited},
    publisher::DECLARE_LIMIT,
    wire::decode,
};
use crate::{Parcel, Queue};

/// The limit on the broker's answer to a question about a consumer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// The limit on writing acknowledgements to the socket.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// A delivery of one of the lane's queues; none where the broker has cancelled that consumer.
type Received = Option<lapin::Result<Delivery>>;

/// Where deliveries go.
pub(super) type Out = mpsc::Sender<(Parcel, Lease)>;

/// Why a lane receives no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The broker (ours) was closed.
    Closed,
    /// The consumer was dropped.
    Dropped,
    /// RabbitMQ has cancelled it: a queue was deleted.
    Cancelled,
    /// The connection or the channel is gone.
    Lost,
}

/// A channel with a consumer on each of the queues that one is made of: shards, and retries.
pub(super) struct Lane {
    engine: Arc<Engine>,
    queue: Queue,
    /// Held so that the connection outlives the lane's deliveries.
    _link: Arc<Link>,
    channel: Channel,
    tags: Vec<ShortString>,
    deliveries: SelectAll<BoxStream<'static, Received>>,
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
    /// Opens a channel and consumes all that the queue is made of, each in its turn.
    ///
    /// The prefetch of each is the whole window, so that one busy queue can fill it. What is handed
    /// out over all of them is bounded by the window's permits; what lapin buffers, by the window
    /// times their number.
    pub(super) async fn open(
        engine: &Arc<Engine>,
        link: Arc<Link>,
        queue: Queue,
        window: u16,
    ) -> Result<Self, LinkError> {
        let channel = link.channel().await?;
        let declaring = engine.topology.declare(&channel);
        limited("declaring the queues", DECLARE_LIMIT, declaring).await?;
        let each = BasicQosOptions { global: false };
        limited("basic.qos", ANSWER_LIMIT, channel.basic_qos(window, each)).await?;
        let mut tags = Vec::new();
        let mut deliveries = SelectAll::new();
        for name in engine.topology.queues(queue) {
            let consuming = channel.basic_consume(
                name.clone(),
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            );
            let consumer = limited("basic.consume", ANSWER_LIMIT, consuming).await?;
            tags.push(consumer.tag());
            let received = consumer.map(Some);
            deliveries.push(received.chain(once(async { None })).boxed());
        }
        let (lease_settled, settled) = mpsc::unbounded_channel();
        Ok(Self {
            engine: Arc::clone(engine),
            queue,
            _link: link,
            channel,
            tags,
            deliveries,
            settled,
            lease_settled: Some(lease_settled),
            acks: Acks::default(),
            acked: Vec::new(),
            requeued: Vec::new(),
            waiting: Vec::new(),
            writing: Fuse::terminated(),
        })
    }

    /// Hands out deliveries, each under a permit, and acknowledges what is settled.
    pub(super) async fn run(&mut self, out: &Out, window: &Arc<Semaphore>) -> End {
        let closing = self.engine.closing.clone();
        let mut permit = None;
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
                    if written.is_err() {
                        return End::Lost;
                    }
                    self.write();
                }
                next = Arc::clone(window).acquire_owned(), if permit.is_none() => {
                    // The semaphore is never closed.
                    permit = next.ok();
                }
                received = self.deliveries.next(), if permit.is_some() => match received {
                    Some(Some(Ok(delivery))) => {
                        if let Some(permit) = permit.take() {
                            self.hand_out(delivery, permit, out);
                        }
                    }
                    Some(None) => return End::Cancelled,
                    Some(Some(Err(_))) | None => return End::Lost,
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
        let channel = self.channel.clone();
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
        for tag in std::mem::take(&mut self.tags) {
            let cancelling = self
                .channel
                .basic_cancel(tag, BasicCancelOptions::default());
            limited("basic.cancel", ANSWER_LIMIT, cancelling).await?;
        }
        // Each stream ends once its consumer is cancelled, so this waits for nothing.
        while let Some(received) = self.deliveries.next().await {
            if let Some(Ok(delivery)) = received {
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
        let closing = self.channel.close(200, "OK".into());
        limited("channel.close", ANSWER_LIMIT, closing).await
    }
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
