//! The writer's commands, and how many of them share a transaction.
//!
//! Invariant: every command gets its result through the sender it carries. A sender that is dropped
//! unused means that the broker is gone.

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{consumer::Leased, queue::Subscriber};
use crate::{Message, PublishError, Queue, Settlement};

/// Maximum number of commands in a transaction.
const MAX_BATCH: usize = 1024;

/// A transaction takes no further command once its bodies reach this size.
const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;

/// A command to the writer.
pub(super) enum Command {
    Publish(Publish),
    Settle(Settling),
    Release(Leased),
    Subscribe {
        queue: Queue,
        subscriber: Subscriber,
    },
    Unsubscribe {
        queue: Queue,
        consumer: u64,
    },
    Ready {
        queue: Queue,
        reply: oneshot::Sender<u64>,
    },
    Close(oneshot::Sender<()>),
    #[cfg(test)]
    Run(Box<dyn FnOnce(&rusqlite::Connection) + Send>),
}

pub(super) struct Publish {
    pub(super) queue: Queue,
    pub(super) message: Message,
    pub(super) reply: oneshot::Sender<Result<(), PublishError>>,
    /// Released when the writer is done with the publish, even if the caller gave up earlier.
    pub(super) room: OwnedSemaphorePermit,
}

pub(super) struct Settling {
    pub(super) leased: Leased,
    pub(super) settlement: Settlement,
    pub(super) reply: oneshot::Sender<()>,
}

/// The commands of one transaction.
#[derive(Default)]
pub(super) struct Transaction {
    pub(super) publishes: Vec<Publish>,
    pub(super) settlings: Vec<Settling>,
    pub(super) bytes: usize,
    pub(super) questions: Vec<(Queue, oneshot::Sender<u64>)>,
    pub(super) close: Option<oneshot::Sender<()>>,
}

impl Transaction {
    pub(super) fn is_full(&self) -> bool {
        self.publishes.len() + self.settlings.len() >= MAX_BATCH
            || self.bytes >= MAX_BATCH_BYTES
            || self.close.is_some()
    }
}
