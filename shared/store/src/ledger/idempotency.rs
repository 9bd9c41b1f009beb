//! Idempotency keys: the first response to each, for a limited time.
//!
//! Invariant: all requests with the same key and the same fingerprint get the same message id.

use std::time::Duration;

use async_trait::async_trait;
use roundtrip_model::MessageId;
use time::OffsetDateTime;

use crate::StoreError;

/// Idempotency keys: the first response to each, for a limited time.
#[async_trait]
pub trait Idempotency: Send + Sync + 'static {
    /// Reserves the key for a request with this fingerprint and this message id. The reservation
    /// ends after `lease`, or when the request is completed or released.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`].
    async fn reserve(
        &self,
        key: &str,
        fingerprint: &str,
        message_id: &MessageId,
        now: OffsetDateTime,
        lease: Duration,
    ) -> Result<Reservation, StoreError>;

    /// Records that the request was enqueued.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`]; the reservation then expires, and a repeated request takes it
    /// over.
    async fn complete(&self, key: &str, message_id: &MessageId) -> Result<(), StoreError>;

    /// Records that the request was not enqueued, and frees its key.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`], as for [`Idempotency::complete`].
    async fn release(&self, key: &str, message_id: &MessageId) -> Result<(), StoreError>;
}

/// The result of [`Idempotency::reserve`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reservation {
    /// This request has the key and must use this message id. It is the caller's own, or that of an
    /// earlier request whose lease expired. The earlier request may have been enqueued.
    Taken(MessageId),
    /// Another request holds the key now.
    UnderWay,
    /// The first request was enqueued as this message.
    Done(MessageId),
    /// The key was used for a request with another fingerprint.
    Mismatch,
}
