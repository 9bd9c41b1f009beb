//! What a delivery needs: admission, which keeps a failing endpoint from delaying the others, and
//! one POST under one time limit, with the decision that follows from its outcome.
//!
//! Invariant: [`Webhook::post`] makes at most one request and ends within its time limit, whatever
//! the server does. It connects only where its [`EgressPolicy`] allows, follows no redirect, uses
//! no proxy, and holds a bounded part of an answer. Retries belong to the policy
//! ([`DeliveryClient`]), never to the client.

pub mod admission;
mod client;
mod config;
mod delivery_client;

pub use client::{EgressPolicy, Webhook};
pub use config::{ConfigError, MAX_CONCURRENCY, RetryConfig, WebhookConfig, window};
pub use delivery_client::{DeliveryClient, Overrides, Post, Told, Try};
