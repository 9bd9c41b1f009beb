//! What entries change in the records of their messages, for both engines.
//!
//! Invariant: the order of entries has no effect, and a repeated entry changes nothing. Every field
//! is a maximum, or a value that never changes.

use std::collections::BTreeMap;

use roundtrip_model::{ChannelId, Entry, MessageId, journal::Position};
use time::OffsetDateTime;

use super::{StoredContent, message_of};

pub(crate) struct MessageProjection<'a> {
    pub(crate) message_id: MessageId,
    pub(crate) channel_id: &'a ChannelId,
    /// One of the message's entries; all of them have the same session.
    pub(crate) entry: &'a Entry,
    pub(crate) position: Position,
    pub(crate) replay_count: u32,
    pub(crate) updated_at: OffsetDateTime,
    pub(crate) content: Option<StoredContent<'a>>,
}

impl<'a> MessageProjection<'a> {
    /// One for each message among these entries, in the order of the ids.
    ///
    /// # Errors
    /// If a content cannot be written as JSON.
    pub(crate) fn by(entries: &'a [Entry]) -> serde_json::Result<impl Iterator<Item = Self>> {
        let mut all: BTreeMap<MessageId, Self> = BTreeMap::new();
        for entry in entries {
            let Some((message_id, channel_id)) = message_of(entry) else {
                continue;
            };
            all.entry(message_id)
                .or_insert_with(|| Self::at(message_id, channel_id, entry))
                .take(entry)?;
        }
        Ok(all.into_values())
    }

    fn at(message_id: MessageId, channel_id: &'a ChannelId, entry: &'a Entry) -> Self {
        Self {
            message_id,
            channel_id,
            entry,
            position: entry.position(),
            replay_count: entry.replay_count,
            updated_at: entry.at,
            content: None,
        }
    }

    fn take(&mut self, entry: &'a Entry) -> serde_json::Result<()> {
        self.position = self.position.max(entry.position());
        self.replay_count = self.replay_count.max(entry.replay_count);
        self.updated_at = self.updated_at.max(entry.at);
        if let Some(content) = StoredContent::of(&entry.event)? {
            self.content = Some(content);
        }
        Ok(())
    }
}
