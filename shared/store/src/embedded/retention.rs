//! Removes what is older than the retention.
//!
//! Invariant: it works in small transactions, so that other writers never wait for long. It keeps
//! unfinished work: dead letters that were not replayed, and running replays.

use std::{sync::Arc, time::Duration};

use roundtrip_model::{Clock, config::chain, millis};
use rusqlite::Transaction;
use tokio::time;
use tracing::warn;

use super::SqliteStore;
use crate::{Unavailable, ledger::first_message_id};

const PAUSE: Duration = Duration::from_mins(1);
/// How many rows of a kind, or messages with all their entries, one transaction removes.
const STEP: u16 = 200;

impl SqliteStore {
    pub(crate) fn keeping(self, retention: Duration, clock: Arc<dyn Clock>) -> Self {
        let store = self.clone();
        self.with_background_task(tokio::spawn(async move {
            loop {
                // Another process may lock the file for a while; the next run tries again.
                if let Err(error) = forget(&store, millis::of(clock.now() - retention)).await {
                    warn!(
                        error = chain(&error),
                        "not all old records could be removed"
                    );
                }
                time::sleep(PAUSE).await;
            }
        }))
    }
}

pub(super) async fn forget(store: &SqliteStore, before: i64) -> Result<(), Unavailable> {
    // Ids begin with their creation time, so the oldest come first.
    let mut after = String::new();
    loop {
        let step = move |transaction: &Transaction<'_>| messages(transaction, before, &after);
        match store.write::<_, _, Unavailable>(step).await? {
            Some(last) => after = last,
            None => break,
        }
    }
    for sql in OTHERS {
        let step = move |transaction: &Transaction<'_>| {
            let mut delete = transaction.prepare_cached(sql)?;
            delete.execute((before, STEP))
        };
        while store.write::<_, _, Unavailable>(step).await? == usize::from(STEP) {}
    }
    Ok(())
}

const OTHERS: [&str; 7] = [
    // Ordered by number. The times ascend too, except for events that were stored late.
    "DELETE FROM session_events WHERE sequence IN (SELECT sequence FROM
     (SELECT sequence, at FROM session_events ORDER BY sequence LIMIT ?2) WHERE at < ?1)",
    "DELETE FROM answers WHERE rowid IN (SELECT rowid FROM answers
     WHERE message_id IS NULL AND at < ?1 LIMIT ?2)",
    "DELETE FROM dead_letters WHERE rowid IN (SELECT rowid FROM dead_letters
     WHERE replayed_by IS NOT NULL AND dead_at < ?1 LIMIT ?2)",
    "DELETE FROM replays WHERE rowid IN (SELECT rowid FROM replays
     WHERE ended_at IS NOT NULL AND ended_at < ?1 LIMIT ?2)",
    "DELETE FROM erasures WHERE rowid IN (SELECT rowid FROM erasures
     WHERE ended_at IS NOT NULL AND ended_at < ?1 LIMIT ?2)",
    "DELETE FROM idempotency WHERE rowid IN (SELECT rowid FROM idempotency
     WHERE taken_at < ?1 LIMIT ?2)",
    "DELETE FROM api_keys WHERE rowid IN (SELECT rowid FROM api_keys
     WHERE ends_at IS NOT NULL AND ends_at < ?1 LIMIT ?2)",
];

/// Removes messages without an entry since that time, beginning after this id. Returns the last id
/// removed if there may be more.
fn messages(
    transaction: &Transaction<'_>,
    before: i64,
    after: &str,
) -> rusqlite::Result<Option<String>> {
    let mut find = transaction.prepare_cached(
        "SELECT message_id FROM messages
         WHERE message_id > ?1 AND message_id < ?2 AND updated_at < ?3
         ORDER BY message_id LIMIT ?4",
    )?;
    let ids = find.query_map((after, first_message_id(before), before, STEP), |row| {
        row.get(0)
    })?;
    let ids: Vec<String> = ids.collect::<Result<_, _>>()?;
    for sql in [
        "DELETE FROM entry_contents WHERE entry_id IN
         (SELECT entry_id FROM entries WHERE message_id = ?1)",
        "DELETE FROM entries WHERE message_id = ?1",
        "DELETE FROM contents WHERE message_id = ?1",
        "DELETE FROM answers WHERE message_id = ?1",
        "DELETE FROM messages WHERE message_id = ?1",
    ] {
        let mut delete = transaction.prepare_cached(sql)?;
        for id in &ids {
            delete.execute([id])?;
        }
    }
    let full = ids.len() == usize::from(STEP);
    Ok(ids.into_iter().next_back().filter(|_| full))
}
