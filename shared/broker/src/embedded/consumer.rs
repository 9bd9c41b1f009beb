//! The consumer, and the leases of its deliveries.
//!
//! Invariant: the writer hears of the end of each lease exactly once, whether it was settled,
//! released or dropped at any point.

use std::sync::mpsc;

use async_trait::async_trait;
use tokio::sync::{mpsc as queue, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    command::{Command, Settling},
    queue::Subscriber,
};
use crate::{Closed, Consumer, Delivery, Message, Queue, Settle, SettleError, Settlement};

/// A leased row and its consumer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leased {
    pub(super) queue: Queue,
    pub(super) seq: i64,
    /// Bytes of the body.
    pub(super) bytes: usize,
    pub(super) consumer: u64,
}

/// A leased message on its way to its consumer.
pub(super) struct Item {
    message: Message,
    lease: RowLease,
}

impl Item {
    pub(super) fn new(message: Message, leased: Leased, commands: mpsc::Sender<Command>) -> Self {
        Self {
            message,
            lease: RowLease {
                leased: Some(leased),
                commands,
            },
        }
    }
}

pub(super) struct Receiver {
    items: queue::Receiver<Item>,
    queue: Queue,
    id: u64,
    commands: mpsc::Sender<Command>,
    closed: CancellationToken,
}

impl Receiver {
    pub(super) fn subscribe(
        queue: Queue,
        id: u64,
        window: usize,
        commands: mpsc::Sender<Command>,
        closed: CancellationToken,
    ) -> Result<Self, Closed> {
        // The writer never leases more than the window, so this channel is never full.
        let (sender, items) = queue::channel(window);
        let subscriber = Subscriber::new(id, window, sender, commands.clone());
        if closed.is_cancelled() {
            return Err(Closed);
        }
        commands
            .send(Command::Subscribe { queue, subscriber })
            .map_err(|_| Closed)?;
        Ok(Self {
            items,
            queue,
            id,
            commands,
            closed,
        })
    }
}

#[async_trait]
impl Consumer for Receiver {
    async fn next(&mut self) -> Option<Delivery> {
        let item = tokio::select! {
            biased;
            () = self.closed.cancelled() => None,
            item = self.items.recv() => item,
        };
        item.map(|Item { message, lease }| Delivery::new(message, Box::new(lease)))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Before the items drop: each returns its row, which would otherwise be leased to this
        // consumer again.
        let _ = self.commands.send(Command::Unsubscribe {
            queue: self.queue,
            consumer: self.id,
        });
    }
}

struct RowLease {
    /// `None` once the writer was notified.
    leased: Option<Leased>,
    commands: mpsc::Sender<Command>,
}

#[async_trait]
impl Settle for RowLease {
    async fn settle(
        mut self: Box<Self>,
        _: Message,
        settlement: Settlement,
    ) -> Result<(), SettleError> {
        let Some(leased) = self.leased.take() else {
            return Ok(());
        };
        let (reply, settled) = oneshot::channel();
        let settling = Settling {
            leased,
            settlement,
            reply,
        };
        let lost = || SettleError::Lost(super::CLOSED.to_owned());
        self.commands
            .send(Command::Settle(settling))
            .map_err(|_| lost())?;
        settled.await.map_err(|_| lost())
    }

    fn release(self: Box<Self>) {}
}

impl Drop for RowLease {
    fn drop(&mut self) {
        if let Some(leased) = self.leased.take() {
            // If the writer is gone, so is the lease.
            let _ = self.commands.send(Command::Release(leased));
        }
    }
}
