//! Waits for an unavailable store.
//!
//! A message that is returned to its queue would be redelivered at once, in a loop, so it is held
//! instead. The windows bound how much is held.

use std::time::Duration;

use backoff::{ExponentialBackoff, backoff::Backoff};
use roundtrip_model::{Decision, LogThrottle, retry::reconnect};
use roundtrip_store::Unavailable;
use tokio::time::{Instant, sleep};

/// How long a message is held. It is well below the 30 minutes after which RabbitMQ closes a
/// channel over an unacked delivery.
const HOLD: Duration = Duration::from_mins(5);

/// How long a message is snoozed after that.
const SNOOZE: Duration = Duration::from_secs(5);

/// Logged for every message while the store is unavailable.
static STORE_UNAVAILABLE: LogThrottle = LogThrottle::every(Duration::from_mins(1));

/// Repeats the write until the store accepts it. After too long it returns a snooze.
pub(crate) async fn until_taken<T, F>(
    what: &'static str,
    mut write: impl FnMut() -> F,
) -> Result<T, Decision>
where
    F: Future<Output = Result<T, Unavailable>>,
{
    let mut patience = Patience::new(what);
    loop {
        match write().await {
            Ok(done) => return Ok(done),
            Err(error) => patience.after(&error).await?,
        }
    }
}

/// The waits between the attempts of a write.
pub(crate) struct Patience {
    what: &'static str,
    deadline: Instant,
    waits: ExponentialBackoff,
}

impl Patience {
    pub(crate) fn new(what: &'static str) -> Self {
        Self {
            what,
            deadline: Instant::now() + HOLD,
            waits: reconnect(),
        }
    }

    /// Waits after a failed attempt.
    ///
    /// # Errors
    /// After too long, the decision to snooze.
    pub(crate) async fn after(&mut self, error: &Unavailable) -> Result<(), Decision> {
        if let Some(suppressed) = STORE_UNAVAILABLE.due(Instant::now().into_std()) {
            tracing::warn!(
                %error,
                what = self.what,
                suppressed,
                "the store did not accept the write; trying again"
            );
        }
        if Instant::now() >= self.deadline {
            return Err(Decision::Snooze(SNOOZE));
        }
        sleep(self.waits.next_backoff().unwrap_or(SNOOZE)).await;
        Ok(())
    }
}
