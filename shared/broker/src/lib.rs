//! Durable queues behind one trait, with two engines: RabbitMQ, and an embedded one on SQLite.
//!
//! Invariant: a message whose publish returned `Ok` is on disk (embedded) or confirmed by the queue
//! (RabbitMQ). From then on it is in a work queue, a delay or a dead queue. While it moves it may
//! be in two of them for a moment, so delivery is at least once.
//!
//! No type of lapin or rusqlite leaves this crate.

mod broker;
mod config;
mod delivery;
mod embedded;
mod error;
mod mailbox;
mod message;
mod metrics;
mod open;
mod rabbitmq;
mod worker;

#[cfg(feature = "fuzzing")]
pub mod fuzzing;

pub use broker::{Broker, Consumer, SharedBroker, Status};
pub use config::Config;
pub use delivery::{Delivery, Settle, Settlement};
pub use error::{Closed, OpenError, PublishError, SettleError};
pub use mailbox::{Carrier, MAX_NOTE_BYTES, Mailbox, Note, NoteSender};
pub use message::{Message, Queue, Route};
pub use metrics::METRICS;
pub use open::open;
pub use rabbitmq::policies::{Policy, policies};
pub use worker::{Handler, Worker};
