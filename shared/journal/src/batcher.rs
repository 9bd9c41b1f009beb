//! The task that batches entries and publishes them.
//!
//! A batch leaves at once if none is under way, so a single entry is never delayed. Otherwise
//! entries collect until the previous batch is confirmed, the batch is full, or [`LINGER`] has
//! passed.

use std::time::Duration;

use backoff::backoff::Backoff;
use futures::{StreamExt, stream::FuturesUnordered};
use roundtrip_broker::{PublishError, Route, SharedBroker};
use roundtrip_model::retry::reconnect;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::batch::{EntryBatch, Pending};

/// The longest time that a batch waits for earlier ones.
const LINGER: Duration = Duration::from_millis(100);

const MAX_UNDER_WAY: usize = 4;

/// Runs until `stop`, or until every [`Journal`](crate::Journal) is dropped; then until everything
/// is confirmed.
pub(crate) async fn run(
    broker: SharedBroker,
    mut inbox: mpsc::UnboundedReceiver<Pending>,
    stop: CancellationToken,
) {
    let mut under_way = FuturesUnordered::new();
    let mut gathering: Option<EntryBatch> = None;
    let mut ended = false;
    loop {
        let leaves = |batch: &mut EntryBatch| {
            under_way.is_empty()
                || under_way.len() < MAX_UNDER_WAY
                    && (ended || batch.is_full() || batch.since.elapsed() >= LINGER)
        };
        if let Some(batch) = gathering.take_if(leaves) {
            under_way.push(publish(&broker, batch));
            continue;
        }
        if ended && gathering.is_none() && under_way.is_empty() {
            return;
        }
        let now = Instant::now();
        let full = gathering.as_ref().is_some_and(EntryBatch::is_full);
        let waits_until = gathering
            .as_ref()
            .filter(|_| under_way.len() < MAX_UNDER_WAY)
            .map(|batch| batch.since + LINGER);
        tokio::select! {
            Some(()) = under_way.next() => {}
            entry = inbox.recv(), if !ended && !full => match entry {
                Some(entry) => gather(&mut gathering, entry, &mut inbox),
                None => ended = true,
            },
            () = sleep_until(waits_until.unwrap_or(now)), if waits_until.is_some() => {}
            // Entries sent before the close are still received.
            () = stop.cancelled(), if !inbox.is_closed() => inbox.close(),
        }
    }
}

fn gather(
    gathering: &mut Option<EntryBatch>,
    entry: Pending,
    inbox: &mut mpsc::UnboundedReceiver<Pending>,
) {
    let batch = match gathering {
        Some(batch) => {
            batch.push(entry);
            batch
        }
        None => gathering.insert(EntryBatch::of(entry)),
    };
    while !batch.is_full() {
        let Ok(entry) = inbox.try_recv() else { break };
        batch.push(entry);
    }
}

/// Publishes the batch until it is confirmed, and wakes the waiting callers. A batch that exceeds
/// the broker's size limit is published in parts.
async fn publish(broker: &SharedBroker, batch: EntryBatch) {
    let mut left = vec![batch];
    while let Some(batch) = left.pop() {
        let Err(batch) = publish_whole(broker, batch).await else {
            continue;
        };
        match batch.split() {
            Ok((first, second)) => left.extend([second, first]),
            Err(entry) => {
                tracing::error!(
                    "a journal entry is larger than the broker accepts, and its message's timeline \
                     lacks it; raise RabbitMQ's max_message_size"
                );
                entry.confirmed();
            }
        }
    }
}

/// Returns the batch if it exceeds the broker's size limit.
async fn publish_whole(broker: &SharedBroker, batch: EntryBatch) -> Result<(), EntryBatch> {
    let Some(message) = batch.message() else {
        return Ok(());
    };
    let mut waits = reconnect();
    let mut complained = false;
    while let Err(error) = broker.publish(Route::Journal, message.clone()).await {
        if matches!(error, PublishError::TooLarge) {
            return Err(batch);
        }
        if !complained {
            complained = true;
            tracing::warn!(entries = batch.len(), %error, "journal entries wait for the broker");
        }
        sleep(waits.next_backoff().unwrap_or(waits.max_interval)).await;
    }
    if complained {
        tracing::info!(
            entries = batch.len(),
            "the broker accepted the journal entries"
        );
    }
    batch.confirmed();
    Ok(())
}
