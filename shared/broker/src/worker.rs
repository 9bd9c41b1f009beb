//! The worker loop: takes a permit, then receives, handles and settles.
//!
//! Invariant: every delivery holds a permit, so at most `concurrency` are under way. Only the loop
//! settles, as the handler decided.

#[cfg(test)]
mod tests;

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures::FutureExt;
use roundtrip_model::{Decision, LogThrottle};
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    Consumer, Delivery, Message, Queue,
    metrics::{Decided, SETTLEMENTS, SETTLEMENTS_FAILED},
};

/// A role's work on one message.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Handles a message and decides how it is settled.
    async fn handle(&self, message: &Message) -> Decision;

    /// The decision for a message whose handler panicked: the panic counts as a failed attempt.
    async fn panicked(&self, message: &Message) -> Decision;
}

#[derive(Debug, Clone)]
pub struct Worker {
    /// The queue of its messages, also of those that come from the store.
    pub queue: Queue,
    pub concurrency: usize,
    /// How long deliveries under way may continue after the stop.
    pub drain: Duration,
}

impl Worker {
    /// Runs until the consumer ends or `stop` is cancelled, then waits for deliveries under way
    /// until the drain deadline. The rest is aborted and returns to its queue without counting an
    /// attempt.
    pub async fn run(
        self,
        mut consumer: Box<dyn Consumer>,
        handler: Arc<dyn Handler>,
        stop: CancellationToken,
    ) {
        let permits = Arc::new(Semaphore::new(self.concurrency));
        let mut under_way = JoinSet::new();
        loop {
            let permit = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                permit = Arc::clone(&permits).acquire_owned() => permit,
            };
            let Ok(permit) = permit else { break };
            let delivery = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                delivery = consumer.next() => delivery,
            };
            let Some(delivery) = delivery else { break };
            let (handler, queue) = (Arc::clone(&handler), self.queue);
            under_way.spawn(async move {
                work(queue, &*handler, delivery).await;
                drop(permit);
            });
            // Removes finished tasks from the set.
            while under_way.try_join_next().is_some() {}
        }
        // Before the drain, so that other processes can receive what the consumer still holds.
        drop(consumer);
        drain(under_way, self.drain).await;
    }
}

async fn drain(mut under_way: JoinSet<()>, deadline: Duration) {
    let all_done = async { while under_way.join_next().await.is_some() {} };
    if tokio::time::timeout(deadline, all_done).await.is_err() {
        tracing::warn!(
            deliveries = under_way.len(),
            "the drain's deadline has passed; unfinished deliveries return to their queue"
        );
        under_way.shutdown().await;
    }
}

/// When the broker is lost, every delivery under way fails to settle.
static NOT_SETTLED: LogThrottle = LogThrottle::new();

async fn work(queue: Queue, handler: &dyn Handler, delivery: Delivery) {
    let handling = AssertUnwindSafe(handler.handle(delivery.message()));
    let decision = match handling.catch_unwind().await {
        Ok(decision) => decision,
        Err(_panic) => {
            // The panic hook has logged the panic's message and location.
            handler.panicked(delivery.message()).await
        }
    };
    let id = delivery.message().id.clone();
    let decided = Decided::of(&decision);
    let Err(error) = delivery.settle(decision).await else {
        SETTLEMENTS.inc((queue, decided));
        return;
    };
    SETTLEMENTS_FAILED.inc(queue);
    if let Some(suppressed) = NOT_SETTLED.due(Instant::now()) {
        tracing::warn!(id, %error, suppressed, "not settled; the broker will deliver it again");
    }
}
