//! The channel that publishes to one RabbitMQ queue.
//!
//! Invariant: every confirm of a channel is seen, in order, before a caller gets its reply (see
//! `returned`). An error that closes a channel fails only the publishes on that channel.

use std::{pin::pin, time::Duration};

use backoff::backoff::Backoff;
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use roundtrip_model::LogThrottle;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::{
    channel::OpenChannel,
    confirming::{confirming, publish},
    large::{LARGE, LargeChannels},
    link::Link,
    link_error::LinkError,
    publisher::{Job, Publisher},
    refusals::{self, Refusal},
    returned::{Completed, Returned, reply},
    topology::Topology,
};
use crate::PublishError;

/// How long a channel may leave its publishes without a confirm, and at least twice as long as a
/// caller waits. RabbitMQ (3.10) holds a channel's first publish for 65 s if the queue's leader
/// hangs, even after it is back. A new channel finds the next leader.
const CONFIRM_PATIENCE: Duration = Duration::from_secs(10);

/// How often the connection is polled, in case it ended without an event.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Logged for every batch with a returned message.
static RETURNED: LogThrottle = LogThrottle::every(Duration::from_mins(1));

/// How many jobs are taken from the callers at a time.
const TAKE_AT_ONCE: usize = 64;

/// Publishes to one queue, on one channel after another.
pub(super) struct QueueChannel<'a> {
    pub(super) link: &'a Link,
    pub(super) publisher: &'a Publisher,
    pub(super) topology: &'a Topology,
    pub(super) large: &'a LargeChannels,
    /// Notified when the queue or its exchange is missing.
    pub(super) missing: &'a Notify,
    pub(super) jobs: mpsc::UnboundedReceiver<Job>,
}

impl QueueChannel<'_> {
    pub(super) async fn run(mut self) -> LinkError {
        let mut waits = refusals::waits();
        let mut logged = None;
        loop {
            let channel = match confirming(self.link).await {
                Ok(channel) => channel,
                Err(reason) => return reason,
            };
            let since = Instant::now();
            let reason = match self.work(&channel).await {
                End::Connection(reason) => return reason,
                End::Channel(reason) => reason,
            };
            if since.elapsed() > refusals::STEADY {
                waits.reset();
                logged = None;
            }
            if logged != Some(reason.reply_code()) {
                logged = Some(reason.reply_code());
                tracing::warn!(
                    error = %reason,
                    remedy = Refusal::from(&reason).advice(),
                    "a publishing AMQP channel failed; opening another"
                );
            }
            if let LinkError::TooSlow { .. } = reason {
                continue;
            }
            // The exchange may have been deleted.
            self.missing.notify_one();
            self.refuse(&reason, waits.next_backoff().unwrap_or(waits.max_interval))
                .await;
        }
    }

    async fn refuse(&mut self, reason: &LinkError, wait: Duration) {
        let mut over = pin!(sleep(wait));
        loop {
            tokio::select! {
                () = &mut over => return,
                Some(job) = self.jobs.recv() => {
                    job.reply(Err(PublishError::Refused(reason.to_string())));
                }
            }
        }
    }

    async fn work(&mut self, channel: &OpenChannel) -> End {
        let Self {
            link,
            publisher,
            topology,
            large,
            missing,
            ref mut jobs,
        } = *self;
        let mut in_flight = FuturesUnordered::new();
        let mut large_in_flight = FuturesUnordered::new();
        let mut taken = Vec::with_capacity(TAKE_AT_ONCE);
        let mut returned = Returned::default();
        let patience = CONFIRM_PATIENCE.max(publisher.confirms.limit() * 2);
        let mut last_confirm = Instant::now();
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                Some(first) = in_flight.next() => {
                    // Collect everything that lapin has completed before replying to any caller:
                    // lapin may attach a returned message to an earlier confirm than its own.
                    let mut completed = vec![first];
                    last_confirm = Instant::now();
                    while let Some(Some(next)) = in_flight.next().now_or_never() {
                        completed.push(next);
                    }
                    match reply(completed, &mut returned, topology) {
                        Ok(true) => came_back(missing),
                        Ok(false) => {}
                        Err(error) => return End::of(link, error),
                    }
                }
                Some(true) = large_in_flight.next() => came_back(missing),
                _ = jobs.recv_many(&mut taken, TAKE_AT_ONCE) => {
                    if in_flight.is_empty() {
                        last_confirm = Instant::now();
                    }
                    for job in taken.drain(..) {
                        // Since then the caller may have given up, or the broker may have blocked.
                        if job.is_given_up() {
                            continue;
                        }
                        match publisher.check(topology, job.outgoing.to) {
                            Ok(()) if job.outgoing.body.len() >= LARGE => {
                                large_in_flight.push(large.send(link, publisher, topology, job));
                            }
                            Ok(()) => in_flight.push(send(channel, publisher, topology, job)),
                            Err(error) => job.reply(Err(error)),
                        }
                    }
                }
                _ = look.tick() => {
                    if !channel.status().connected() {
                        return End::of(link, LinkError::Ended);
                    }
                    if in_flight.is_empty() || publisher.status.check().is_err() {
                        last_confirm = Instant::now();
                    } else if last_confirm.elapsed() > patience {
                        let late = LinkError::TooSlow {
                            what: "a confirm",
                            limit: patience,
                        };
                        return End::of(link, late);
                    }
                }
            }
        }
    }
}

enum End {
    Connection(LinkError),
    Channel(LinkError),
}

impl End {
    fn of(link: &Link, reason: LinkError) -> Self {
        let closed_connection = reason.reply_code().is_some() && !reason.closed_channel();
        if closed_connection || !link.is_open() {
            Self::Connection(reason)
        } else {
            Self::Channel(reason)
        }
    }
}

/// Has the queue of a returned message declared again.
fn came_back(missing: &Notify) {
    if let Some(suppressed) = RETURNED.due(Instant::now().into_std()) {
        tracing::info!(
            suppressed,
            "RabbitMQ returned a message because its queue is missing; declaring the queue again"
        );
    }
    missing.notify_one();
}

async fn send(
    channel: &OpenChannel,
    publisher: &Publisher,
    topology: &Topology,
    job: Job,
) -> Completed {
    let result = publish(channel, publisher, topology, &job.outgoing).await;
    Completed { job, result }
}
