//! Settles a delivery on the channel it came on.
//!
//! Invariant: a moved message is confirmed in its new place before the old delivery is acked. A
//! lease that is dropped before its ack requeues the delivery.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use backoff::backoff::Backoff;
use roundtrip_model::retry::reconnect;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::{Instant, sleep},
};

use super::{Engine, acks::Tag, topology::Address, wire::Outgoing};
use crate::{Message, Queue, Settle, SettleError, Settlement};

/// How long a settlement keeps trying to publish the next attempt or the dead letter to a broker
/// that refuses (blocked, for example). A requeue instead would deliver at once: the endpoint would
/// get the message again, and the publish would fail again, up to the delivery limit. A held
/// delivery only waits. The value must stay well below RabbitMQ's delivery acknowledgement timeout
/// of 30 minutes, which closes the channel.
const PATIENCE: Duration = Duration::from_mins(5);

#[derive(Debug)]
pub(super) enum Settled {
    /// To be acked; the sender fires when the acknowledgement was written.
    Ack(Tag, oneshot::Sender<()>),
    Requeue(Tag),
}

/// One unsettled delivery, with its permit of the consumer's window.
pub(super) struct ChannelLease {
    engine: Arc<Engine>,
    queue: Queue,
    tag: Tag,
    subscription: mpsc::UnboundedSender<Settled>,
    is_acked: bool,
    _permit: OwnedSemaphorePermit,
}

impl ChannelLease {
    pub(super) const fn new(
        engine: Arc<Engine>,
        queue: Queue,
        tag: Tag,
        subscription: mpsc::UnboundedSender<Settled>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            engine,
            queue,
            tag,
            subscription,
            is_acked: false,
            _permit: permit,
        }
    }

    /// Whether the channel is gone: the broker will deliver the message again.
    pub(super) fn is_lost(&self) -> bool {
        self.subscription.is_closed()
    }

    async fn ack(&mut self) -> Result<(), SettleError> {
        let (done, written) = oneshot::channel();
        self.is_acked = true;
        self.subscription
            .send(Settled::Ack(self.tag, done))
            .map_err(lost)?;
        written.await.map_err(lost)
    }

    async fn publish(&self, outgoing: Outgoing) -> Result<(), SettleError> {
        let deadline = Instant::now() + PATIENCE;
        let mut waits = reconnect();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let taken = tokio::select! {
                taken = self.engine.publishers.publish(outgoing.clone(), left) => taken,
                () = self.subscription.closed() => return Err(lost(())),
            };
            let wait = waits.next_backoff().unwrap_or(waits.max_interval);
            match taken {
                Ok(()) => return Ok(()),
                // An unconfirmed publish may be duplicated by this retry. A requeue would duplicate
                // the attempt itself.
                Err(_) if Instant::now() + wait < deadline => {}
                Err(error) => return Err(error.into()),
            }
            tokio::select! {
                () = sleep(wait) => {}
                () = self.subscription.closed() => return Err(lost(())),
            }
        }
    }
}

fn lost<E>(_: E) -> SettleError {
    SettleError::Lost("its channel was closed".to_owned())
}

#[async_trait]
impl Settle for ChannelLease {
    async fn settle(
        mut self: Box<Self>,
        message: Message,
        settlement: Settlement,
    ) -> Result<(), SettleError> {
        let next = match settlement {
            Settlement::Ack => None,
            Settlement::Defer { delay, attempts } => {
                // The routing key of the delivery is ignored: a foreign message's key may lead to
                // no queue.
                let (to, expiry) = self.engine.topology.delayed(self.queue, delay);
                Some(Outgoing::new(
                    to,
                    Message {
                        attempts,
                        ..message
                    },
                    Some(expiry),
                )?)
            }
            Settlement::Wait { waiting, attempts } => {
                let message = Message {
                    attempts,
                    waiting: Some(waiting),
                    ..message
                };
                Some(Outgoing::new(Address::of(Queue::Waiting), message, None)?)
            }
            Settlement::Dead { reason, attempts } => {
                let message = Message {
                    attempts,
                    dead: Some(reason),
                    ..message
                };
                Some(Outgoing::new(Address::dead(self.queue), message, None)?)
            }
        };
        if let Some(next) = next {
            self.publish(next).await?;
        }
        self.ack().await
    }

    fn release(self: Box<Self>) {
        // Dropping the lease requeues it.
    }
}

impl Drop for ChannelLease {
    fn drop(&mut self) {
        if !self.is_acked {
            // If the channel is gone, the message is already back in the queue.
            let _ = self.subscription.send(Settled::Requeue(self.tag));
        }
    }
}
