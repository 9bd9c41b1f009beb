//! Waiting for a store that is away.
//!
//! Giving a parcel back instead would have it handed out again at once, in a circle; one that is
//! held only waits. The windows bound how much is held.

use std::time::Duration;

use backoff::backoff::Backoff;
use roundtrip_model::{Decision, LogThrottle, retry::reconnect};
use roundtrip_store::StoreError;
use tokio::time::{Instant, sleep};

/// How long a parcel is held. Well below the 30 minutes after which RabbitMQ closes a channel over
/// a delivery that was not settled.
const HOLD: Duration = Duration::from_mins(5);

/// How long a parcel is parked after that.
const PARK: Duration = Duration::from_secs(5);

/// Met by every parcel while the store is away.
static STORE_AWAY: LogThrottle = LogThrottle::every(Duration::from_mins(1));

/// Does it until the store has taken it; a parking decision where that takes too long.
pub(crate) async fn until_taken<T, F>(
    what: &'static str,
    mut write: impl FnMut() -> F,
) -> Result<T, Decision>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let deadline = Instant::now() + HOLD;
    let mut waits = reconnect();
    loop {
        let error = match write().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        if let Some(suppressed) = STORE_AWAY.due(Instant::now().into_std()) {
            tracing::warn!(%error, what, suppressed, "the store does not take it; waiting");
        }
        if Instant::now() >= deadline {
            return Err(Decision::Park(PARK));
        }
        sleep(waits.next_backoff().unwrap_or(PARK)).await;
    }
}
