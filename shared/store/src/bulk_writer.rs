//! Writes what many callers have at once in few writes.
//!
//! Invariant: a caller gets its own result: success as soon as all of its items are written, whatever
//! happens to the items of others. A store writes hundreds of rows as fast as one, so items that wait
//! are written together. A store that is too slow for a write gets smaller ones.

use std::{collections::VecDeque, time::Duration};

use backoff::{ExponentialBackoff, backoff::Backoff};
use futures::future::BoxFuture;
use roundtrip_model::{LogThrottle, retry::reconnect};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep},
};

use crate::Unavailable;

/// A write takes no further page once it holds this many items.
const ENOUGH_FOR_A_WRITE: usize = 500;

/// How long a write to an unavailable store is repeated. It is well below the 30 minutes after which
/// RabbitMQ closes a channel over an unacked delivery.
const PATIENCE: Duration = Duration::from_mins(5);

/// Logged for every write while the store is unavailable.
static STORE_UNAVAILABLE: LogThrottle = LogThrottle::every(Duration::from_mins(1));

/// Writes items in bulk, and repeats a write until the store accepts it.
#[derive(Debug)]
pub struct BulkWriter<T> {
    pages: mpsc::Sender<Page<T>>,
}

/// The store was unavailable for too long. Some of the caller's items may have been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store was unavailable for more than {PATIENCE:?}")]
pub struct GaveUp;

#[derive(Debug)]
struct Page<T> {
    items: Vec<T>,
    written: oneshot::Sender<Result<(), GaveUp>>,
}

/// A caller whose items are written together with those of others.
struct Caller {
    /// The number of items up to the caller's last one.
    end: usize,
    written: oneshot::Sender<Result<(), GaveUp>>,
}

impl Caller {
    fn answer(self, result: Result<(), GaveUp>) {
        // A caller that is gone repeats its write.
        let _ = self.written.send(result);
    }
}

impl<T: Send + Sync + 'static> BulkWriter<T> {
    /// Starts the task that writes; at most `waiting` callers queue for it. `what` names the items
    /// in the log. Writing an item twice must be harmless.
    pub fn start(
        what: &'static str,
        waiting: u16,
        write: impl for<'a> Fn(&'a [T]) -> BoxFuture<'a, Result<(), Unavailable>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let (sender, pages) = mpsc::channel(usize::from(waiting.max(1)));
        tokio::spawn(run(what, pages, write));
        Self { pages: sender }
    }

    /// Writes these items.
    ///
    /// # Errors
    /// [`GaveUp`] if the store is unavailable for too long, or the task has ended.
    pub async fn write(&self, items: Vec<T>) -> Result<(), GaveUp> {
        let (written, result) = oneshot::channel();
        let page = Page { items, written };
        self.pages.send(page).await.map_err(|_ended| GaveUp)?;
        result.await.unwrap_or(Err(GaveUp))
    }
}

async fn run<T: Send + Sync>(
    what: &'static str,
    mut pages: mpsc::Receiver<Page<T>>,
    write: impl for<'a> Fn(&'a [T]) -> BoxFuture<'a, Result<(), Unavailable>>,
) {
    let mut step = ENOUGH_FOR_A_WRITE;
    while let Some(first) = pages.recv().await {
        let mut items = first.items;
        let mut callers = VecDeque::from([Caller {
            end: items.len(),
            written: first.written,
        }]);
        while items.len() < ENOUGH_FOR_A_WRITE
            && let Ok(page) = pages.try_recv()
        {
            items.extend(page.items);
            callers.push_back(Caller {
                end: items.len(),
                written: page.written,
            });
        }
        in_steps(what, &items, callers, &mut step, &write).await;
    }
}

/// Writes in steps that the store manages: a step that fails is halved, and doubled again when one
/// succeeds. Repeated at full size, a write that outlasts the store's time limit would never
/// succeed.
async fn in_steps<T: Sync>(
    what: &'static str,
    items: &[T],
    mut callers: VecDeque<Caller>,
    step: &mut usize,
    write: &impl for<'a> Fn(&'a [T]) -> BoxFuture<'a, Result<(), Unavailable>>,
) {
    let deadline = Instant::now() + PATIENCE;
    let mut waits: ExponentialBackoff = reconnect();
    let mut left = items;
    loop {
        let written = items.len() - left.len();
        while let Some(caller) = callers.pop_front() {
            if caller.end > written {
                callers.push_front(caller);
                break;
            }
            caller.answer(Ok(()));
        }
        if left.is_empty() {
            return;
        }
        let (now, later) = left.split_at(left.len().min(*step));
        let Err(error) = write(now).await else {
            left = later;
            *step = (*step * 2).min(ENOUGH_FOR_A_WRITE);
            continue;
        };
        *step = (now.len() / 2).max(1);
        if let Some(suppressed) = STORE_UNAVAILABLE.due(Instant::now().into_std()) {
            tracing::warn!(
                %error,
                what,
                suppressed,
                "the store did not accept the write; trying again"
            );
        }
        if Instant::now() >= deadline {
            break;
        }
        sleep(waits.next_backoff().unwrap_or(waits.max_interval)).await;
    }
    for caller in callers {
        caller.answer(Err(GaveUp));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::ready,
        sync::{Arc, Mutex},
    };

    use futures::FutureExt;

    use super::*;

    /// A writer to a store that accepts the writes for which this holds, and what was written.
    fn writer(
        accepts: impl Fn(&[usize]) -> bool + Send + Sync + 'static,
    ) -> (BulkWriter<usize>, Arc<Mutex<Vec<usize>>>) {
        let written = Arc::new(Mutex::new(Vec::new()));
        let store = Arc::clone(&written);
        let writer = BulkWriter::start("numbers", 3, move |now: &[usize]| {
            let result = if accepts(now) {
                store.lock().unwrap().extend_from_slice(now);
                Ok(())
            } else {
                Err(Unavailable::new("not accepted"))
            };
            ready(result).boxed()
        });
        (writer, written)
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_too_slow_for_a_large_write_gets_smaller_ones() {
        let (writer, written) = writer(|now| now.len() <= 7);
        let items: Vec<usize> = (0..ENOUGH_FOR_A_WRITE).collect();
        assert_eq!(writer.write(items.clone()).await, Ok(()));
        assert_eq!(*written.lock().unwrap(), items);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_is_never_accepted_ends_with_an_error() {
        let (writer, _written) = writer(|_| false);
        assert_eq!(writer.write(vec![1]).await, Err(GaveUp));
    }

    /// The three callers' items are written together, and the store never accepts the 4.
    #[tokio::test(start_paused = true)]
    async fn callers_whose_items_are_written_succeed_though_others_give_up() {
        let (writer, written) = writer(|now| !now.contains(&4));
        let results = tokio::join!(
            writer.write(vec![1, 2]),
            writer.write(vec![3, 4]),
            writer.write(vec![5])
        );
        assert_eq!(results, (Ok(()), Err(GaveUp), Err(GaveUp)));
        assert_eq!(*written.lock().unwrap(), [1, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_with_written_items_does_not_wait_for_others() {
        let (writer, _written) = writer(|now| !now.contains(&2));
        let began = Instant::now();
        let first = async {
            assert_eq!(writer.write(vec![1]).await, Ok(()));
            began.elapsed()
        };
        let (took, _) = tokio::join!(first, writer.write(vec![2]));
        assert!(took < PATIENCE, "{took:?}");
    }
}
