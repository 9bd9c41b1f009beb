//! Idempotency keys: the first response to each, for a limited time.
//!
//! Invariant: all requests with the same key and the same fingerprint get the same message id.

use std::time::Duration;

use async_trait::async_trait;
use roundtrip_model::MessageId;
use time::OffsetDateTime;

use crate::Unavailable;

/// Idempotency keys: the first response to each, for a limited time.
#[async_trait]
pub trait Idempotency: Send + Sync + 'static {
    /// Reserves the key for a request with this fingerprint and this message id. The reservation
    /// ends after `lease`, or when the request is completed or released.
    async fn reserve(
        &self,
        key: &str,
        fingerprint: &str,
        message_id: &MessageId,
        now: OffsetDateTime,
        lease: Duration,
    ) -> Result<Reservation, Unavailable>;

    /// Records that the request was enqueued. After an error the reservation expires, and a
    /// repeated request takes it over.
    async fn complete(&self, key: &str, message_id: &MessageId) -> Result<(), Unavailable>;

    /// Records that the request was not enqueued, and frees its key.
    async fn release(&self, key: &str, message_id: &MessageId) -> Result<(), Unavailable>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reservation {
    /// This request has the key and must use this message id. It is the caller's own, or that of an
    /// earlier request whose lease expired. The earlier request may have been enqueued.
    Taken(MessageId),
    UnderWay,
    /// The first request was enqueued as this message.
    Done(MessageId),
    /// The key was used for a request with another fingerprint.
    Mismatch,
}
