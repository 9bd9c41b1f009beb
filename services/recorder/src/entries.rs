//! Writes journal entries to the store.
//!
//! Invariant: a batch is acked only after all of its entries are written.

use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt;
use roundtrip_broker::{Handler, Message};
use roundtrip_model::{DeadReason, Decision, Entry, decision::DeadKind};
use roundtrip_store::{BulkWriter, SharedStore};

use crate::written::{AFTER_A_PANIC, decision};

pub(crate) struct JournalWriter {
    entries: BulkWriter<Entry>,
}

impl JournalWriter {
    /// Starts the task that writes; at most `waiting` batches queue for it.
    pub(crate) fn start(store: SharedStore, waiting: u16) -> Self {
        let entries = BulkWriter::start("entries", waiting, move |entries| {
            let store = Arc::clone(&store);
            async move { store.record(entries).await }.boxed()
        });
        Self { entries }
    }
}

#[async_trait]
impl Handler for JournalWriter {
    async fn handle(&self, message: &Message) -> Decision {
        match roundtrip_journal::decode(&message.body) {
            Ok(entries) => decision(self.entries.write(entries).await),
            Err(error) => {
                tracing::error!(id = message.id, %error, "a batch of entries cannot be read");
                Decision::Reject(DeadReason::new(DeadKind::Undecodable, error.to_string()))
            }
        }
    }

    async fn panicked(&self, _message: &Message) -> Decision {
        Decision::Snooze(AFTER_A_PANIC)
    }
}
