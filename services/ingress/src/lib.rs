//! The HTTP API: channels, messages in, answers and inbound messages in.
//!
//! Invariant: a 202 is sent only after the broker has confirmed the message. After any other status
//! nothing was enqueued, unless the response says that it may have been.

mod auth;
mod callback;
mod channels;
mod config;
mod document;
mod history;
mod inbound;
mod ingress;
mod json;
mod limits;
mod messages;
mod metrics;
mod pages;
mod parameters;
mod problem;
mod request_id;
mod routes;
#[cfg(any(test, feature = "fuzzing"))]
mod tests;
mod waiters;

pub use auth::{Access, KeySettings, MAX_KEY_BYTES, for_this_machine};
pub use config::{CallbackAuth, Config, Tls};
pub use ingress::{Ingress, IngressState, Parts};
pub use metrics::METRICS;
pub use routes::calls;
#[cfg(feature = "fuzzing")]
pub use tests::fuzzing;
