//! The two traits that an engine implements.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{Closed, Delivery, Mailbox, Message, PublishError, Queue, Route};

/// A broker: stores messages durably, and delivers them until they are settled.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// Publishes a message and resolves when it is durable: synced to disk, or confirmed by the
    /// broker. Concurrent calls share syncs and confirms, so many at once are fast.
    ///
    /// # Errors
    /// See [`PublishError`]. After an error the message may still have been stored (a confirm can
    /// be lost), so a second publish may duplicate it.
    async fn publish(&self, route: Route<'_>, message: Message) -> Result<(), PublishError>;

    /// Consumes a queue, with at most `window` unsettled deliveries. The consumer survives a loss
    /// of the broker and resumes after it.
    async fn consume(&self, queue: Queue, window: u16) -> Result<Box<dyn Consumer>, Closed>;

    /// Opens a mailbox for notes between the processes of this deployment, until the broker or the
    /// mailbox is closed. `None` if the engine belongs to one process. Must be called within a
    /// runtime.
    fn mailbox(&self) -> Option<Mailbox> {
        None
    }

    fn status(&self) -> Status;

    /// Settings of the broker that an operator should change, a line each. Publishing works
    /// regardless.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Number of ready messages in a queue: neither delayed nor delivered.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`] while the broker cannot be asked.
    async fn ready(&self, queue: Queue) -> Result<u64, PublishError>;

    /// For how long the message that is next in a queue has been ready. `None` if none is ready, and
    /// from RabbitMQ, which cannot tell.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`] while the broker cannot be asked.
    async fn head_age(&self, _queue: Queue) -> Result<Option<Duration>, PublishError> {
        Ok(None)
    }

    /// Closes the broker: publishes fail, consumers end, and unsettled deliveries return to their
    /// queues.
    async fn close(&self);
}

/// Receives from one queue. Dropping it returns its unsettled deliveries to the queue.
#[async_trait]
pub trait Consumer: Send {
    /// Waits for the next delivery; `None` after the broker was closed. Cancel safe: dropping this
    /// future loses no message.
    async fn next(&mut self) -> Option<Delivery>;
}

pub type SharedBroker = Arc<dyn Broker>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    Ready,
    /// It is reachable and refuses publishes (`connection.blocked`, a full disk, a queue with other
    /// arguments), or leaves them unconfirmed. A full queue is reported by
    /// [`PublishError::Refused`] instead, because the other queues still accept messages.
    Blocked(String),
    Unavailable(String),
}
