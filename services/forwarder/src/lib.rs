//! Takes answers and inbound messages, and posts them to the SESSIONS_SERVER; and notices, which go to
//! the operator's server. In this crate "answer" includes inbound messages, unless a comment says otherwise.
//!
//! Invariant: while the SESSIONS_SERVER is unavailable, answers wait until their maximum age.
//! Answers are admitted by channel, so a failure or a `Retry-After` over one channel's answers does
//! not delay those of the others.

mod config;
mod forwarder;
mod notifier;

pub use config::{BodyFields, Config};
pub use forwarder::Forwarder;
pub use notifier::Notifier;
