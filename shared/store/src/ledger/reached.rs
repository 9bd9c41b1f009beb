//! How far entries bring their messages, whatever keeps them.
//!
//! Invariant: the order of the entries means nothing, and an entry that comes twice changes nothing:
//! all is a greatest of something, or what never changes.

use std::collections::BTreeMap;

use roundtrip_model::{
    Entry, Event, MessageId,
    journal::{Content, Position},
};
use time::OffsetDateTime;

/// How far some entries bring one message.
pub(crate) struct Reached<'a> {
    /// One of them: whose message it is.
    pub(crate) entry: &'a Entry,
    pub(crate) position: Position,
    pub(crate) round: u32,
    pub(crate) updated_at: OffsetDateTime,
    /// Where one of them has it.
    pub(crate) content: Option<&'a Content>,
}

impl<'a> Reached<'a> {
    /// One for each message that these entries are of, by its id.
    pub(crate) fn by(entries: &'a [Entry]) -> impl Iterator<Item = Self> {
        let mut all: BTreeMap<MessageId, Self> = BTreeMap::new();
        for entry in entries {
            all.entry(entry.message_id)
                .or_insert_with(|| Self::at(entry))
                .take(entry);
        }
        all.into_values()
    }

    fn at(entry: &'a Entry) -> Self {
        Self {
            entry,
            position: entry.position(),
            round: entry.round,
            updated_at: entry.at,
            content: None,
        }
    }

    fn take(&mut self, entry: &'a Entry) {
        self.position = self.position.max(entry.position());
        self.round = self.round.max(entry.round);
        self.updated_at = self.updated_at.max(entry.at);
        if let Event::Accepted(content) = &entry.event {
            self.content = Some(content);
        }
    }
}
