//! Writes journal entries to the store.
//!
//! Invariant: a batch is acked only after all of its entries are written, and the broker has the
//! notices of its dead letters and overdue messages.

use std::sync::Arc;

use async_trait::async_trait;
use futures::{FutureExt, future::try_join_all};
use roundtrip_broker::{Handler, Message};
use roundtrip_model::{Clock, DeadReason, Decision, Entry, NoticeEvent, decision::DeadKind};
use roundtrip_notices::Notices;
use roundtrip_store::{BulkWriter, SharedStore};
use time::OffsetDateTime;

use crate::{
    metrics::JOURNAL_LAG,
    notices,
    written::{AFTER_A_PANIC, SNOOZE, decision},
};

pub(crate) struct JournalWriter {
    entries: BulkWriter<Entry>,
    notices: Notices,
    clock: Arc<dyn Clock>,
}

impl JournalWriter {
    /// Starts the task that writes; at most `waiting` batches queue for it.
    pub(crate) fn start(
        store: SharedStore,
        waiting: u16,
        notices: Notices,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let entries = BulkWriter::start("entries", waiting, move |entries| {
            let store = Arc::clone(&store);
            async move { store.record(entries).await }.boxed()
        });
        Self {
            entries,
            notices,
            clock,
        }
    }

    async fn write(&self, entries: Vec<Entry>) -> Decision {
        let events: Vec<NoticeEvent> = if self.notices.are_on() {
            entries.iter().filter_map(notices::of_entry).collect()
        } else {
            Vec::new()
        };
        let times: Vec<OffsetDateTime> = entries.iter().map(|entry| entry.at).collect();
        let written = self.entries.write(entries).await;
        if written.is_err() {
            return decision(written);
        }
        let now = self.clock.now();
        for at in times {
            // Another machine's clock may be ahead.
            JOURNAL_LAG.observe((), (now - at).try_into().unwrap_or_default());
        }
        let raised = events.iter().map(|event| self.notices.raise(event));
        match try_join_all(raised).await {
            Ok(_) => Decision::Done,
            Err(error) => {
                tracing::debug!(%error, "a notice is not published yet");
                Decision::Snooze(SNOOZE)
            }
        }
    }
}

#[async_trait]
impl Handler for JournalWriter {
    async fn handle(&self, message: &Message) -> Decision {
        match roundtrip_journal::decode(&message.body) {
            Ok(entries) => self.write(entries).await,
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
