//! Pausing and resuming a channel.
//!
//! Invariant: of the channel's fields nothing but `channel_metadata.delivery.paused` changes, also
//! where somebody else changes the channel at the same time.

use roundtrip_model::{ChannelId, ChannelPatch, settings::with_paused};

use crate::{Channels, StoreError, Versioned};

/// How often the channel may be changed by others in between before it is given up.
const MAX_RACES: u32 = 16;

/// Pauses or resumes a channel, and answers with the whole. One that is so already is not written.
///
/// # Errors
/// As for [`Channels::update`]; [`StoreError::Changed`] where others changed it again and again.
pub async fn set_paused(
    channels: &dyn Channels,
    id: &ChannelId,
    paused: bool,
) -> Result<Versioned, StoreError> {
    for _ in 0..MAX_RACES {
        let stored = channels.get(id).await?;
        let Some(metadata) = with_paused(&stored.channel.channel_metadata, paused) else {
            return Ok(stored);
        };
        let patch = ChannelPatch {
            channel_metadata: Some(metadata),
            ..ChannelPatch::default()
        };
        match channels.update(id, &patch, Some(&stored.version)).await {
            Err(StoreError::Changed(_)) => {}
            settled => return settled,
        }
    }
    Err(StoreError::Changed(id.clone()))
}
