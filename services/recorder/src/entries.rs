//! Writes journal entries to the store.
//!
//! Invariant: a batch is acked only after all of its entries are written. Waiting batches are
//! written together: a store writes hundreds of entries as fast as one, and after an outage there
//! are many small batches.

use std::time::Duration;

use async_trait::async_trait;
use roundtrip_broker::{Handler, Message};
use roundtrip_model::{DeadReason, Decision, Entry, decision::DeadKind};
use roundtrip_store::SharedStore;
use tokio::sync::{mpsc, oneshot};

use crate::patience::until_taken;

/// The retry delay of a batch whose handler panicked.
const AFTER_A_PANIC: Duration = Duration::from_secs(30);

/// A write takes no further batch once it holds this many entries.
const ENOUGH_FOR_A_WRITE: usize = 500;

/// Records batches of entries.
pub(crate) struct JournalWriter {
    pages: mpsc::Sender<Page>,
}

/// The entries of a batch, and where its decision is sent.
struct Page {
    entries: Vec<Entry>,
    done: oneshot::Sender<Decision>,
}

impl JournalWriter {
    /// Starts the task that writes; at most `waiting` batches queue for it.
    pub(crate) fn start(store: SharedStore, waiting: u16) -> Self {
        let (sender, pages) = mpsc::channel(usize::from(waiting.max(1)));
        tokio::spawn(write(store, pages));
        Self { pages: sender }
    }
}

/// Writes what is queued, until the sender is dropped.
async fn write(store: SharedStore, mut pages: mpsc::Receiver<Page>) {
    while let Some(first) = pages.recv().await {
        let mut entries = first.entries;
        let mut waiting = vec![first.done];
        while entries.len() < ENOUGH_FOR_A_WRITE
            && let Ok(page) = pages.try_recv()
        {
            entries.extend(page.entries);
            waiting.push(page.done);
        }
        let decision = match until_taken("entries", || store.record(&entries)).await {
            Ok(()) => Decision::Done,
            Err(snooze) => snooze,
        };
        for done in waiting {
            // If the receiver is gone, the batch is delivered again; writing it twice is harmless.
            let _ = done.send(decision.clone());
        }
    }
}

#[async_trait]
impl Handler for JournalWriter {
    async fn handle(&self, message: &Message) -> Decision {
        let entries = match roundtrip_journal::decode(&message.body) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::error!(id = message.id, %error, "a batch of entries cannot be read");
                return Decision::DeadLetter(DeadReason::new(
                    DeadKind::Undecodable,
                    error.to_string(),
                ));
            }
        };
        let (done, decision) = oneshot::channel();
        if self.pages.send(Page { entries, done }).await.is_err() {
            return Decision::RetryAfter(AFTER_A_PANIC);
        }
        decision
            .await
            .unwrap_or(Decision::RetryAfter(AFTER_A_PANIC))
    }

    async fn panicked(&self, _message: &Message) -> Decision {
        Decision::RetryAfter(AFTER_A_PANIC)
    }
}
