//! RabbitMQ, by lapin.
//!
//! | file | what |
//! |---|---|
//! | `topology` | exchanges and queues; `tiers`: the delays; `hash`: the shards |
//! | `differences` | queues that exist with other arguments |
//! | `policies` | the gateway's policies, and the effect of others; `management`: asks RabbitMQ for them |
//! | `wire` | a message as an AMQP message |
//! | `endpoint` | the hosts of the URL |
//! | `link` | one connection; `status`: whether it is up; `channel`: a channel on it; `link_error`: what fails |
//! | `refusals` | what RabbitMQ refuses to declare |
//! | `publisher` | publishing as its callers see it; `pump`: its connection and task; `queue_channel`: its channels; `confirming`: one publish |
//! | `returned`, `confirms`, `large` | returned messages, waiting confirms, large messages |
//! | `consumer` | the receiving connection, and the consumers on it |
//! | `notes` | the connection of a mailbox, on which notes are sent and received |
//! | `subscription` | the channel that receives one queue; `acks`: its acknowledgements; `lease`: a delivery's settlement |
//!
//! Publishing and receiving use separate connections; publishing to a cluster uses two, and a mailbox has its own.
//! When RabbitMQ runs out of memory or disk it
//! stops reading from publishing connections, and acknowledgements must still get through. Each
//! connection has a loop that rebuilds it, and everything on it, for as long as necessary
//! (docs/adr/0002). lapin's own recovery is disabled.
//!
//! Invariant: every wait has a time limit, except the wait for the next message.

mod acks;
mod channel;
mod confirming;
mod confirms;
mod consumer;
mod differences;
mod endpoint;
mod foreign_policies;
#[cfg(feature = "fuzzing")]
#[path = "rabbitmq/tests/fuzzing.rs"]
pub(crate) mod fuzzing;
mod hash;
mod large;
mod lease;
mod link;
mod link_error;
mod management;
mod notes;
pub(crate) mod policies;
mod publisher;
mod pump;
mod queue_channel;
mod refusals;
mod returned;
mod status;
mod subscription;
#[cfg(test)]
mod test_log;
mod tiers;
mod topology;
mod wire;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use lapin::{options::QueueDeclareOptions, types::FieldTable};
use roundtrip_model::{Check, Clock};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    consumer::Links,
    endpoint::Endpoint,
    link_error::{LinkError, limited},
    management::{Management, Warnings},
    publisher::{Publisher, Publishers},
    pump::Pump,
    topology::{MAX_LENGTH, MAX_LENGTH_BYTES, Topology},
    wire::Outgoing,
};
use crate::{
    Broker, Closed, Config, Consumer, Mailbox, Message, PublishError, Queue, Route, Status,
    metrics::counted,
};

/// How long opening waits for the first connection attempt, so that the roles find a reachable
/// server already connected.
const OPEN_LIMIT: Duration = Duration::from_secs(5);

const READY_LIMIT: Duration = Duration::from_secs(5);

/// How long a close waits for acknowledgements to be written, and then for the connections.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// AMQP limits a name to 255 bytes; the remainder is for what follows the namespace.
const MAX_NAMESPACE: usize = 200;

pub(crate) struct RabbitMq {
    engine: Arc<Engine>,
    endpoint: Endpoint,
    warnings: Arc<Warnings>,
}

struct Engine {
    topology: Arc<Topology>,
    clock: Arc<dyn Clock>,
    publish_timeout: Duration,
    publishers: Publishers,
    links: Links,
    closing: CancellationToken,
    /// The connections end, after the consumers.
    hang_up: CancellationToken,
    consumers: TaskTracker,
    connections: TaskTracker,
}

pub(crate) struct Servers {
    endpoint: Endpoint,
    management: Option<Management>,
}

