//! Deliveries: the pipeline from a queue's message to the decision about it, and its HTTP client.
//! Admission keeps a failing endpoint from delaying the others.
//!
//! A role implements [`DeliveryRole`] and runs a [`Pipeline`]. Invariants:
//!
//! - a message stays in its queue until the pipeline has decided and the journal has the attempt;
//! - an attempt is at most one request ([`Webhook`]) and ends within its time limit, whatever the
//!   server does. Retries belong to the broker, never to the client.

mod admission;
mod attempt;
mod client;
mod config;
mod delivery_client;
mod metrics;
mod pipeline;

pub use admission::{
    Admission, BreakerConfig, Deferred, Limits, MAX_RETURNS_PER_SECOND, OpenBreakers, Snoozes,
};
pub use client::{EgressPolicy, Webhook};
pub use config::{MAX_CONCURRENCY, RetryConfig, WebhookConfig};
pub use metrics::{METRICS, RoleName};
pub use pipeline::{AnswerDue, DeliveryRole, NoAttempt, Pipeline, Request, Settings};
