//! The writer's commands, how many of them share a transaction, and the leases whose end is a
//! command.
//!
//! Invariants: a command's result goes to the sender that the command carries. If that sender is
//! dropped unused, the broker is gone. Each lease sends one command when it ends: `Settle`, or
//! `Release` if it is released or dropped unsettled.

use std::{sync::mpsc, time::Duration};

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, mpsc as queue, oneshot};

use crate::{Delivery, Message, PublishError, Queue, Settle, SettleError, Settlement};

/// The reason of every failure after the end of the writer.
pub(super) const CLOSED: &str = "it was closed";

const MAX_BATCH: usize = 1024;

/// A transaction takes no further command once its bodies reach this size.
const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;

pub(super) enum Command {
    Publish(Publish),
    Settle(Settling),
    Release(Leased),
    Subscribe(Subscription),
    Unsubscribe {
        queue: Queue,
        consumer: u64,
    },
    Look {
        queue: Queue,
        reply: oneshot::Sender<Depth>,
    },
    Close(oneshot::Sender<()>),
    #[cfg(test)]
    Run(Box<dyn FnOnce(&rusqlite::Connection) + Send>),
}

/// The ready messages of a queue: how many, and for how long the next one has been ready.
#[derive(Debug, Clone, Copy)]
pub(super) struct Depth {
    pub(super) ready: u64,
    pub(super) head_age: Option<Duration>,
}

pub(super) struct Publish {
    pub(super) queue: Queue,
    pub(super) message: Message,
    pub(super) reply: oneshot::Sender<Result<(), PublishError>>,
    /// Released when the writer is done with the publish, even if the caller gave up earlier.
    pub(super) room: OwnedSemaphorePermit,
}

pub(super) struct Subscription {
    pub(super) queue: Queue,
    pub(super) consumer: u64,
    pub(super) window: usize,
    pub(super) items: queue::Sender<Item>,
    pub(super) commands: mpsc::Sender<Command>,
}

pub(super) struct Settling {
    pub(super) leased: Leased,
    pub(super) settlement: Settlement,
    pub(super) reply: oneshot::Sender<()>,
}

#[derive(Default)]
pub(super) struct Transaction {
    pub(super) publishes: Vec<Publish>,
    pub(super) settlings: Vec<Settling>,
    pub(super) bytes: usize,
    pub(super) questions: Vec<(Queue, oneshot::Sender<Depth>)>,
    pub(super) close: Option<oneshot::Sender<()>>,
}

impl Transaction {
    pub(super) fn is_full(&self) -> bool {
        self.publishes.len() + self.settlings.len() >= MAX_BATCH
            || self.bytes >= MAX_BATCH_BYTES
            || self.close.is_some()
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Leased {
    pub(super) queue: Queue,
    pub(super) seq: i64,
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

    pub(super) fn into_delivery(self) -> Delivery {
        Delivery::new(self.message, Box::new(self.lease))
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
        let lost = || SettleError::Lost(CLOSED.to_owned());
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
