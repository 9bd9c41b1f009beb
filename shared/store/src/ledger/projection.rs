//! What entries change in the records of their messages, for both engines.
//!
//! Invariant: the order of entries has no effect, and a repeated entry changes nothing. Every field
//! is a maximum, or a value that never changes.

use std::collections::BTreeMap;

use roundtrip_model::{Entry, MessageId, journal::Position};
use time::OffsetDateTime;

use super::StoredContent;

pub(crate) struct MessageProjection<'a> {
    /// One of the entries. It names the message.
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
            all.entry(entry.message_id)
                .or_insert_with(|| Self::at(entry))
                .take(entry)?;
        }
        Ok(all.into_values())
    }

    fn at(entry: &'a Entry) -> Self {
        Self {
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
