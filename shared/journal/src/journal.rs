//! Appends to the journal.

use std::{future::pending, sync::Arc, time::Duration};

use roundtrip_broker::SharedBroker;
use roundtrip_model::Entry;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{batch::Pending, batcher, metrics::UNCONFIRMED};

/// Upper bound on unconfirmed entries: their JSON plus their overhead, in bytes. Further entries
/// wait, which slows the roles down to the broker's rate.
const MAX_BUFFERED_BYTES: u32 = 32 * 1024 * 1024;

/// Upper bound on an entry's overhead beside its JSON.
const ENTRY_OVERHEAD: usize = 512;

#[derive(Debug, Clone)]
pub struct Journal {
    entries: mpsc::UnboundedSender<Pending>,
    /// Bounds the channel `entries`.
    room: Arc<Semaphore>,
    closing: CancellationToken,
    closed: CancellationToken,
}

impl Journal {
    /// Starts the batching task. Call it within a tokio runtime.
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

    /// Resolves when the broker has confirmed the entry, however long that takes. After the journal
    /// is closed it never resolves, because the entry cannot be stored.
    ///
    /// If this future is dropped, the entry is lost only if it still waited for capacity.
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
        // If the task has ended, both of these fail.
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

    /// Like [`Journal::append`] with a time limit; returns whether the entry is confirmed. An
    /// unconfirmed entry may still be confirmed later.
    pub async fn append_within(&self, entry: Entry, limit: Duration) -> bool {
        timeout(limit, self.append(entry)).await.is_ok()
    }

    /// Sets the gauge of unconfirmed entries to their size now.
    pub fn measure(&self) {
        let free = self.room.available_permits();
        UNCONFIRMED.set((), (MAX_BUFFERED_BYTES as usize).saturating_sub(free));
    }

    /// Accepts no further entry, and resolves when every accepted entry is confirmed. Use a time
    /// limit: it waits for as long as the broker is unavailable.
    pub async fn close(&self) {
        self.closing.cancel();
        self.closed.cancelled().await;
    }
}

#[cfg(test)]
mod tests;
