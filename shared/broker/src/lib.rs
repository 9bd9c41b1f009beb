//! Durable queues behind one trait, with two engines: RabbitMQ, and an embedded one on SQLite.
//!
//! Invariant: what a publish answered `Ok` for is on disk (the embedded engine) or confirmed by
//! the queue (RabbitMQ), and stays in exactly one of: a work queue, a delay, a dead queue. Between
//! two of them it may be in both for a moment, never in neither: delivery is at least once.
//!
//! No type of lapin's or rusqlite's leaves this crate.

mod config;
mod delivery;
mod parcel;
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
pub use parcel::{Parcel, Queue, Route};
pub use rabbitmq::policies::{Policy, policies};
pub use worker::{Handler, Worker};

/// A broker: takes parcels for good, and hands them out until they are settled.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// Puts a parcel in its queue and resolves when it is safe there: synced to disk, or confirmed
    /// by the broker. Callers may have many under way at once; that is what makes it fast.
    ///
    /// # Errors
    /// See [`PublishError`]. After an error the parcel may still have been taken (a confirm can be
    /// lost on the way), so whoever publishes it again may double it.
    async fn publish(&self, route: Route<'_>, parcel: Parcel) -> Result<(), PublishError>;

    /// Starts to receive from a queue, with at most `window` parcels handed out and unsettled. If
    /// the broker goes away the consumer waits for it and goes on.
    ///
    /// # Errors
    /// [`Closed`] after [`Broker::close`].
    async fn consume(&self, queue: Queue, window: u16) -> Result<Box<dyn Consumer>, Closed>;

    /// Whether the broker would take a parcel now.
    fn status(&self) -> Status;

    /// What an operator should change in the broker, a line each. It takes parcels all the same.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// How many parcels lie ready in a queue: neither delayed nor handed out.
    ///
    /// # Errors
    /// [`PublishError::Away`] where the broker cannot be asked.
    async fn ready(&self, queue: Queue) -> Result<u64, PublishError>;

    /// Ends it: no further publish is taken, consumers end, and what was handed out and not
    /// settled goes back to its queue.
    async fn close(&self);
}

/// Receives from one queue. Dropping it ends it; what it still held goes back to the queue.
#[async_trait]
pub trait Consumer: Send {
    /// The next parcel, however long that takes; `None` once the broker was closed. Losing this
    /// future loses no parcel.
    async fn next(&mut self) -> Option<Delivery>;
}

/// A broker that roles share.
pub type SharedBroker = Arc<dyn Broker>;

/// Whether a broker takes parcels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// It does.
    Ready,
    /// It is there and takes nothing for now: it refuses (`connection.blocked`, a full disk, a
    /// queue that was declared otherwise), or leaves publishes without a confirm. A full queue is no
    /// status, for the other queues take parcels still: it is told by [`PublishError::Refused`].
    Blocked(String),
    /// It cannot be reached.
    Away(String),
}

/// Why a parcel was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The broker cannot be reached, or was closed.
    #[error("the broker is away: {0}")]
    Away(String),
    /// The broker is there and refuses: blocked, a full queue, a full disk.
    #[error("the broker refuses: {0}")]
    Refused(String),
    /// The parcel is larger than the broker takes, now and later. It takes others.
    #[error("the parcel is larger than the broker takes (RabbitMQ's max_message_size)")]
    TooLarge,
    /// No confirm came in time. The parcel may or may not have been taken.
    #[error("the broker did not confirm in time")]
    Unconfirmed,
}

/// A delivery could not be settled; the broker will hand it out again.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// The connection (or the process's lease) on which it came is gone.
    #[error("the delivery's lease is gone: {0}")]
    Lost(String),
    /// The next try, or the dead letter, was not taken by the broker; the delivery went back to
    /// its queue as it was.
    #[error(transparent)]
    NotTaken(#[from] PublishError),
}

/// The broker was closed.
#[derive(Debug, thiserror::Error)]
#[error("the broker was closed")]
pub struct Closed;
