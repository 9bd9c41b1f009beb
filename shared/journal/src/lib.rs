//! Journal entries on their way to the journal queue. Many entries share a message, because a
//! confirm costs the same for one entry and for 500.
//!
//! Invariant: [`Journal::append`] resolves only after the broker's confirm. An accepted entry is
//! published until it is confirmed, however long the broker is unavailable, so it may be published
//! twice under one entry id.

mod batch;
mod batcher;
mod decode;
mod journal;
mod metrics;

pub use batch::MAX_BATCH_BYTES;
pub use decode::{DecodeError, decode};
pub use journal::Journal;
pub use metrics::METRICS;
