//! Where API keys are kept.
//!
//! Invariant: what is kept of a key's secret is its hash. A key that has ended is kept for as long
//! as the retention says, so that what it was can be looked up.

use async_trait::async_trait;
use roundtrip_model::{ApiKey, ApiKeyId, KeyBounds};
use time::OffsetDateTime;

use crate::StoreError;

/// The most keys that are active at once. Each ingress holds all of them, and reads them anew every
/// few seconds.
pub const MAX_ACTIVE_KEYS: u16 = 10_000;

/// The most keys that are active at once of those that one key which is limited to channels has
/// made, and those that these have made. Whoever is given some channels cannot take the room of all.
pub const MAX_KEYS_UNDER_ONE: u16 = 100;

/// API keys.
#[async_trait]
pub trait ApiKeys: Send + Sync + 'static {
    /// Keeps a key.
    ///
    /// # Errors
    /// [`StoreError::TooMany`] where [`MAX_ACTIVE_KEYS`] are active when it is made, and
    /// [`StoreError::TooManyUnderOne`] where [`MAX_KEYS_UNDER_ONE`] are that are made under the
    /// same key; of several that are made at once some too many may get in. [`StoreError::Away`].
    async fn create_key(&self, key: &ApiKey) -> Result<(), StoreError>;

    /// The key with this id, ended or not.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    async fn key(&self, id: &ApiKeyId) -> Result<Option<ApiKey>, StoreError>;

    /// Keys within these bounds, ended or not, by id, the earliest first. A page is cut after the
    /// bounds: what is beyond them shows in nothing.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    async fn keys(
        &self,
        within: &KeyBounds,
        after: Option<&ApiKeyId>,
        limit: u16,
    ) -> Result<Vec<ApiKey>, StoreError>;

    /// All keys that are active at this time.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    async fn active_keys(&self, now: OffsetDateTime) -> Result<Vec<ApiKey>, StoreError>;

    /// Ends a key for good, and answers with it; one that was revoked before stays as it is.
    /// `None` where there is none.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    async fn revoke_key(
        &self,
        id: &ApiKeyId,
        now: OffsetDateTime,
    ) -> Result<Option<ApiKey>, StoreError>;
}
