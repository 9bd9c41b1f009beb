//! Messages in: one, or a batch, each at most once under an idempotency key.

pub(crate) mod accept;
pub(crate) mod batch;
pub(crate) mod idempotency;
pub(crate) mod prefer;
mod send;
mod times;

pub(crate) use send::send;
