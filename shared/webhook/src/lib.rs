//! One POST to somebody else's server, every byte of it under one time limit, and what follows
//! from its outcome.
//!
//! Invariant: [`Webhook::post`] makes at most one request and ends within its time limit, whatever
//! the other side does; it connects only where its [`Reach`] lets it, follows no redirect, uses no
//! proxy, and never holds more than a bounded piece of an answer. Trying again is the policy's business ([`Courier`]), never the client's.

mod answer;
mod client;
mod config;
mod connector;
mod courier;
mod exchange;
mod location;
mod meter;
mod reach;
mod retry_after;
mod status_line;

pub use client::Webhook;
pub use config::{Config, ConfigError, MAX_CONCURRENCY, RetryConfig, window};
pub use courier::{Courier, Overrides, Post, Told, Try};
pub use reach::Reach;
