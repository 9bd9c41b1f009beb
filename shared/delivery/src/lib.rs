//! One POST to another server, under one time limit for every byte, and the decision that follows
//! from its outcome.
//!
//! Invariant: [`Webhook::post`] makes at most one request and ends within its time limit, whatever
//! the server does. It connects only where its [`Reach`] allows, follows no redirect, uses no
//! proxy, and holds a bounded part of an answer. Retries belong to the policy ([`DeliveryClient`]), never
//! to the client.

mod client;
mod config;
mod delivery_client;

pub use client::{Reach, Webhook};
pub use config::{ConfigError, MAX_CONCURRENCY, RetryConfig, WebhookConfig, window};
pub use delivery_client::{DeliveryClient, Overrides, Post, Told, Try};
