//! Moves the journal and the dead queues to the store, and runs replays.
//!
//! Invariant: a message is acked only after its content is in the store. Writes are idempotent, so
//! a redelivered message and several recorders are harmless.

mod config;
mod dead;
mod entries;
mod patience;
mod poison;
mod readdress;
mod recorder;
mod replay;

pub use config::Config;
pub use recorder::Recorder;
