//! The one worker loop: takes a permit, then receives, handles and settles.
//!
//! Invariant: no delivery is held without a permit, so at most `concurrency` are under way; and
//! the loop alone settles, by what the handler decided.

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

use crate::{Consumer, Delivery, Parcel};

/// Does a role's work with one parcel.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Handles a parcel and says what becomes of it.
    async fn handle(&self, parcel: &Parcel) -> Decision;

    /// What becomes of a parcel whose handling panicked: it counts as a failed try.
    async fn panicked(&self, parcel: &Parcel) -> Decision;
}

/// How a role works its queue.
#[derive(Debug, Clone)]
pub struct Worker {
    /// The most deliveries under way at once.
    pub concurrency: usize,
    /// How long deliveries that are under way may go on after the stop.
    pub drain: Duration,
}

impl Worker {
    /// Works until the consumer ends or `stop` is cancelled; then waits for what is under way, up
    /// to the drain's deadline. What is not done by then is aborted and goes back to its queue,
    /// at the cost of no try.
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
            let handler = Arc::clone(&handler);
            under_way.spawn(async move {
                work(&*handler, delivery).await;
                drop(permit);
            });
            // Only forgets tasks that have ended: their results are nothing.
            while under_way.try_join_next().is_some() {}
        }
        // Before the drain, so that what the consumer holds is free for other processes.
        drop(consumer);
        drain(under_way, self.drain).await;
    }
}

async fn drain(mut under_way: JoinSet<()>, deadline: Duration) {
    let all_done = async { while under_way.join_next().await.is_some() {} };
    if tokio::time::timeout(deadline, all_done).await.is_err() {
        tracing::warn!(
            deliveries = under_way.len(),
            "the drain's deadline has passed; what is under way goes back to its queue"
        );
        under_way.shutdown().await;
    }
}

/// Met by everything that is under way when the broker goes away.
static NOT_SETTLED: LogThrottle = LogThrottle::new();

async fn work(handler: &dyn Handler, delivery: Delivery) {
    let handling = AssertUnwindSafe(handler.handle(delivery.parcel()));
    let decision = match handling.catch_unwind().await {
        Ok(decision) => decision,
        Err(_panic) => {
            // The panic hook has logged the message and the place.
            handler.panicked(delivery.parcel()).await
        }
    };
    let id = delivery.parcel().id.clone();
    if let Err(error) = delivery.settle(decision).await
        && let Some(suppressed) = NOT_SETTLED.due(Instant::now())
    {
        tracing::warn!(id, %error, suppressed, "not settled; the broker will hand it out again");
    }
}
