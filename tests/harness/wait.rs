//! Waiting for a condition. Tests do not sleep; they wait for what they want to see, and a wait
//! that ends without it says what it was.

use std::time::Duration;

use anyhow::bail;
use tokio::time::{Instant, sleep};

/// How long a condition may take to become true. Far beyond what anything here takes on a machine
/// that is busy building; it ends a test that has failed already.
pub const WAIT_LIMIT: Duration = Duration::from_mins(1);

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until the condition gives a value.
///
/// # Errors
/// If it does not within [`WAIT_LIMIT`]: what was waited for.
pub async fn until<T>(
    what: impl std::fmt::Display,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + WAIT_LIMIT;
    loop {
        if let Some(value) = condition().await {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("waited {WAIT_LIMIT:?} for {what}");
        }
        sleep(LOOK_EVERY).await;
    }
}