impl Servers {
    /// The servers of a configuration, with the certificate authorities to trust.
    pub(crate) fn of(config: &Config, check: &mut Check) -> Option<Self> {
        check.unless(
            config.namespace.len() <= MAX_NAMESPACE,
            "namespace",
            format!("must not be longer than {MAX_NAMESPACE} bytes"),
        );
        for (name, value, limit) in [
            ("max_backlog", config.max_backlog, MAX_LENGTH),
            (
                "max_backlog_bytes",
                config.max_backlog_bytes,
                MAX_LENGTH_BYTES,
            ),
        ] {
            check.unless(
                value <= limit,
                name,
                format!("must be at most {limit} on RabbitMQ; raise outbound_shards instead"),
            );
        }
        let endpoint = check.take(Endpoint::of(config))?;
        if endpoint.is_tls() {
            // Fails if the program has already installed a provider, which is equally good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let management = check.take(Management::of(config, &endpoint))?;
        Some(Self {
            endpoint,
            management,
        })
    }
}

impl RabbitMq {
    /// Opens the engine. The server may be unreachable: until it connects, the status is
    /// `Unavailable`.
    pub(crate) async fn open(servers: Servers, config: &Config, clock: Arc<dyn Clock>) -> Self {
        let Servers {
            endpoint,
            management,
        } = servers;
        let topology = Arc::new(Topology::new(config));
        let pump = |endpoint: Endpoint| {
            let (publisher, jobs) = Publisher::new(&endpoint, config.publish_timeout);
            Pump {
                publisher,
                endpoint,
                topology: Arc::clone(&topology),
                jobs,
                first_attempt: None,
                declared: false,
            }
        };
        let pumps: Vec<Pump> = endpoint.to_publish().into_iter().map(pump).collect();
        let publishers = pumps.iter().map(|pump| Arc::clone(&pump.publisher));
        let publishers = Publishers::new(publishers.collect());
        let (links_sender, links) = watch::channel(None);
        let engine = Arc::new(Engine {
            topology,
            clock,
            publish_timeout: config.publish_timeout,
            publishers,
            links,
            closing: CancellationToken::new(),
            hang_up: CancellationToken::new(),
            consumers: TaskTracker::new(),
            connections: TaskTracker::new(),
        });
        let has_several_hosts = endpoint.has_several_hosts();
        let receiving =
            consumer::keep_connected(endpoint.clone(), links_sender, engine.hang_up.clone());
        engine.connections.spawn(receiving);
        let warnings = management.as_ref().map(Management::warnings);
        if let Some(management) = management {
            engine
                .connections
                .spawn(management.watch(engine.hang_up.clone()));
        } else {
            log_unchecked(config, has_several_hosts);
        }
        // One after the other, because the first one declares everything.
        let deadline = Instant::now() + OPEN_LIMIT;
        for mut pump in pumps {
            let (attempted, first_attempt) = oneshot::channel();
            pump.first_attempt = Some(attempted);
            engine.connections.spawn(pump.run(engine.hang_up.clone()));
            // Ends with the attempt or its limit.
            let _ = timeout_at(deadline, first_attempt).await;
        }
        Self {
            engine,
            endpoint,
            warnings: warnings.unwrap_or_default(),
        }
    }

    async fn count(&self, queue: Queue) -> Result<u64, LinkError> {
        let link = self.engine.links.borrow().clone().ok_or(LinkError::Ended)?;
        let channel = link.channel().await?;
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let mut sum = 0;
        for name in self.engine.topology.queues(queue) {
            let asking = channel.queue_declare(name.clone(), passive, FieldTable::default());
            let declared = limited("queue.declare", READY_LIMIT, asking).await?;
            sum += u64::from(declared.message_count());
        }
        Ok(sum)
    }
}

/// Says at the start what only the management API could check.
fn log_unchecked(config: &Config, has_several_hosts: bool) {
    let Config {
        max_backlog,
        max_backlog_bytes,
        ..
    } = *config;
    if (max_backlog, max_backlog_bytes) != (MAX_LENGTH, MAX_LENGTH_BYTES) {
        tracing::info!(
            max_backlog,
            max_backlog_bytes,
            "broker.max_backlog and broker.max_backlog_bytes take effect by a RabbitMQ policy: \
             `roundtrip rabbitmq-policies` prints the command that sets it"
        );
    }
    if has_several_hosts {
        tracing::info!(
            "broker.management_url is not set, so nothing checks the members of the quorum queues. A \
             node that joined the cluster later has no member of older queues: `rabbitmq-queues grow \
             NODE all` adds them"
        );
    }
}

#[async_trait]
impl Broker for RabbitMq {
    async fn publish(&self, route: Route<'_>, message: Message) -> Result<(), PublishError> {
        let Engine {
            topology,
            publishers,
            publish_timeout,
            closing,
            ..
        } = &*self.engine;
        if closing.is_cancelled() {
            return Err(PublishError::Unavailable("it was closed".to_owned()));
        }
        let queue = route.queue();
        let message = message.published_to(queue);
        let outgoing = Outgoing::new(topology.address(route), message, None)?;
        counted(queue, publishers.publish(outgoing, *publish_timeout)).await
    }

    async fn consume(&self, queue: Queue, window: u16) -> Result<Box<dyn Consumer>, Closed> {
        if self.engine.closing.is_cancelled() {
            return Err(Closed);
        }
        Ok(Box::new(consumer::start(&self.engine, queue, window)))
    }

    fn mailbox(&self) -> Option<Mailbox> {
        let (mailbox, carrier) = Mailbox::open();
        let engine = &self.engine;
        let link =
            notes::NotesLink::new(self.endpoint.clone(), Arc::clone(&engine.topology), carrier);
        engine.connections.spawn(link.run(engine.hang_up.clone()));
        Some(mailbox)
    }

    fn status(&self) -> Status {
        self.engine.publishers.status(&self.engine.topology)
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.get()
    }

    async fn ready(&self, queue: Queue) -> Result<u64, PublishError> {
        match timeout(READY_LIMIT, self.count(queue)).await {
            Ok(Ok(sum)) => Ok(sum),
            Ok(Err(error)) => Err(PublishError::Unavailable(error.to_string())),
            Err(_) => Err(PublishError::Unavailable(
                "it did not answer in time".to_owned(),
            )),
        }
    }

    async fn close(&self) {
        let Engine {
            closing,
            hang_up,
            consumers,
            connections,
            ..
        } = &*self.engine;
        closing.cancel();
        consumers.close();
        // After the limit, closing the connections requeues the rest.
        let _ = timeout(CLOSE_LIMIT, consumers.wait()).await;
        hang_up.cancel();
        connections.close();
        let _ = timeout(CLOSE_LIMIT, connections.wait()).await;
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        self.engine.closing.cancel();
        self.engine.hang_up.cancel();
    }
}
