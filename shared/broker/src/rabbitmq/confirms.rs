//! Whether RabbitMQ confirms the API's publishes.
//!
//! Invariant: a queue is stuck if a publish waits and no publish to it was answered for longer than
//! a caller waits. Callers then get an error with an unknown outcome, so the process is not ready
//! even though its connection is up.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::Queue;

/// The publishes that wait for their confirm.
#[derive(Debug)]
pub(super) struct Confirms {
    limit: Duration,
    outbound: Arc<Waiting>,
    callbacks: Arc<Waiting>,
    /// Publishes without a caller of the API; readiness ignores them.
    others: Arc<Waiting>,
}

/// The publishes to one queue, over all of its shards.
#[derive(Debug, Default)]
struct Waiting(Mutex<Progress>);

#[derive(Debug, Default)]
struct Progress {
    waiting: usize,
    /// When a publish was last answered, or the first waiting one was sent.
    since: Option<Instant>,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stuck_for(&self) -> Duration {
        let since = self.lock().since;
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// A waiting publish. It is dropped with its confirm or its channel.
#[derive(Debug)]
pub(super) struct Unconfirmed(Arc<Waiting>);

impl Drop for Unconfirmed {
    fn drop(&mut self) {
        let mut progress = self.0.lock();
        progress.waiting -= 1;
        progress.since = (progress.waiting > 0).then(Instant::now);
    }
}

impl Confirms {
    /// `limit`: how long a caller waits.
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            limit,
            outbound: Arc::default(),
            callbacks: Arc::default(),
            others: Arc::default(),
        }
    }

    fn waiting(&self, queue: Queue, new: bool) -> &Arc<Waiting> {
        match queue {
            Queue::Outbound if new => &self.outbound,
            Queue::Callbacks if new => &self.callbacks,
            _ => &self.others,
        }
    }

    /// Whether publishes of this kind are stuck.
    pub(super) fn is_stuck(&self, queue: Queue, new: bool) -> bool {
        self.waiting(queue, new).stuck_for() > self.limit
    }

    /// Records a publish; `new` if a caller of the API waits for it.
    pub(super) fn sent(&self, queue: Queue, new: bool) -> Unconfirmed {
        let waiting = self.waiting(queue, new);
        let mut progress = waiting.lock();
        progress.waiting += 1;
        progress.since.get_or_insert_with(Instant::now);
        Unconfirmed(Arc::clone(waiting))
    }

    /// The API's queue that is stuck, and for how long.
    pub(super) fn stuck(&self) -> Option<(Queue, Duration)> {
        [
            (Queue::Outbound, &self.outbound),
            (Queue::Callbacks, &self.callbacks),
        ]
        .into_iter()
        .map(|(queue, waiting)| (queue, waiting.stuck_for()))
        .find(|(_, stuck_for)| *stuck_for > self.limit)
    }

    /// The longest time that any queue is stuck.
    pub(super) fn longest(&self) -> Duration {
        let all = [&self.outbound, &self.callbacks, &self.others];
        let longest = all.into_iter().map(|waiting| waiting.stuck_for()).max();
        longest.unwrap_or_default()
    }

    /// Restarts the count after the broker had blocked the connection.
    pub(super) fn restart(&self) {
        for waiting in [&self.outbound, &self.callbacks, &self.others] {
            if let Some(since) = &mut waiting.lock().since {
                *since = Instant::now();
            }
        }
    }
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
        assert_eq!(confirms.stuck(), None);
        advance(LIMIT).await;
        assert_eq!(confirms.stuck(), Some((Queue::Outbound, LIMIT * 2)));
        drop(first);
        assert_eq!(confirms.stuck(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_publish_is_not_stuck_while_others_are_confirmed() {
        let confirms = Confirms::new(LIMIT);
        let _lost = confirms.sent(Queue::Outbound, true);
        for _ in 0..5 {
            advance(LIMIT).await;
            drop(confirms.sent(Queue::Outbound, true));
            assert_eq!(confirms.stuck(), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_queue_is_not_stuck() {
        let confirms = Confirms::new(LIMIT);
        drop(confirms.sent(Queue::Callbacks, true));
        advance(LIMIT * 9).await;
        assert_eq!(confirms.stuck(), None);
    }
}
