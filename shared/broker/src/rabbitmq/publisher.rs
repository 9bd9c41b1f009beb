//! Publishing to RabbitMQ, as its callers see it.
//!
//! Invariant: a publish returns `Ok` only after the broker confirmed it without returning it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use lapin::types::ShortString;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::{Instant, timeout_at},
};

use super::{
    confirms::{Confirms, MAX_IN_FLIGHT},
    endpoint::Endpoint,
    refusals::Refusals,
    status::StatusCell,
    topology::{Address, Topology},
    wire::Outgoing,
};
use crate::{PublishError, Status};

pub(super) type PublishResult = Result<(), PublishError>;

/// A publish with a waiting caller. The permit is released by the confirm, even if the caller gives
/// up earlier: lapin keeps the message in memory until then.
pub(super) struct Job {
    pub(super) outgoing: Outgoing,
    reply: oneshot::Sender<PublishResult>,
    _permit: OwnedSemaphorePermit,
}

impl Job {
    pub(super) fn is_given_up(&self) -> bool {
        self.reply.is_closed()
    }

    pub(super) fn reply(self, result: PublishResult) {
        // The receiver may have been dropped; that is fine.
        let _ = self.reply.send(result);
    }
}

impl PublishError {
    pub(super) fn returned(reason: &ShortString) -> Self {
        Self::Refused(format!("it was returned: {reason}"))
    }

    pub(super) fn nacked() -> Self {
        Self::Refused("the queue is full or cannot store it".to_owned())
    }
}

pub(super) struct Publisher {
    pub(super) status: StatusCell,
    pub(super) refusals: Refusals,
    pub(super) confirms: Confirms,
    jobs: mpsc::UnboundedSender<Job>,
}

impl Publisher {
    pub(super) fn new(
        endpoint: &Endpoint,
        publish_timeout: Duration,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Job>) {
        // Unbounded, yet it holds at most as many jobs as there are permits.
        let (sender, receiver) = mpsc::unbounded_channel();
        let publisher = Self {
            status: StatusCell::new("publishing", endpoint),
            refusals: Refusals::default(),
            confirms: Confirms::new(publish_timeout),
            jobs: sender,
        };
        (Arc::new(publisher), receiver)
    }

    pub(super) async fn publish(&self, outgoing: Outgoing, limit: Duration) -> PublishResult {
        self.admits(outgoing.to)?;
        let mut sent = false;
        let publishing = async {
            // The semaphore is never closed.
            let to = outgoing.to;
            let permits = self.confirms.permits(to.queue(), to.is_new());
            let permit = permits.acquire_owned().await.map_err(closed)?;
            let (reply, result) = oneshot::channel();
            sent = true;
            self.jobs
                .send(Job {
                    outgoing,
                    reply,
                    _permit: permit,
                })
                .map_err(closed)?;
            // The connection was lost before the confirm.
            result.await.unwrap_or(Err(PublishError::Unconfirmed))
        };
        match timeout_at(Instant::now() + limit, publishing).await {
            Ok(result) => result,
            Err(_) if sent => Err(PublishError::Unconfirmed),
            Err(_) => Err(PublishError::Refused(format!(
                "{MAX_IN_FLIGHT} publishes are waiting for their confirm already"
            ))),
        }
    }

    pub(super) fn check(&self, topology: &Topology, to: Address) -> Result<(), PublishError> {
        self.status.check()?;
        self.refusals.check(topology.exchange(to), topology.key(to))
    }

    fn admits(&self, to: Address) -> PublishResult {
        self.status.check()?;
        self.confirms.check(to.queue(), to.is_new())
    }

    /// Whether it is connected, and publishes to this address are confirmed.
    fn works(&self, to: Address) -> bool {
        self.status.check().is_ok() && !self.confirms.is_stuck(to.queue(), to.is_new())
    }

    pub(super) fn status(&self, topology: &Topology) -> Status {
        match self.status.get() {
            Status::Ready => {}
            status => return status,
        }
        if let Some(reason) = self.refusals.of_new_messages(topology) {
            return Status::Blocked(reason);
        }
        self.confirms
            .problem()
            .map_or(Status::Ready, Status::Blocked)
    }
}

/// The publishers of an engine: one, or two on different nodes of a cluster, in turn.
///
/// While the leader of a queue hangs, only channels that have published to the queue before reach
/// its next leader. The second connection has such channels when the first one's node hangs.
pub(super) struct Publishers {
    each: Vec<Arc<Publisher>>,
    turn: AtomicUsize,
}

impl Publishers {
    pub(super) const fn new(each: Vec<Arc<Publisher>>) -> Self {
        Self {
            each,
            turn: AtomicUsize::new(0),
        }
    }

    /// As [`Publisher::publish`], by one that gets confirms if there is any.
    pub(super) async fn publish(&self, outgoing: Outgoing, limit: Duration) -> PublishResult {
        let (first, second) = self
            .each
            .split_at(self.turn.fetch_add(1, Ordering::Relaxed) % self.each.len());
        let in_turn = || second.iter().chain(first);
        let to = outgoing.to;
        let works = in_turn().find(|publisher| publisher.works(to));
        let admits = || in_turn().find(|publisher| publisher.admits(to).is_ok());
        match works.or_else(admits).or_else(|| in_turn().next()) {
            Some(publisher) => publisher.publish(outgoing, limit).await,
            None => Err(closed(())),
        }
    }

    pub(super) fn status(&self, topology: &Topology) -> Status {
        let mut reason = Status::Unavailable(String::new());
        for publisher in &self.each {
            reason = publisher.status(topology);
            if reason == Status::Ready {
                break;
            }
        }
        reason
    }
}

fn closed<E>(_: E) -> PublishError {
    PublishError::Unavailable("it was closed".to_owned())
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures::future::join_all;
    use time::OffsetDateTime;
    use tokio::{select, time::timeout};

    use super::*;
    use crate::{Config, Message, Queue, Route};

    #[tokio::test]
    async fn answers_without_a_confirm_leave_places_for_messages() {
        let config = Config {
            url: "amqp://127.0.0.1".to_owned(),
            ..Config::default()
        };
        let topology = Topology::new(&config);
        let (publisher, mut jobs) =
            Publisher::new(&Endpoint::of(&config).unwrap(), Duration::from_mins(1));
        publisher.status.connected("a node that confirms nothing");
        let publish = |route: Route<'_>| {
            let message = Message {
                id: "id".to_owned(),
                attempts: 0,
                replay_count: 0,
                accepted_at: OffsetDateTime::UNIX_EPOCH,
                dead: None,
                waiting: None,
                body: "{}".into(),
            };
            let outgoing = Outgoing::new(topology.address(route), message, None).unwrap();
            publisher.publish(outgoing, Duration::from_mins(1))
        };
        let answers = join_all((0..=MAX_IN_FLIGHT).map(|_| publish(Route::Callbacks)));
        let channel = "echo".parse().unwrap();
        let one_more = async {
            publish(Route::Outbound(&channel)).await.ok();
            pending::<()>().await;
        };
        let mut sent = Vec::new();
        let all_sent = async {
            while sent.len() <= MAX_IN_FLIGHT {
                sent.extend(jobs.recv().await);
            }
        };
        select! {
            _ = answers => panic!("nothing is confirmed"),
            () = one_more => {}
            sent = timeout(Duration::from_secs(10), all_sent) => sent.expect("a place for the message"),
        }
        let is_message = |job: &&Job| job.outgoing.to.queue() == Queue::Outbound;
        assert_eq!(sent.iter().filter(is_message).count(), 1);
    }
}
