//! Journal entries that share a message.

use roundtrip_broker::Message;
use roundtrip_model::EntryId;
use time::OffsetDateTime;
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::Instant,
};

pub(crate) const MAX_BATCH_ENTRIES: usize = 500;

/// A message takes no further entry once its JSON reaches this size in bytes.
pub const MAX_BATCH_BYTES: usize = 1024 * 1024;

#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) id: EntryId,
    pub(crate) at: OffsetDateTime,
    pub(crate) json: Vec<u8>,
    pub(crate) done: oneshot::Sender<()>,
    pub(crate) _room: OwnedSemaphorePermit,
}

#[derive(Debug)]
pub(crate) struct EntryBatch {
    entries: Vec<Pending>,
    bytes: usize,
    pub(crate) since: Instant,
}

impl EntryBatch {
    pub(crate) fn of(first: Pending) -> Self {
        Self {
            bytes: first.json.len(),
            entries: vec![first],
            since: Instant::now(),
        }
    }

    pub(crate) fn push(&mut self, entry: Pending) {
        self.bytes += entry.json.len();
        self.entries.push(entry);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() >= MAX_BATCH_ENTRIES || self.bytes >= MAX_BATCH_BYTES
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn message(&self) -> Option<Message> {
        let first = self.entries.first()?;
        let mut body = Vec::with_capacity(self.bytes + self.entries.len() + 1);
        for (index, entry) in self.entries.iter().enumerate() {
            body.push(if index == 0 { b'[' } else { b',' });
            body.extend_from_slice(&entry.json);
        }
        body.push(b']');
        Some(Message::new(first.id.to_string(), first.at, body.into()))
    }

    /// Splits the batch in two; a single entry is returned as the error.
    pub(crate) fn split(mut self) -> Result<(Self, Self), Self> {
        if self.entries.len() < 2 {
            return Err(self);
        }
        let second = self.entries.split_off(self.entries.len() / 2);
        let of = |entries: Vec<Pending>| Self {
            bytes: entries.iter().map(|entry| entry.json.len()).sum(),
            entries,
            since: self.since,
        };
        Ok((of(self.entries), of(second)))
    }

    pub(crate) fn confirmed(self) {
        for entry in self.entries {
            // The receiver may have been dropped; that is fine.
            let _ = entry.done.send(());
        }
    }
}
