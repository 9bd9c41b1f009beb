//! Whether RabbitMQ confirms the API's publishes.
//!
//! Invariant: a queue is stuck if publishes to it wait, and no confirm has come for longer than the
//! publish timeout. The outcome of such a publish is unknown, so the process is not ready and
//! refuses further publishes to the queue. When the gateway replaces the AMQP channel the queue stays
//! stuck until a publish to it is confirmed.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::Instant};

use crate::{PublishError, Queue};

/// Maximum number of unconfirmed publishes of new messages, of answers, and of everything else. More
/// would gain no speed, and this bounds the memory if the broker stops confirming.
pub(super) const MAX_IN_FLIGHT: usize = 2048;

#[derive(Debug)]
pub(super) struct Confirms {
    outbound: Arc<Waiting>,
    callbacks: Arc<Waiting>,
    /// Publishes without a caller of the API; readiness ignores them.
    others: Arc<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    limit: Duration,
    permits: Arc<Semaphore>,
    progress: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    waiting: usize,
    /// When a publish was last confirmed, or the first waiting one was sent.
    since: Option<Instant>,
}

impl Waiting {
    fn new(limit: Duration) -> Arc<Self> {
        Arc::new(Self {
            limit,
            permits: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            progress: Mutex::default(),
        })
    }

    fn stuck(&self) -> Option<(Duration, usize)> {
        let progress = self.progress.lock();
        let silent = progress.since?.elapsed();
        (silent > self.limit).then_some((silent, progress.waiting))
    }
}

#[derive(Debug)]
pub(super) struct Unconfirmed {
    queue: Arc<Waiting>,
    is_confirmed: bool,
}

impl Unconfirmed {
    pub(super) fn confirmed(mut self) {
        self.is_confirmed = true;
    }
}

impl Drop for Unconfirmed {
    fn drop(&mut self) {
        let is_stuck = self.queue.stuck().is_some();
        let mut progress = self.queue.progress.lock();
        progress.waiting -= 1;
        if self.is_confirmed {
            progress.since = (progress.waiting > 0).then(Instant::now);
        } else if progress.waiting == 0 && !is_stuck {
            progress.since = None;
        }
    }
}

impl Confirms {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            outbound: Waiting::new(limit),
            callbacks: Waiting::new(limit),
            others: Waiting::new(limit),
        }
    }

    pub(super) fn limit(&self) -> Duration {
        self.others.limit
    }

    fn waiting(&self, queue: Queue, new: bool) -> &Arc<Waiting> {
        match queue {
            Queue::Outbound if new => &self.outbound,
            Queue::Callbacks if new => &self.callbacks,
            _ => &self.others,
        }
    }

    pub(super) fn permits(&self, queue: Queue, new: bool) -> Arc<Semaphore> {
        Arc::clone(&self.waiting(queue, new).permits)
    }

    pub(super) fn is_stuck(&self, queue: Queue, new: bool) -> bool {
        self.waiting(queue, new).stuck().is_some()
    }

    /// Refuses a new message or answer for a stuck queue while another publish to it waits. The
    /// waiting one is the probe. RabbitMQ may still store it, and its caller repeats it after the
    /// timeout, so each further one could become a duplicate.
    pub(super) fn check(&self, queue: Queue, new: bool) -> Result<(), PublishError> {
        let waiting = self.waiting(queue, new);
        match waiting.stuck() {
            Some((silent, 1..)) if !Arc::ptr_eq(waiting, &self.others) => {
                Err(PublishError::Refused(without_confirms(queue, silent)))
            }
            _ => Ok(()),
        }
    }

    /// Records a publish; `new` if a caller of the API waits for it.
    pub(super) fn sent(&self, queue: Queue, new: bool) -> Unconfirmed {
        let waiting = self.waiting(queue, new);
        let mut progress = waiting.progress.lock();
        progress.waiting += 1;
        progress.since.get_or_insert_with(Instant::now);
        drop(progress);
        Unconfirmed {
            queue: Arc::clone(waiting),
            is_confirmed: false,
        }
    }

    pub(super) fn problem(&self) -> Option<String> {
        let queues = [
            (Queue::Outbound, &self.outbound),
            (Queue::Callbacks, &self.callbacks),
        ];
        queues.into_iter().find_map(|(queue, waiting)| {
            let (silent, _) = waiting.stuck()?;
            Some(without_confirms(queue, silent))
        })
    }

    pub(super) fn longest(&self) -> Duration {
        let all = [&self.outbound, &self.callbacks, &self.others];
        let stuck = all.into_iter().filter_map(|waiting| waiting.stuck());
        stuck.map(|(silent, _)| silent).max().unwrap_or_default()
    }

    /// Restarts the count, for a new connection and after the broker had blocked this one.
    pub(super) fn restart(&self) {
        for waiting in [&self.outbound, &self.callbacks, &self.others] {
            let mut progress = waiting.progress.lock();
            progress.since = (progress.waiting > 0).then(Instant::now);
        }
    }
}

fn without_confirms(queue: Queue, silent: Duration) -> String {
    format!(
        "it has confirmed no publish to {} for {} s",
        queue.name(),
        silent.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_queue_is_stuck_from_the_limit_until_a_confirm() {
        let confirms = Confirms::new(LIMIT);
        let first = confirms.sent(Queue::Outbound, true);
        advance(LIMIT).await;
        assert_eq!(confirms.problem(), None);
        advance(LIMIT).await;
        assert!(confirms.problem().is_some());
        first.confirmed();
        assert_eq!(confirms.problem(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_queue_takes_one_publish_after_its_channel_is_left() {
        let confirms = Confirms::new(LIMIT);
        let takes_one = || confirms.check(Queue::Outbound, true).is_ok();
        let lost = confirms.sent(Queue::Outbound, true);
        advance(LIMIT * 2).await;
        assert!(!takes_one());
        drop(lost);
        assert!(confirms.problem().is_some());
        assert!(takes_one());
        let next = confirms.sent(Queue::Outbound, true);
        assert!(!takes_one());
        next.confirmed();
        assert!(takes_one());
        assert_eq!(confirms.problem(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_early_loss_of_a_channel_makes_no_queue_stuck() {
        let confirms = Confirms::new(LIMIT);
        drop(confirms.sent(Queue::Outbound, true));
        advance(LIMIT * 9).await;
        assert_eq!(confirms.problem(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_publish_is_not_stuck_while_others_are_confirmed() {
        let confirms = Confirms::new(LIMIT);
        let _lost = confirms.sent(Queue::Outbound, true);
        for _ in 0..5 {
            advance(LIMIT).await;
            confirms.sent(Queue::Outbound, true).confirmed();
            assert_eq!(confirms.problem(), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_queue_is_not_stuck() {
        let confirms = Confirms::new(LIMIT);
        confirms.sent(Queue::Callbacks, true).confirmed();
        advance(LIMIT * 9).await;
        assert_eq!(confirms.problem(), None);
    }
}
