//! Storage for API keys.
//!
//! Invariant: only the hash of a key's secret is stored. An ended key is kept for the retention, so
//! that it can still be looked up.

use async_trait::async_trait;
use roundtrip_model::{ApiKey, ApiKeyId, KeyBounds};
use time::OffsetDateTime;

use crate::Unavailable;

/// The most active keys. Each ingress holds all of them, and reads them again every few seconds.
pub const MAX_ACTIVE_KEYS: u16 = 10_000;

/// The most active keys that count under one key limited to channels: those it made, and those that
/// these made. It keeps such a key from using up [`MAX_ACTIVE_KEYS`].
pub const MAX_KEYS_UNDER_ONE: u16 = 100;

#[derive(Debug, Clone, thiserror::Error)]
pub enum KeyError {
    #[error("no more than {MAX_ACTIVE_KEYS} API keys can be active at once")]
    TooMany,
    /// The limit on active API keys under one key that is limited to channels is reached.
    #[error("no more than {MAX_KEYS_UNDER_ONE} API keys that a limited one has made can be active")]
    TooManyUnderOne,
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

#[async_trait]
pub trait ApiKeys: Send + Sync + 'static {
    /// Stores a key.
    ///
    /// # Errors
    ///
    /// [`KeyError::TooMany`] if [`MAX_ACTIVE_KEYS`] are active when it is made.
    /// [`KeyError::TooManyUnderOne`] if [`MAX_KEYS_UNDER_ONE`] count under the same key.
    /// Concurrent calls may exceed a limit by a few.
    async fn create_key(&self, key: &ApiKey) -> Result<(), KeyError>;

    async fn key(&self, id: &ApiKeyId) -> Result<Option<ApiKey>, Unavailable>;

    /// Keys within these bounds, active or ended, in the order of their ids, the earliest first.
    /// The bounds apply before the page is cut, so that keys beyond them do not affect it.
    async fn keys(
        &self,
        within: &KeyBounds,
        after: Option<&ApiKeyId>,
        limit: u16,
    ) -> Result<Vec<ApiKey>, Unavailable>;

    async fn active_keys(&self, now: OffsetDateTime) -> Result<Vec<ApiKey>, Unavailable>;

    /// Revokes a key and returns it. A key that was revoked before is unchanged. `None` if there is
    /// no such key.
    async fn revoke_key(
        &self,
        id: &ApiKeyId,
        now: OffsetDateTime,
    ) -> Result<Option<ApiKey>, Unavailable>;
}
