//! Finds the delivered messages whose answer did not come in time, and journals that they are overdue.
//!
//! The deadline is part of the message's record in the store, so it outlasts every process. Invariant:
//! a message is found until the store has its entry. The entry is the same each time, so any number of
//! recorders may journal it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::future::join_all;
use roundtrip_broker::{Queue, SharedBroker};
use roundtrip_journal::Journal;
use roundtrip_model::{Clock, Entry, EntryId, LogThrottle};
use roundtrip_store::{MAX_PAGE, MessageRecord, SharedStore, Unavailable};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How often the store is asked for overdue messages.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The most messages that one look finds. The next ones are found when the store has their entries.
const PAGE: u16 = MAX_PAGE;

/// How long after its deadline a message is looked for: by then the store has the entry of an answer
/// that came just before, unless entries wait in the journal's queue.
const GRACE: Duration = Duration::from_secs(1);

/// How long the store may take to record an entry before it is journaled again.
const JOURNALED_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// The least time between two equal log lines of an outage.
const LOG_EVERY: Duration = Duration::from_mins(1);

pub(crate) struct OverdueFinder {
    broker: SharedBroker,
    store: SharedStore,
    journal: Journal,
    clock: Arc<dyn Clock>,
    store_waits: LogThrottle,
}

/// The entries that were journaled and that the store may lack, and when. At most a page of them.
type Journaled = HashMap<EntryId, Instant>;

impl OverdueFinder {
    pub(crate) fn new(
        broker: SharedBroker,
        store: SharedStore,
        journal: Journal,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            broker,
            store,
            journal,
            clock,
            store_waits: LogThrottle::every(LOG_EVERY),
        }
    }

    pub(crate) async fn run(&self, stop: &CancellationToken) {
        let looking = async {
            let mut journaled = Journaled::new();
            loop {
                if let Err(error) = self.look(&mut journaled).await
                    && let Some(suppressed) = self.store_waits.due(Instant::now().into_std())
                {
                    tracing::warn!(%error, suppressed, "overdue messages wait for the store");
                }
                sleep(LOOK_EVERY).await;
            }
        };
        stop.run_until_cancelled(looking).await;
    }

    async fn look(&self, journaled: &mut Journaled) -> Result<(), Unavailable> {
        let due_at = self.clock.now() - GRACE;
        let found = self.store.unanswered(due_at, PAGE).await?;
        let mut entries: Vec<_> = found.into_iter().filter_map(overdue).collect();
        let now = Instant::now();
        let mut before = std::mem::take(journaled);
        entries.retain(|entry| {
            let at = before.remove(&entry.entry_id);
            let at = at.filter(|at| now - *at < JOURNALED_AGAIN_AFTER);
            journaled.extend(at.map(|at| (entry.entry_id, at)));
            at.is_none()
        });
        // An entry that waits in the queue may be that of an answer. An unavailable broker accepts no
        // entries either.
        if entries.is_empty() || !matches!(self.broker.ready(Queue::Journal).await, Ok(0)) {
            return Ok(());
        }
        let count = entries.len();
        journaled.extend(entries.iter().map(|entry| (entry.entry_id, now)));
        join_all(entries.into_iter().map(|entry| self.journal.append(entry))).await;
        tracing::info!(count, "messages.overdue");
        Ok(())
    }
}

/// The entry of a message without an answer.
fn overdue(message: MessageRecord) -> Option<Entry> {
    let MessageRecord {
        message_id,
        channel_id,
        session_id,
        replay_count,
        answer_by,
        ..
    } = message;
    answer_by.map(|by| Entry::overdue(message_id, channel_id, session_id, replay_count, by))
}

#[cfg(test)]
mod tests;
