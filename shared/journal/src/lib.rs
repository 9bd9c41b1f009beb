//! What roles say of messages, on its way to the journal queue: many entries in one parcel, as one
//! confirm costs the same for one and for 500.
//!
//! Invariant: [`Journal::append`] resolves after the broker's confirm and never before; an entry
//! that was handed over is published until it is confirmed, however long the broker is away. So
//! it may be published twice, under one entry id.

mod batch;
mod batcher;

#[cfg(feature = "testing")]
mod testing;
#[cfg(test)]
mod tests;

use std::{future::pending, sync::Arc, time::Duration};

use bytes::Bytes;
use roundtrip_broker::SharedBroker;
use roundtrip_model::Entry;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use self::batch::Pending;

pub use self::batch::MAX_BATCH_BYTES;

/// What may wait for its confirm, in bytes of JSON and what each entry costs beside that. Whoever
/// comes after waits for room: that is how roles are slowed down to what the broker takes.
const MAX_BUFFERED_BYTES: u32 = 32 * 1024 * 1024;

/// What an entry costs beside its JSON, at the most.
const ENTRY_OVERHEAD: usize = 512;

/// The way to the journal. A clone leads to the same place.
#[derive(Debug, Clone)]
pub struct Journal {
    entries: mpsc::UnboundedSender<Pending>,
    /// Bounds the channel beside it.
    room: Arc<Semaphore>,
    closing: CancellationToken,
    closed: CancellationToken,
}

impl Journal {
    /// Starts the task that gathers and publishes. Call it within a runtime of tokio's.
    #[must_use]
    pub fn start(broker: SharedBroker) -> Self {
        let (entries, inbox) = mpsc::unbounded_channel();
        let closing = CancellationToken::new();
        let closed = CancellationToken::new();
        let guard = closed.clone().drop_guard();
        let stop = closing.clone();
        tokio::spawn(async move {
            batcher::run(broker, inbox, stop).await;
            drop(guard);
        });
        Self {
            entries,
            room: Arc::new(Semaphore::new(MAX_BUFFERED_BYTES as usize)),
            closing,
            closed,
        }
    }

    /// Resolves when the entry is safe with the broker, however long that takes; once the journal
    /// is closed it never does, for nothing could be promised any more.
    ///
    /// Losing this future loses the wait, and the entry only where there was no room for it yet.
    pub async fn append(&self, entry: Entry) {
        let json = match serde_json::to_vec(&entry) {
            Ok(json) => json,
            Err(error) => {
                tracing::error!(entry_id = %entry.entry_id, %error, "an entry that is no JSON");
                return;
            }
        };
        let cost = u32::try_from(json.len() + ENTRY_OVERHEAD)
            .unwrap_or(u32::MAX)
            .min(MAX_BUFFERED_BYTES);
        let Ok(room) = Arc::clone(&self.room).acquire_many_owned(cost).await else {
            return pending().await;
        };
        let (done, confirmed) = oneshot::channel();
        // Where the task has ended, both of these fail.
        let _ = self.entries.send(Pending {
            id: entry.entry_id,
            at: entry.at,
            json,
            done,
            _room: room,
        });
        if confirmed.await.is_err() {
            pending::<()>().await;
        }
    }

    /// As [`Journal::append`], but waits no longer than this; says whether the entry is safe. One
    /// that is not may still come to be.
    pub async fn append_within(&self, entry: Entry, limit: Duration) -> bool {
        timeout(limit, self.append(entry)).await.is_ok()
    }

    /// Takes no further entry, and resolves when every one that was taken is safe. Put a limit on
    /// it: while the broker is away it waits.
    pub async fn close(&self) {
        self.closing.cancel();
        self.closed.cancelled().await;
    }
}

/// Why a parcel of the journal queue cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("not a list of journal entries: {0}")]
pub struct DecodeError(#[from] serde_json::Error);

/// The entries in the body of a parcel of the journal queue.
///
/// # Errors
/// [`DecodeError`] where it is anything else.
pub fn decode(body: &Bytes) -> Result<Vec<Entry>, DecodeError> {
    Ok(serde_json::from_slice(body)?)
}
