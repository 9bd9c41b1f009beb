//! The way into RabbitMQ: one connection, one channel with confirms, one task that works it.
//!
//! Invariant: a publish is answered `Ok` only when the broker has confirmed it and has not
//! returned it. lapin hands a returned message to whichever confirm it completes *next* on the
//! channel, which need not be that message's own; so one task sees every confirm, in order, and
//! looks up whose message it was before it answers anybody.

use std::{pin::pin, sync::Arc, time::Duration};

use backoff::backoff::Backoff;
use futures::{
    FutureExt, StreamExt,
    future::{Fuse, FusedFuture},
    stream::FuturesUnordered,
};
use lapin::{
    Confirmation, Event,
    message::BasicReturnMessage,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use roundtrip_model::retry::reconnect;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    channel::OpenChannel,
    endpoint::Endpoint,
    link::{Events, Link, LinkError, limited},
    refusals::{self, Refusal, Refusals},
    status::StatusCell,
    topology::{Address, Topology},
    wire::Outgoing,
};
use crate::{PublishError, Status};

/// The most publishes without a confirm. More gain no speed, and this bounds the memory that a
/// broker which confirms nothing can cost.
const MAX_IN_FLIGHT: usize = 2048;

/// How many publishes are taken from the callers at a time.
const TAKE_AT_ONCE: usize = 64;

/// The pause before a queue that has vanished is declared again: RabbitMQ (3.10.8) forgets to tell
/// the consumers of a deleted quorum queue, and leaves them without deliveries for ever, where the
/// queue is there again within some 30 ms.
const REDECLARE_AFTER: Duration = Duration::from_millis(500);

/// The limit on the answer to a small question.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// How often the connection is looked at, in case its end came without an event.
const LOOK_EVERY: Duration = Duration::from_secs(1);

type Answer = Result<(), PublishError>;

/// A publish that a caller waits for. The permit is given back with the confirm, not when the
/// caller gives up: what was sent stays in lapin's memory until then.
struct Job {
    outgoing: Outgoing,
    reply: oneshot::Sender<Answer>,
    permit: OwnedSemaphorePermit,
}

/// The callers' side.
pub(super) struct Publisher {
    pub(super) status: StatusCell,
    pub(super) refusals: Refusals,
    jobs: mpsc::UnboundedSender<Job>,
    permits: Arc<Semaphore>,
}

/// The task's side.
pub(super) struct Pump {
    publisher: Arc<Publisher>,
    endpoint: Endpoint,
    topology: Arc<Topology>,
    /// Unbounded, and holds no more than there are permits.
    jobs: mpsc::UnboundedReceiver<Job>,
    /// Told once the first attempt to connect has ended, either way.
    first_attempt: Option<oneshot::Sender<()>>,
}

impl Publisher {
    /// The two sides, and the end of the first attempt to connect.
    pub(super) fn new(
        endpoint: &Endpoint,
        topology: &Arc<Topology>,
    ) -> (Arc<Self>, Pump, oneshot::Receiver<()>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let (first_attempt, first) = oneshot::channel();
        let publisher = Arc::new(Self {
            status: StatusCell::new("publishing", endpoint),
            refusals: Refusals::default(),
            jobs: sender,
            permits: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
        });
        let pump = Pump {
            publisher: Arc::clone(&publisher),
            endpoint: endpoint.clone(),
            topology: Arc::clone(topology),
            jobs: receiver,
            first_attempt: Some(first_attempt),
        };
        (publisher, pump, first)
    }

    /// Publishes, and waits for the confirm no longer than `limit`.
    pub(super) async fn publish(&self, outgoing: Outgoing, limit: Duration) -> Answer {
        self.status.check()?;
        let mut sent = false;
        let publishing = async {
            // The semaphore is never closed.
            let permit = Arc::clone(&self.permits)
                .acquire_owned()
                .await
                .map_err(closed)?;
            let (reply, answer) = oneshot::channel();
            sent = true;
            self.jobs
                .send(Job {
                    outgoing,
                    reply,
                    permit,
                })
                .map_err(closed)?;
            // The connection was lost before the confirm.
            answer.await.unwrap_or(Err(PublishError::Unconfirmed))
        };
        match timeout_at(Instant::now() + limit, publishing).await {
            Ok(answer) => answer,
            Err(_) if sent => Err(PublishError::Unconfirmed),
            Err(_) => Err(PublishError::Refused(format!(
                "{MAX_IN_FLIGHT} publishes are waiting for their confirm already"
            ))),
        }
    }
}

