//! Journal entries that nobody can read.
//!
//! They stay in their dead queue, for nothing is lost by that and nobody knows yet what they say: a
//! newer Roundtrip may read them. What is done here is to say that they are there.

use std::time::Duration;

use roundtrip_broker::{Broker, Queue};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How often the queue is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Looks until `stop`, and says how many there are whenever there are more.
pub(crate) async fn watch(broker: &dyn Broker, stop: &CancellationToken) {
    let mut known = 0;
    loop {
        // A broker that is away says so itself.
        if let Ok(parcels) = broker.ready(Queue::JournalDead).await {
            if parcels > known {
                let queue = Queue::JournalDead.name();
                tracing::error!(parcels, queue, "journal.unreadable");
            }
            known = parcels;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(LOOK_EVERY) => {}
        }
    }
}
