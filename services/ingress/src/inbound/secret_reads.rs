//! Limits the reads of channels' secrets that wrong signatures cause.

use std::time::Duration;

use moka::future::Cache;
use roundtrip_model::ChannelId;

/// The most channels whose last read for a wrong signature is remembered.
const MAX_CHANNELS: u64 = 20_000;
/// The least time between two such reads of a channel.
const READ_PAUSE: Duration = Duration::from_secs(1);

/// The channels that were read from the store a moment ago because of a wrong signature. Another
/// process may have rotated the secret since the cache read it. Without this limit each forged request
/// would cause a read.
pub(crate) struct SecretReads(Cache<ChannelId, ()>);

impl SecretReads {
    pub(crate) fn new() -> Self {
        let recent = Cache::builder()
            .max_capacity(MAX_CHANNELS)
            .time_to_live(READ_PAUSE);
        Self(recent.build())
    }

    pub(super) async fn may_read(&self, channel: &ChannelId) -> bool {
        self.0.entry_by_ref(channel).or_insert(()).await.is_fresh()
    }
}