impl Publisher {
    /// Whether a publish can be sent there now.
    fn check(&self, topology: &Topology, to: Address) -> Result<(), PublishError> {
        self.status.check()?;
        self.refusals.check(topology.exchange(to), topology.key(to))
    }

    /// Declares everything again, after a while.
    async fn declare_after(&self, wait: Duration, link: &Link, topology: &Topology) {
        sleep(wait).await;
        match refusals::declare(link, topology).await {
            Ok(refused) => self.refusals.replace(refused),
            Err(error) => tracing::warn!(%error, "the queues could not be declared again"),
        }
    }

    /// Whether a new parcel would be taken now.
    pub(super) fn status(&self, topology: &Topology) -> Status {
        match self.status.get() {
            Status::Ready => match self.refusals.of_new_parcels(topology) {
                Some(reason) => Status::Blocked(reason),
                None => Status::Ready,
            },
            status => status,
        }
    }
}

fn closed<E>(_: E) -> PublishError {
    PublishError::Away("it was closed".to_owned())
}

impl Pump {
    /// Keeps a connection up and publishes by it, until `closed`.
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
            self.publisher.status.away(&reason, first.is_some());
            drop(first);
            tokio::select! {
                () = closed.cancelled() => break,
                () = sleep(waits.next_backoff().unwrap_or(waits.max_interval)) => {}
            }
        }
        self.publisher.status.closed();
    }

    /// A connection with everything declared that is not refused.
    async fn connect(&self) -> Result<(Link, Events), LinkError> {
        let (link, events) = Link::connect(&self.endpoint, "publish").await?;
        let refused = refusals::declare(&link, &self.topology).await?;
        self.publisher.refusals.replace(refused);
        Ok((link, events))
    }

    /// Publishes by one channel after the other until the connection is lost, and says why it was.
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

    /// Answers what is to be published for so long, so that no caller waits in vain.
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

    /// Takes in what happens to the connection.
    fn note(&self, event: Option<Event>) -> Result<(), LinkError> {
        match event {
            Some(Event::ConnectionBlocked(reason)) => self.publisher.status.blocked(reason),
            Some(Event::ConnectionUnblocked) => self.publisher.status.unblocked(),
            // An error that closes a channel is noticed where the channel is used.
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
        let mut taken = Vec::with_capacity(TAKE_AT_ONCE);
        let mut returned = Returned::default();
        let mut waits = refusals::waits();
        let mut declaring = pin!(Fuse::terminated());
        if !publisher.refusals.is_empty() {
            let wait = waits.next_backoff().unwrap_or(waits.max_interval);
            declaring.set(publisher.declare_after(wait, link, &topology).fuse());
        }
        let mut silent = pin!(link.silent());
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                Some(first) = in_flight.next() => {
                    // All that lapin has completed by now is seen before anything is answered:
                    // a message that was returned may have been handed to an earlier confirm than
                    // its own.
                    let mut completed = vec![first];
                    while let Some(Some(next)) = in_flight.next().now_or_never() {
                        completed.push(next);
                    }
                    match answer(completed, &mut returned, &topology) {
                        Ok(true) if declaring.is_terminated() => {
                            tracing::info!("a message came back: its queue is gone; declaring it again");
                            let again = publisher.declare_after(REDECLARE_AFTER, link, &topology);
                            declaring.set(again.fuse());
                        }
                        Ok(_) => {}
                        Err(error) => return End::of(link, error),
                    }
                }
                _ = self.jobs.recv_many(&mut taken, TAKE_AT_ONCE) => {
                    for job in taken.drain(..) {
                        // Its caller may have given up, or the broker have blocked, since.
                        if job.reply.is_closed() {
                            continue;
                        }
                        match publisher.check(&topology, job.outgoing.to) {
                            Ok(()) => in_flight.push(send(channel, &topology, job)),
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
                        declaring.set(publisher.declare_after(wait, link, &topology).fuse());
                    }
                }
                reason = &mut silent => return End::Connection(reason),
                _ = look.tick() => {
                    if !link.is_open() || !channel.status().connected() {
                        return End::of(link, LinkError::Ended);
                    }
                }
            }
        }
    }
}

