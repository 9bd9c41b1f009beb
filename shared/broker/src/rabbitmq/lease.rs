//! A delivery's way back to the channel it came on.
//!
//! Invariant: the parcel is confirmed in its new place before the old delivery is acked; and a
//! lease that is dropped before its ack was asked for gives the delivery back.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use backoff::backoff::Backoff;
use roundtrip_model::retry::reconnect;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::{Instant, sleep},
};

use super::{Engine, acks::Tag, topology::Address, wire::Outgoing};
use crate::{Parcel, Queue, Settle, SettleError, Settlement};

/// How long a settlement goes on asking a broker that refuses (blocked, say) to take the next try
/// or the dead letter. Giving the delivery back instead would have it handed out at once, worked
/// on again (which its endpoint would notice) and refused again, in a circle, until the delivery
/// limit; a delivery that is held is only one that waits. It must stay well below the 30 minutes
/// after which RabbitMQ closes a channel over a delivery that was not acked.
const PATIENCE: Duration = Duration::from_mins(5);

/// What a lease tells its lane.
#[derive(Debug)]
pub(super) enum Settled {
    /// To be acked; told when the acknowledgement was written.
    Ack(Tag, oneshot::Sender<()>),
    /// To be given back.
    Requeue(Tag),
}

/// The hold on one delivery, and on a place in its consumer's window.
pub(super) struct Lease {
    engine: Arc<Engine>,
    queue: Queue,
    tag: Tag,
    lane: mpsc::UnboundedSender<Settled>,
    told: bool,
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    pub(super) const fn new(
        engine: Arc<Engine>,
        queue: Queue,
        tag: Tag,
        lane: mpsc::UnboundedSender<Settled>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            engine,
            queue,
            tag,
            lane,
            told: false,
            _permit: permit,
        }
    }

    /// Whether the channel is gone: the broker will hand the parcel out again.
    pub(super) fn is_lost(&self) -> bool {
        self.lane.is_closed()
    }

    async fn ack(&mut self) -> Result<(), SettleError> {
        let (done, written) = oneshot::channel();
        self.told = true;
        self.lane.send(Settled::Ack(self.tag, done)).map_err(lost)?;
        written.await.map_err(lost)
    }

    /// Publishes the parcel's next form, for as long as the delivery can be held.
    async fn publish(&self, outgoing: Outgoing) -> Result<(), SettleError> {
        let deadline = Instant::now() + PATIENCE;
        let mut waits = reconnect();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let taken = tokio::select! {
                taken = self.engine.publisher.publish(outgoing.clone(), left) => taken,
                () = self.lane.closed() => return Err(lost(())),
            };
            let wait = waits.next_backoff().unwrap_or(waits.max_interval);
            match taken {
                Ok(()) => return Ok(()),
                // One that was not confirmed may be doubled by this; giving the delivery back would
                // double the try itself.
                Err(_) if Instant::now() + wait < deadline => {}
                Err(error) => return Err(error.into()),
            }
            tokio::select! {
                () = sleep(wait) => {}
                () = self.lane.closed() => return Err(lost(())),
            }
        }
    }
}

fn lost<E>(_: E) -> SettleError {
    SettleError::Lost("its channel was closed".to_owned())
}

#[async_trait]
impl Settle for Lease {
    async fn settle(
        mut self: Box<Self>,
        parcel: Parcel,
        settlement: Settlement,
    ) -> Result<(), SettleError> {
        let next = match settlement {
            Settlement::Ack => None,
            Settlement::Defer { delay, tries } => {
                // Not by the key that it came by: a foreign message may carry one that leads nowhere
                // from here.
                let (to, expiry) = self.engine.topology.delayed(self.queue, delay);
                Some(Outgoing::new(to, Parcel { tries, ..parcel }, Some(expiry))?)
            }
            Settlement::Dead { reason, tries } => {
                let dead = Some(reason);
                let parcel = Parcel {
                    tries,
                    dead,
                    ..parcel
                };
                Some(Outgoing::new(Address::dead(self.queue), parcel, None)?)
            }
        };
        if let Some(next) = next {
            self.publish(next).await?;
        }
        self.ack().await
    }

    fn release(self: Box<Self>) {
        // Dropping it does.
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.told {
            // Fails where the channel is gone, and then the parcel is back already.
            let _ = self.lane.send(Settled::Requeue(self.tag));
        }
    }
}
