//! The task of the publishing connection. It uses one channel with confirms, and some for large
//! messages.
//!
//! Invariant: the task sees every confirm of a channel, in order, before it answers a caller (see
//! `returned`). An error that closes a channel fails only the publishes on that channel.

use std::{pin::pin, sync::Arc, time::Duration};

use backoff::backoff::Backoff;
use futures::{
    FutureExt, StreamExt,
    future::{Fuse, FusedFuture},
    stream::FuturesUnordered,
};
use lapin::{
    Confirmation, Event,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use roundtrip_model::retry::reconnect;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    channel::OpenChannel,
    endpoint::Endpoint,
    large::{LARGE, LargeChannels},
    link::{Events, Link, LinkError, limited},
    publisher::{Job, Publisher},
    refusals::{self, Refusal},
    returned::{Completed, Returned, answer},
    topology::Topology,
    wire::Outgoing,
};
use crate::PublishError;

/// How many jobs are taken from the callers at a time.
const TAKE_AT_ONCE: usize = 64;

/// The pause before a missing queue is declared again. RabbitMQ 3.10.8 does not notify the
/// consumers of a deleted quorum queue if the queue is back within about 30 ms. They would wait for
/// deliveries forever.
const REDECLARE_AFTER: Duration = Duration::from_millis(500);

/// The limit on the answer to a simple call.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// The limit on a confirm. A connection that has waiting publishes and no confirm for this long is
/// closed. Another node may do better, and the waiting messages would stay in memory.
const CONFIRM_LIMIT: Duration = Duration::from_mins(1);

/// How often the connection is polled, in case it ended without an event.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The task's side.
pub(super) struct Pump {
    pub(super) publisher: Arc<Publisher>,
    pub(super) endpoint: Endpoint,
    pub(super) topology: Arc<Topology>,
    pub(super) jobs: mpsc::UnboundedReceiver<Job>,
    /// Fires after the first connection attempt, whether it succeeded or failed.
    pub(super) first_attempt: Option<oneshot::Sender<()>>,
}

