//! The task of a publishing connection. It uses a channel for each RabbitMQ queue (see
//! `queue_channel`): a queue whose leader hangs blocks its channel, and nothing else.
//!
//! Invariant: publishing waits for a declare only in a process that has not declared anything yet.

use std::{collections::HashMap, convert::Infallible, pin::pin, sync::Arc, time::Duration};

use backoff::backoff::Backoff;
use futures::{StreamExt, future::OptionFuture, stream::FuturesUnordered};
use lapin::{Event, types::ShortString};
use roundtrip_model::{LogThrottle, retry::reconnect};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    endpoint::Endpoint,
    large::LargeChannels,
    link::{Events, Link},
    link_error::LinkError,
    publisher::{Job, Publisher},
    queue_channel::{LOOK_EVERY, QueueChannel},
    refusals,
    topology::Topology,
};
use crate::metrics::Purpose;

/// The pause before a missing queue is declared again. RabbitMQ 3.10.8 does not notify the
/// consumers of a deleted quorum queue if the queue is back within about 30 ms. They would wait for
/// deliveries forever.
const REDECLARE_AFTER: Duration = Duration::from_millis(500);

/// How long publishing waits for the first declare of a process.
const DECLARE_PATIENCE: Duration = Duration::from_secs(5);

/// How long it waits for a later one. A cluster with a node that hangs does not answer a
/// `queue.bind`, even of queues that exist and accept messages.
const REDECLARE_PATIENCE: Duration = Duration::from_millis(500);

/// Logged for every failed declare.
static NOT_DECLARED: LogThrottle = LogThrottle::every(Duration::from_mins(1));

/// The limit on a confirm. A connection that has waiting publishes and no confirm for this long is
/// closed. Another node may do better, and the waiting messages would stay in memory.
const CONFIRM_LIMIT: Duration = Duration::from_mins(1);

pub(super) struct Pump {
    pub(super) publisher: Arc<Publisher>,
    pub(super) endpoint: Endpoint,
    pub(super) topology: Arc<Topology>,
    pub(super) jobs: mpsc::UnboundedReceiver<Job>,
    /// Fires after the first connection attempt, whether it succeeded or failed.
    pub(super) first_attempt: Option<oneshot::Sender<()>>,
    pub(super) declared: bool,
}

impl Pump {
    pub(super) async fn run(mut self, closed: CancellationToken) {
        let mut waits = reconnect();
        loop {
            let connected = tokio::select! {
                () = closed.cancelled() => break,
                connected = Link::connect(&self.endpoint, Purpose::Publish) => connected,
            };
            let reason = match connected {
                Ok((link, mut events)) => {
                    waits.reset();
                    tokio::select! {
                        () = closed.cancelled() => {
                            link.close().await;
                            break;
                        }
                        reason = self.serve(&link, &mut events) => reason,
                    }
                }
                Err(reason) => reason,
            };
            let first = self.first_attempt.take();
            self.publisher.status.unavailable(&reason, first.is_some());
            drop(first);
            tokio::select! {
                () = closed.cancelled() => break,
                () = sleep(waits.next_backoff().unwrap_or(waits.max_interval)) => {}
            }
        }
        self.publisher.status.closed();
    }

    async fn serve(&mut self, link: &Link, events: &mut Events) -> LinkError {
        let patience = if self.declared {
            REDECLARE_PATIENCE
        } else {
            DECLARE_PATIENCE
        };
        let (publisher, topology) = (Arc::clone(&self.publisher), Arc::clone(&self.topology));
        let mut declaring = Box::pin(declare(link, &publisher, &topology));
        let unfinished = match timeout(patience, &mut declaring).await {
            Ok(Ok(())) => {
                self.declared = true;
                None
            }
            Ok(Err(reason)) => return reason,
            Err(_) => Some(declaring),
        };
        self.publisher.confirms.restart();
        self.publisher.status.connected(&link.node());
        drop(self.first_attempt.take());
        let missing = Notify::new();
        tokio::select! {
            reason = watch(link, &publisher, events) => reason,
            reason = self.publish(link, &missing) => reason,
            never = keep_declared(unfinished, link, &publisher, &topology, &missing) => match never {},
        }
    }

    /// Passes each job to the channel of its queue, which is opened with the first job.
    async fn publish(&mut self, link: &Link, missing: &Notify) -> LinkError {
        let large = LargeChannels::new();
        let mut queues: HashMap<ShortString, mpsc::UnboundedSender<Job>> = HashMap::new();
        let mut channels = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(reason) = channels.next() => return reason,
                Some(job) = self.jobs.recv() => {
                    let queue = self.topology.queue(job.outgoing.to);
                    if !queues.contains_key(queue) {
                        // Unbounded, yet it holds at most as many jobs as there are permits.
                        let (sender, jobs) = mpsc::unbounded_channel();
                        queues.insert(queue.clone(), sender);
                        channels.push(
                            QueueChannel {
                                link,
                                publisher: &self.publisher,
                                topology: &self.topology,
                                large: &large,
                                missing,
                                jobs,
                            }
                            .run(),
                        );
                    }
                    // The receiver lives as long as this function.
                    let _ = queues[queue].send(job);
                }
            }
        }
    }
}

async fn watch(link: &Link, publisher: &Publisher, events: &mut Events) -> LinkError {
    let mut silent = pin!(link.silent());
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Event::ConnectionBlocked(reason)) => publisher.status.blocked(reason),
                Some(Event::ConnectionUnblocked) => {
                    publisher.confirms.restart();
                    publisher.status.unblocked();
                }
                // A channel's error is handled where the channel is used.
                Some(Event::Error(error)) if !error.is_amqp_soft_error() => return error.into(),
                Some(_) => {}
                None => return LinkError::Ended,
            },
            reason = &mut silent => return reason,
            _ = look.tick() => {
                if !link.is_open() {
                    return LinkError::Ended;
                }
                let stuck_for = publisher.confirms.longest();
                if publisher.status.check().is_ok() && stuck_for > CONFIRM_LIMIT {
                    return LinkError::TooSlow {
                        what: "a confirm",
                        limit: CONFIRM_LIMIT,
                    };
                }
            }
        }
    }
}

/// Declares again what was refused, at intervals, and everything when something is `missing`.
async fn keep_declared(
    unfinished: Option<impl Future<Output = Result<(), LinkError>>>,
    link: &Link,
    publisher: &Publisher,
    topology: &Topology,
    missing: &Notify,
) -> Infallible {
    let mut waits = refusals::waits();
    let mut declared = OptionFuture::from(unfinished).await.unwrap_or(Ok(()));
    loop {
        if let Err(error) = &declared
            && let Some(suppressed) = NOT_DECLARED.due(Instant::now().into_std())
        {
            tracing::warn!(%error, suppressed, "the queues could not be declared again");
        }
        let is_missing = if declared.is_ok() && publisher.refusals.is_empty() {
            waits.reset();
            missing.notified().await;
            true
        } else {
            let wait = waits.next_backoff().unwrap_or(waits.max_interval);
            timeout(wait, missing.notified()).await.is_ok()
        };
        if is_missing {
            sleep(REDECLARE_AFTER).await;
        }
        declared = declare(link, publisher, topology).await;
    }
}

async fn declare(link: &Link, publisher: &Publisher, topology: &Topology) -> Result<(), LinkError> {
    let refused = refusals::declare(link, topology).await?;
    publisher.refusals.replace(refused);
    Ok(())
}
