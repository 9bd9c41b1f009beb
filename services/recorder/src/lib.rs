//! Moves the journal, the dead queues and the waiting queue to the store, runs replays, finds overdue
//! messages, and erases contents.
//!
//! Invariant: a message is acked only after its content is in the store. Writes are idempotent, so
//! a redelivered message and several recorders are harmless.

mod config;
mod dead;
mod entries;
mod erasures;
mod metrics;
mod notices;
mod overdue;
mod poison;
mod readdress;
mod recorder;
mod replay;
mod waiting;
mod written;

pub use config::Config;
pub use metrics::METRICS;
pub use recorder::Recorder;