/// What is lost when no more can be published.
enum End {
    Connection(LinkError),
    Channel(LinkError),
}

impl End {
    fn of(link: &Link, reason: LinkError) -> Self {
        if link.is_open() {
            Self::Channel(reason)
        } else {
            Self::Connection(reason)
        }
    }
}

/// A channel with confirms.
async fn confirming(link: &Link) -> Result<OpenChannel, LinkError> {
    let channel = link.channel().await?;
    let confirms = channel.confirm_select(ConfirmSelectOptions::default());
    limited("confirm.select", ANSWER_LIMIT, confirms).await?;
    Ok(channel)
}

/// A publish that has come to its end.
struct Completed {
    to: Address,
    id: Option<ShortString>,
    reply: oneshot::Sender<Answer>,
    result: lapin::Result<Confirmation>,
    _permit: OwnedSemaphorePermit,
}

/// The messages that came back and whose own confirm has not been seen yet.
#[derive(Debug, Default)]
struct Returned(Vec<BasicReturnMessage>);

impl Returned {
    /// Why this publish came back, if it did. Two publishes alike in destination and id carry the
    /// same parcel to the same queue: it does not matter which of them is told.
    fn take(&mut self, topology: &Topology, publish: &Completed) -> Option<ShortString> {
        let at = self.0.iter().position(|message| {
            *message.properties.message_id() == publish.id
                && message.routing_key == *topology.key(publish.to)
                && message.exchange == *topology.exchange(publish.to)
        })?;
        Some(self.0.swap_remove(at).reply_text)
    }
}

impl Job {
    fn answer(self, answer: Answer) {
        // Fails where the caller has given up, and then nobody wants the answer.
        let _ = self.reply.send(answer);
    }
}

async fn send(channel: &OpenChannel, topology: &Topology, job: Job) -> Completed {
    let Job {
        outgoing,
        reply,
        permit,
    } = job;
    let Outgoing {
        to,
        properties,
        body,
    } = outgoing;
    let id = properties.message_id().clone();
    let (exchange, key) = (topology.exchange(to).clone(), topology.key(to).clone());
    let mandatory = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let sent = channel.basic_publish(exchange, key, mandatory, &body, properties);
    let result = match sent.await {
        Ok(confirm) => confirm.await,
        Err(error) => Err(error),
    };
    Completed {
        to,
        id,
        reply,
        result,
        _permit: permit,
    }
}

/// Answers the callers, and says whether a message came back.
fn answer(
    mut completed: Vec<Completed>,
    returned: &mut Returned,
    topology: &Topology,
) -> Result<bool, LinkError> {
    let before = returned.0.len();
    for publish in &mut completed {
        if let Ok(Confirmation::Ack(message) | Confirmation::Nack(message)) = &mut publish.result {
            returned.0.extend(message.take());
        }
    }
    let any = returned.0.len() > before;
    let mut lost = None;
    for publish in completed {
        let back = returned.take(topology, &publish);
        let answer = match publish.result {
            Ok(Confirmation::Ack(_)) => back.map_or(Ok(()), |text| {
                Err(PublishError::Refused(format!("it was returned: {text}")))
            }),
            Ok(Confirmation::Nack(_)) => Err(PublishError::Refused(
                "the queue is full or cannot store it".to_owned(),
            )),
            // Without confirms it would look like success; the channel has them on.
            Ok(Confirmation::NotRequested) => Err(PublishError::Unconfirmed),
            Err(error) => {
                lost = Some(error);
                Err(PublishError::Unconfirmed)
            }
        };
        // Fails where the caller has given up, and then nobody wants the answer.
        let _ = publish.reply.send(answer);
    }
    lost.map_or(Ok(any), |error| Err(error.into()))
}
