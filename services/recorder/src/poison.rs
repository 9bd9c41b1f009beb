//! Journal entries that nobody can read.
//!
//! They stay in their dead queue, for nothing is lost by that and nobody knows yet what they say: a
//! newer Roundtrip may read them. What is done here is to say that they are there.

use std::time::Duration;

use roundtrip_broker::{PublishError, Queue};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How often the queue is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Looks until `stop` how many are there, and tells it whenever there are more.
pub(crate) async fn watch<F: Future<Output = Result<u64, PublishError>>>(
    look: impl Fn() -> F,
    stop: &CancellationToken,
    mut tell: impl FnMut(u64),
) {
    let mut known = 0;
    loop {
        // A broker that is away says so itself.
        if let Ok(parcels) = look().await {
            if parcels > known {
                tell(parcels);
            }
            known = parcels;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(LOOK_EVERY) => {}
        }
    }
}

/// Tells an operator.
pub(crate) fn log(parcels: u64) {
    let queue = Queue::JournalDead.name();
    tracing::error!(parcels, queue, "journal.unreadable");
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn more_are_told_once_and_fewer_not_at_all() {
        let away = || Err(PublishError::Away("for a moment".to_owned()));
        let looks = [Ok(0), Ok(2), Ok(2), away(), Ok(2), Ok(3), Ok(1), Ok(2)];
        let looks = RefCell::new(looks.into_iter());
        let stop = CancellationToken::new();
        let look = || {
            let found = looks.borrow_mut().next();
            async {
                found.unwrap_or_else(|| {
                    stop.cancel();
                    Ok(0)
                })
            }
        };
        let mut told = Vec::new();
        watch(look, &stop, |parcels| told.push(parcels)).await;
        assert_eq!(told, [2, 3, 2]);
    }
}
