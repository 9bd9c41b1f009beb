//! Readdresses replayed messages.
//!
//! A message is addressed to the channel that it was accepted for. A replay means the channel that
//! has the id now, which can be another: the old one was deleted, and its id was used again.

use std::collections::HashMap;

use roundtrip_broker::Message;
use roundtrip_model::{ChannelId, ChannelUid, OutboundMessage};
use roundtrip_store::{ChannelError, Channels, Unavailable};

pub(crate) struct CurrentChannels<'a> {
    store: &'a dyn Channels,
    uids: HashMap<ChannelId, Option<ChannelUid>>,
}

impl<'a> CurrentChannels<'a> {
    pub(crate) fn of(store: &'a dyn Channels) -> Self {
        Self {
            store,
            uids: HashMap::new(),
        }
    }

    /// Addresses a message to the channel that has its id now. A message that cannot be decoded
    /// stays as it is.
    pub(crate) async fn readdress(
        &mut self,
        id: &ChannelId,
        queued: &mut Message,
    ) -> Result<(), Unavailable> {
        let Ok(mut message) = serde_json::from_slice::<OutboundMessage>(&queued.body) else {
            return Ok(());
        };
        message.channel_uid = self.uid(id).await?;
        if let Ok(body) = serde_json::to_vec(&message) {
            queued.body = body.into();
        }
        Ok(())
    }

    /// `None` if there is no such channel; the dispatcher finds that, too.
    async fn uid(&mut self, id: &ChannelId) -> Result<Option<ChannelUid>, Unavailable> {
        if let Some(uid) = self.uids.get(id) {
            return Ok(uid.clone());
        }
        let uid = match self.store.target(id).await {
            Ok(target) => Some(target.uid),
            Err(ChannelError::Unavailable(error)) => return Err(error),
            Err(_) => None,
        };
        self.uids.insert(id.clone(), uid.clone());
        Ok(uid)
    }
}
