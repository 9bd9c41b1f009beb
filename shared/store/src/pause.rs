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

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use async_trait::async_trait;
    use roundtrip_model::{Channel, DeliverySettings};

    use super::*;
    use crate::{ChannelPage, Filter, PageRequest, Version};

    /// One channel, which somebody else changes just before each of the first updates.
    struct Contested(Mutex<(Channel, u32)>);

    fn versioned(channel: Channel) -> Versioned {
        let version = Version::of(&channel);
        Versioned { channel, version }
    }

    #[async_trait]
    impl Channels for Contested {
        async fn get(&self, _: &ChannelId) -> Result<Versioned, StoreError> {
            let stored = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(versioned(stored.0.clone()))
        }

        async fn update(
            &self,
            id: &ChannelId,
            patch: &ChannelPatch,
            expected: Option<&Version>,
        ) -> Result<Versioned, StoreError> {
            let mut stored = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let (channel, races) = &mut *stored;
            if *races > 0 {
                *races -= 1;
                let others = serde_json::json!(*races);
                channel.channel_metadata.insert("others".into(), others);
            }
            if expected != Some(&Version::of(channel)) {
                return Err(StoreError::Changed(id.clone()));
            }
            *channel = channel.clone().patched(patch.clone());
            Ok(versioned(channel.clone()))
        }

        async fn create(&self, _: &Channel) -> Result<Version, StoreError> {
            unreachable!("pausing creates nothing")
        }

        async fn delete(&self, _: &ChannelId, _: Option<&Version>) -> Result<(), StoreError> {
            unreachable!("pausing deletes nothing")
        }

        async fn query(&self, _: &Filter, _: &PageRequest) -> Result<ChannelPage, StoreError> {
            unreachable!("pausing knows the id")
        }

        async fn ping(&self) -> Result<(), StoreError> {
            unreachable!("pausing asks for what it needs")
        }
    }

    async fn pause(races: u32) -> Result<Versioned, StoreError> {
        let id: ChannelId = "c".parse().unwrap();
        let channel = serde_json::from_value(serde_json::json!({"channel_id": "c"})).unwrap();
        let store = Contested(Mutex::new((channel, races)));
        set_paused(&store, &id, true).await
    }

    #[tokio::test]
    async fn what_others_change_meanwhile_stays() {
        let metadata = pause(3).await.unwrap().channel.channel_metadata;
        assert!(DeliverySettings::of(&metadata).paused);
        assert_eq!(metadata["others"], 0);
    }

    #[tokio::test]
    async fn a_channel_that_is_always_changed_is_given_up() {
        let error = pause(u32::MAX).await.unwrap_err();
        assert!(matches!(error, StoreError::Changed(_)), "{error}");
    }
}
