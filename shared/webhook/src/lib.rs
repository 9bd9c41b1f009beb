//! One POST to another server, under one time limit for every byte, and the decision that follows
//! from its outcome.
//!
//! Invariant: [`Webhook::post`] makes at most one request and ends within its time limit, whatever
//! the server does. It connects only where its [`Reach`] allows, follows no redirect, uses no
//! proxy, and holds a bounded part of an answer. Retries belong to the policy ([`DeliveryClient`]), never
//! to the client.

mod answer;
mod client;
mod config;
mod connector;
mod delivery_client;
mod exchange;
mod location;
mod meter;
mod reach;
mod retry_after;
mod status_line;

pub use client::Webhook;
pub use config::{Config, ConfigError, MAX_CONCURRENCY, RetryConfig, window};
pub use delivery_client::{DeliveryClient, Overrides, Post, Told, Try};
pub use reach::Reach;
