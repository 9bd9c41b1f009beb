//! Writes journal entries to the store.
//!
//! Invariant: a batch is acked only after all of its entries are written. Waiting batches are
//! written together: a store writes hundreds of entries as fast as one, and after an outage there
//! are many small batches. A store that is too slow for a write gets smaller ones.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{FutureExt, future::BoxFuture};
use roundtrip_broker::{Handler, Message};
use roundtrip_model::{DeadReason, Decision, Entry, decision::DeadKind};
use roundtrip_store::{SharedStore, Unavailable};
use tokio::sync::{mpsc, oneshot};

use crate::patience::Patience;

/// The retry delay of a batch whose handler panicked.
const AFTER_A_PANIC: Duration = Duration::from_secs(30);

/// A write takes no further batch once it holds this many entries.
const ENOUGH_FOR_A_WRITE: usize = 500;

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
    let mut step = ENOUGH_FOR_A_WRITE;
    while let Some(first) = pages.recv().await {
        let mut entries = first.entries;
        let mut waiting = vec![first.done];
        while entries.len() < ENOUGH_FOR_A_WRITE
            && let Ok(page) = pages.try_recv()
        {
            entries.extend(page.entries);
            waiting.push(page.done);
        }
        let written = in_steps(&entries, &mut step, |entries| {
            let store = Arc::clone(&store);
            async move { store.record(entries).await }.boxed()
        });
        let decision = match written.await {
            Ok(()) => Decision::Done,
            Err(snooze) => snooze,
        };
        for done in waiting {
            // If the receiver is gone, the batch is delivered again; writing it twice is harmless.
            let _ = done.send(decision.clone());
        }
    }
}

/// Writes in steps that the store manages: a step that fails is halved, and doubled again when one
/// succeeds. Repeated at full size, a write that outlasts the store's time limit would never
/// succeed.
async fn in_steps<T>(
    mut left: &[T],
    step: &mut usize,
    write: impl Fn(&[T]) -> BoxFuture<'_, Result<(), Unavailable>>,
) -> Result<(), Decision> {
    let mut patience = Patience::new("entries");
    while !left.is_empty() {
        let (now, later) = left.split_at(left.len().min(*step));
        match write(now).await {
            Ok(()) => {
                left = later;
                *step = (*step * 2).min(ENOUGH_FOR_A_WRITE);
            }
            Err(error) => {
                *step = (now.len() / 2).max(1);
                patience.after(&error).await?;
            }
        }
    }
    Ok(())
}

#[async_trait]
impl Handler for JournalWriter {
    async fn handle(&self, message: &Message) -> Decision {
        let entries = match roundtrip_journal::decode(&message.body) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::error!(id = message.id, %error, "a batch of entries cannot be read");
                return Decision::Reject(DeadReason::new(DeadKind::Undecodable, error.to_string()));
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

#[cfg(test)]
mod tests {
    use std::{future::ready, sync::Mutex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_store_too_slow_for_a_large_write_gets_smaller_ones() {
        const MOST: usize = 7;
        let entries: Vec<usize> = (0..ENOUGH_FOR_A_WRITE).collect();
        let written = Mutex::new(Vec::new());
        let mut step = ENOUGH_FOR_A_WRITE;
        let recorded = in_steps(&entries, &mut step, |now| {
            let result = if now.len() > MOST {
                Err(Unavailable::new("too slow"))
            } else {
                written.lock().unwrap().extend_from_slice(now);
                Ok(())
            };
            ready(result).boxed()
        });
        recorded.await.expect("everything written");
        assert_eq!(written.into_inner().unwrap(), entries);
    }
}
