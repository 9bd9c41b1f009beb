//! Unreadable journal entries.
//!
//! They stay in their dead queue, since a newer Roundtrip may be able to read them. This module
//! only logs that they are there.

use std::time::Duration;

use roundtrip_broker::{PublishError, Queue};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Until `stop`, logs the number of unreadable entries whenever it grows.
pub(crate) async fn watch<F: Future<Output = Result<u64, PublishError>>>(
    look: impl Fn() -> F,
    stop: &CancellationToken,
    mut tell: impl FnMut(u64),
) {
    let mut known = 0;
    loop {
        // An unavailable broker is logged elsewhere.
        if let Ok(messages) = look().await {
            if messages > known {
                tell(messages);
            }
            known = messages;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(LOOK_EVERY) => {}
        }
    }
}

pub(crate) fn log(messages: u64) {
    let queue = Queue::JournalDead.name();
    tracing::error!(messages, queue, "journal.unreadable");
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_growing_count_is_reported() {
        let unavailable = || Err(PublishError::Unavailable("for a moment".to_owned()));
        let looks = [
            Ok(0),
            Ok(2),
            Ok(2),
            unavailable(),
            Ok(2),
            Ok(3),
            Ok(1),
            Ok(2),
        ];
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
        let mut reported = Vec::new();
        watch(look, &stop, |messages| reported.push(messages)).await;
        assert_eq!(reported, [2, 3, 2]);
    }
}
