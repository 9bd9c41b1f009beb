//! Idempotency keys: the first answer to each, for a while.
//!
//! Invariant: of requests with one key and one fingerprint all get the same message id.

use std::time::Duration;

use async_trait::async_trait;
use roundtrip_model::MessageId;
use time::OffsetDateTime;

use crate::StoreError;

/// Idempotency keys: the first answer to each, for a while.
#[async_trait]
pub trait Idempotency: Send + Sync + 'static {
    /// Takes the key for a request with this fingerprint, which would get this message id, until
    /// `lease` has passed or the request is completed or released.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    async fn reserve(
        &self,
        key: &str,
        fingerprint: &str,
        message_id: &MessageId,
        now: OffsetDateTime,
        lease: Duration,
    ) -> Result<Reservation, StoreError>;

    /// The request was enqueued.
    ///
    /// # Errors
    /// [`StoreError::Away`]; the reservation then runs out, and a repeat takes it over.
    async fn complete(&self, key: &str, message_id: &MessageId) -> Result<(), StoreError>;

    /// The request was not enqueued: as if it had never come.
    ///
    /// # Errors
    /// [`StoreError::Away`], as for [`Idempotency::complete`].
    async fn release(&self, key: &str, message_id: &MessageId) -> Result<(), StoreError>;
}

/// What became of a [`Idempotency::reserve`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reservation {
    /// The key is this request's. The message id is the one to use: the caller's own, or that of
    /// an earlier request whose lease ran out, which may have been enqueued or not.
    Taken(MessageId),
    /// Another request has the key at this moment.
    UnderWay,
    /// The first request was enqueued as this message.
    Done(MessageId),
    /// The key was used for a request with another fingerprint.
    Mismatch,
}
