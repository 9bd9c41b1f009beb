//! Durable queues behind one trait, with two engines: RabbitMQ, and an embedded one on SQLite.
//!
//! Invariant: a message whose publish returned `Ok` is on disk (embedded) or confirmed by the queue
//! (RabbitMQ). From then on it is in a work queue, a delay or a dead queue. While it moves it may
//! be in two of them for a moment, so delivery is at least once.
//!
//! No type of lapin or rusqlite leaves this crate.

#![warn(missing_docs)]

mod config;
mod delivery;
mod message;
mod worker;

#[cfg(feature = "contract")]
pub mod contract;
mod embedded;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod rabbitmq;

use std::sync::Arc;

use async_trait::async_trait;

pub use config::{Config, OpenError, open};
pub use delivery::{Delivery, Settle, Settlement};
pub use message::{Message, Queue, Route};
pub use rabbitmq::policies::{Policy, policies};
pub use worker::{Handler, Worker};

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
    ///
    /// # Errors
    /// [`Closed`] after [`Broker::close`].
    async fn consume(&self, queue: Queue, window: u16) -> Result<Box<dyn Consumer>, Closed>;

    /// Whether the broker accepts publishes now.
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

/// A broker that roles share.
pub type SharedBroker = Arc<dyn Broker>;

/// Whether a broker accepts publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// It accepts publishes.
    Ready,
    /// It is reachable and refuses publishes (`connection.blocked`, a full disk, a queue with other
    /// arguments), or leaves them unconfirmed. A full queue is reported by
    /// [`PublishError::Refused`] instead, because the other queues still accept messages.
    Blocked(String),
    /// It is unreachable.
    Unavailable(String),
}

/// Why a publish failed.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The broker is unreachable, or was closed.
    #[error("the broker is unavailable: {0}")]
    Unavailable(String),
    /// The broker refuses: blocked, a full queue, a full disk.
    #[error("the broker refuses: {0}")]
    Refused(String),
    /// The message exceeds the broker's size limit, so a repeat fails too. Smaller messages are
    /// accepted.
    #[error("the message is larger than the broker accepts (RabbitMQ's max_message_size)")]
    TooLarge,
    /// No confirm arrived in time. The message may or may not have been stored.
    #[error("the broker did not confirm in time")]
    Unconfirmed,
}

/// A delivery could not be settled; the broker will deliver it again.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// The delivery's connection (embedded: the process's lease) is gone.
    #[error("the delivery's lease is gone: {0}")]
    Lost(String),
    /// The broker did not accept the next attempt or the dead letter; the delivery returned
    /// unchanged to its queue.
    #[error(transparent)]
    NotTaken(#[from] PublishError),
}

/// The broker was closed.
#[derive(Debug, thiserror::Error)]
#[error("the broker was closed")]
pub struct Closed;
