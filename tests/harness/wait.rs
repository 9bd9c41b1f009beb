//! Waiting for a condition. Tests never sleep: they wait for a condition, and a wait that fails
//! names it.

use std::time::Duration;

use anyhow::bail;
use tokio::time::{Instant, sleep};

/// The time limit on a condition. Far above the time needed on a busy machine, so only a failed
/// test reaches it.
pub const WAIT_LIMIT: Duration = Duration::from_mins(1);

/// The interval between checks of a condition.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until the condition returns a value.
pub async fn until<T>(
    what: impl std::fmt::Display,
    condition: impl AsyncFnMut() -> Option<T>,
) -> anyhow::Result<T> {
    until_within(WAIT_LIMIT, what, condition).await
}

/// The same, with another time limit.
pub async fn until_within<T>(
    limit: Duration,
    what: impl std::fmt::Display,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition().await {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("waited {limit:?} for {what}");
        }
        sleep(LOOK_EVERY).await;
    }
}