impl Pump {
    /// Keeps a connection up and publishes on it, until `closed`.
    pub(super) async fn run(mut self, closed: CancellationToken) {
        let mut waits = reconnect();
        loop {
            let connected = tokio::select! {
                () = closed.cancelled() => break,
                connected = self.connect() => connected,
            };
            let reason = match connected {
                Ok((link, mut events)) => {
                    waits.reset();
                    self.publisher.status.connected(&link.node());
                    drop(self.first_attempt.take());
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

    /// Connects, and declares everything that is not refused.
    async fn connect(&self) -> Result<(Link, Events), LinkError> {
        let (link, events) = Link::connect(&self.endpoint, "publish").await?;
        let refused = refusals::declare(&link, &self.topology).await?;
        self.publisher.refusals.replace(refused);
        Ok((link, events))
    }

    /// Publishes on one channel after another until the connection is lost, and returns why.
    async fn serve(&mut self, link: &Link, events: &mut Events) -> LinkError {
        let mut waits = refusals::waits();
        let mut logged = None;
        loop {
            let channel = match confirming(link).await {
                Ok(channel) => channel,
                Err(reason) => return reason,
            };
            let since = Instant::now();
            let reason = match self.work(link, &channel, events).await {
                End::Connection(reason) => return reason,
                End::Channel(reason) => reason,
            };
            if since.elapsed() > refusals::STEADY {
                waits.reset();
                logged = None;
            }
            let refusal = Refusal::from(&reason);
            if logged != Some(reason.reply_code()) {
                logged = Some(reason.reply_code());
                tracing::warn!(
                    error = %reason,
                    remedy = refusal.advice(),
                    "RabbitMQ closed the channel that publishes; opening another"
                );
            }
            let wait = waits.next_backoff().unwrap_or(waits.max_interval);
            if let Err(reason) = self.refuse(&reason, wait, events).await {
                return reason;
            }
            // The exchange may have been deleted.
            match refusals::declare(link, &self.topology).await {
                Ok(refused) => self.publisher.refusals.replace(refused),
                Err(reason) => return reason,
            }
        }
    }

    /// Refuses publishes for this long, so that callers get an answer at once.
    async fn refuse(
        &mut self,
        reason: &LinkError,
        wait: Duration,
        events: &mut Events,
    ) -> Result<(), LinkError> {
        let mut over = pin!(sleep(wait));
        loop {
            tokio::select! {
                () = &mut over => return Ok(()),
                event = events.next() => self.note(event)?,
                Some(job) = self.jobs.recv() => {
                    job.answer(Err(PublishError::Refused(reason.to_string())));
                }
            }
        }
    }

    /// Applies an event of the connection.
    fn note(&self, event: Option<Event>) -> Result<(), LinkError> {
        match event {
            Some(Event::ConnectionBlocked(reason)) => self.publisher.status.blocked(reason),
            Some(Event::ConnectionUnblocked) => {
                self.publisher.confirms.restart();
                self.publisher.status.unblocked();
            }
            // A channel's error is handled where the channel is used.
            Some(Event::Error(error)) if !error.is_amqp_soft_error() => return Err(error.into()),
            Some(_) => {}
            None => return Err(LinkError::Ended),
        }
        Ok(())
    }

    /// Publishes until the connection or the channel is lost.
    async fn work(&mut self, link: &Link, channel: &OpenChannel, events: &mut Events) -> End {
        let topology = Arc::clone(&self.topology);
        let publisher = Arc::clone(&self.publisher);
        let mut in_flight = FuturesUnordered::new();
        let large_channels = LargeChannels::new();
        let mut large_in_flight = FuturesUnordered::new();
        let mut taken = Vec::with_capacity(TAKE_AT_ONCE);
        let mut returned = Returned::default();
        let mut waits = refusals::waits();
        let mut declaring = pin!(Fuse::terminated());
        if !publisher.refusals.is_empty() {
            let wait = waits.next_backoff().unwrap_or(waits.max_interval);
            declaring.set(declare(wait, link, &publisher, &topology).fuse());
        }
        let mut silent = pin!(link.silent());
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                Some(first) = in_flight.next() => {
                    // Collect everything that lapin has completed before answering any caller:
                    // lapin may attach a returned message to an earlier confirm than its own.
                    let mut completed = vec![first];
                    while let Some(Some(next)) = in_flight.next().now_or_never() {
                        completed.push(next);
                    }
                    match answer(completed, &mut returned, &topology) {
                        Ok(true) if declaring.is_terminated() => {
                            declaring.set(declare(after_a_return(), link, &publisher, &topology).fuse());
                        }
                        Ok(_) => {}
                        Err(error) => return End::of(link, error),
                    }
                }
                Some(came_back) = large_in_flight.next() => {
                    if came_back && declaring.is_terminated() {
                        declaring.set(declare(after_a_return(), link, &publisher, &topology).fuse());
                    }
                }
                _ = self.jobs.recv_many(&mut taken, TAKE_AT_ONCE) => {
                    for job in taken.drain(..) {
                        // Since then the caller may have given up, or the broker may have blocked.
                        if job.is_given_up() {
                            continue;
                        }
                        match publisher.check(&topology, job.outgoing.to) {
                            Ok(()) if job.outgoing.body.len() >= LARGE => {
                                large_in_flight.push(large_channels.send(link, &publisher, &topology, job));
                            }
                            Ok(()) => {
                                in_flight.push(send(channel, &publisher, &topology, job));
                            }
                            Err(error) => job.answer(Err(error)),
                        }
                    }
                }
                event = events.next() => if let Err(reason) = self.note(event) {
                    return End::Connection(reason);
                },
                () = &mut declaring, if !declaring.is_terminated() => {
                    if publisher.refusals.is_empty() {
                        waits.reset();
                    } else {
                        let wait = waits.next_backoff().unwrap_or(waits.max_interval);
                        declaring.set(declare(wait, link, &publisher, &topology).fuse());
                    }
                }
                reason = &mut silent => return End::Connection(reason),
                _ = look.tick() => {
                    if !link.is_open() || !channel.status().connected() {
                        return End::of(link, LinkError::Ended);
                    }
                    let stuck_for = publisher.confirms.longest();
                    if publisher.status.check().is_ok() && stuck_for > CONFIRM_LIMIT {
                        return End::Connection(LinkError::TooSlow {
                            what: "a confirm",
                            limit: CONFIRM_LIMIT,
                        });
                    }
                }
            }
        }
    }
}

/// What was lost when publishing ended.
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

/// Opens a channel with confirms.
pub(super) async fn confirming(link: &Link) -> Result<OpenChannel, LinkError> {
    let channel = link.channel().await?;
    let confirms = channel.confirm_select(ConfirmSelectOptions::default());
    limited("confirm.select", ANSWER_LIMIT, confirms).await?;
    Ok(channel)
}

/// How long to wait before a deleted queue is declared again.
fn after_a_return() -> Duration {
    tracing::info!("a message was returned: its queue is missing and is declared again");
    REDECLARE_AFTER
}

/// Declares everything again after `wait`.
async fn declare(wait: Duration, link: &Link, publisher: &Publisher, topology: &Topology) {
    sleep(wait).await;
    match refusals::declare(link, topology).await {
        Ok(refused) => publisher.refusals.replace(refused),
        Err(error) => tracing::warn!(%error, "the queues could not be declared again"),
    }
}

/// Publishes, and waits for the confirm.
pub(super) async fn publish(
    channel: &OpenChannel,
    publisher: &Publisher,
    topology: &Topology,
    outgoing: &Outgoing,
) -> lapin::Result<Confirmation> {
    let Outgoing {
        to,
        properties,
        body,
    } = outgoing;
    let _unconfirmed = publisher.confirms.sent(to.queue(), to.is_new());
    let (exchange, key) = (topology.exchange(*to).clone(), topology.key(*to).clone());
    let mandatory = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let sent = channel.basic_publish(exchange, key, mandatory, body, properties.clone());
    sent.await?.await
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
