//! The exchanges and queues, and which of them a parcel goes by.
//!
//! | name | what |
//! |---|---|
//! | `{ns}.direct` | direct exchange; a queue is bound by its own name |
//! | `{ns}.outbound.0` … | work queues, a shard each |
//! | `{ns}.outbound.retry` | work queue: what was put off, of every shard |
//! | `{ns}.callbacks`, `{ns}.journal` | work queues |
//! | `{ns}.outbound.dead`, `{ns}.callbacks.dead`, `{ns}.journal.dead` | dead queues |
//! | `{ns}.delay.1s` … | for each tier a fanout exchange and its queue, which expires into `{ns}.direct` |
//!
//! A tier's exchange is a fanout, and its queue has no dead-letter routing key, so that a parcel
//! keeps its own routing key on the way through: the queue that it left, or `outbound.retry`. That
//! is received beside the shards, in turn with them, so that first tries never wait behind a
//! backlog of later ones, nor these behind those.
//!
//! Invariant: every queue is a quorum queue that refuses what it cannot hold and dead-letters at
//! least once. Declaring it all again changes nothing.

use std::time::Duration;

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use roundtrip_model::ChannelId;

use super::{
    differences::{Differences, LEADER_LOCATOR},
    hash::fnv1a,
    tiers::{TIERS, longest, quantise},
};
use crate::{Config, Queue, Route};

/// The most messages in a work queue where no policy sets a lower bound. An argument of a queue
/// never changes, so `broker.max_backlog`, which may, is no argument: a policy carries it
/// (docs/operations.md).
pub(super) const MAX_LENGTH: u64 = 10_000_000;

/// How often the broker hands a parcel out again after its consumer died with it, before it is
/// dead. Explicit, because RabbitMQ's default has changed between versions.
const DELIVERY_LIMIT: i64 = 20;

/// No limit in effect: RabbitMQ 4 has a default limit, and no spelling of "none" that 3.10 takes
/// too. A dead queue has nowhere to put what it gives up. The journal's entries come back for as
/// long as the store is away, which says nothing of them.
const NO_DELIVERY_LIMIT: i64 = 1_000_000_000;

/// Where a parcel is to go: one of the queues, at once or by way of a tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address {
    /// The index of a tier.
    tier: Option<usize>,
    queue: Queue,
    shard: usize,
}

impl Address {
    /// The queue that is meant in the end.
    pub(super) const fn queue(self) -> Queue {
        self.queue
    }

    /// Whether it is a queue itself, and not the way there by a tier.
    pub(super) const fn is_new(self) -> bool {
        self.tier.is_none()
    }

    /// The dead queue of a queue.
    pub(super) const fn dead(queue: Queue) -> Self {
        Self {
            tier: None,
            queue: queue.dead(),
            shard: 0,
        }
    }
}

/// The names of one namespace.
#[derive(Debug)]
pub(super) struct Topology {
    direct: ShortString,
    /// The shards, and then the queue of retries.
    outbound: Vec<ShortString>,
    callbacks: Vec<ShortString>,
    outbound_dead: Vec<ShortString>,
    callbacks_dead: Vec<ShortString>,
    journal: Vec<ShortString>,
    journal_dead: Vec<ShortString>,
    /// A tier's exchange and its queue have one name.
    tiers: Vec<ShortString>,
    differences: Differences,
}

impl Topology {
    pub(super) fn new(config: &Config) -> Self {
        let ns = &config.namespace;
        let named = |queue: Queue| vec![ShortString::from(format!("{ns}.{}", queue.name()))];
        Self {
            direct: format!("{ns}.direct").into(),
            outbound: (0..config.outbound_shards)
                .map(|shard| shard.to_string())
                .chain(["retry".to_owned()])
                .map(|end| format!("{ns}.{}.{end}", Queue::Outbound.name()).into())
                .collect(),
            callbacks: named(Queue::Callbacks),
            outbound_dead: named(Queue::OutboundDead),
            callbacks_dead: named(Queue::CallbacksDead),
            journal: named(Queue::Journal),
            journal_dead: named(Queue::JournalDead),
            tiers: (0..TIERS)
                .map(|tier| format!("{ns}.delay.{}s", longest(tier).as_secs()).into())
                .collect(),
            differences: Differences::default(),
        }
    }

    /// What a queue is made of: the shards of the outbound queue and that of its retries, each
    /// other queue itself.
    pub(super) fn queues(&self, queue: Queue) -> &[ShortString] {
        match queue {
            Queue::Outbound => &self.outbound,
            Queue::Callbacks => &self.callbacks,
            Queue::OutboundDead => &self.outbound_dead,
            Queue::CallbacksDead => &self.callbacks_dead,
            Queue::Journal => &self.journal,
            Queue::JournalDead => &self.journal_dead,
        }
    }

    /// Where messages and answers go that come in by the API: the shards, the callbacks.
    pub(super) fn new_parcels(&self) -> (&[ShortString], &[ShortString]) {
        let shards = self.outbound.len() - 1;
        (&self.outbound[..shards], &self.callbacks)
    }

    /// Where a new parcel goes.
    pub(super) fn address(&self, route: Route<'_>) -> Address {
        let shard = match route {
            Route::Outbound(channel) => shard(channel, self.outbound.len() - 1),
            Route::Callbacks | Route::Journal => 0,
        };
        Address {
            tier: None,
            queue: route.queue(),
            shard,
        }
    }

    /// Where a queue's parcels go that are put off, and their expiry on the way.
    pub(super) fn delayed(&self, queue: Queue, delay: Duration) -> (Address, u64) {
        let (tier, expiry) = quantise(delay);
        let address = Address {
            tier: Some(tier),
            queue,
            shard: self.queues(queue).len() - 1,
        };
        (address, expiry)
    }

    /// The exchange to publish to.
    pub(super) fn exchange(&self, address: Address) -> &ShortString {
        address.tier.map_or(&self.direct, |tier| &self.tiers[tier])
    }

    /// The routing key to publish with: the name of the queue that is meant in the end.
    pub(super) fn key(&self, address: Address) -> &ShortString {
        &self.queues(address.queue)[address.shard]
    }

    /// All that there is to declare, in this order. Dead queues come before work queues, which must
    /// have somewhere to put what they give up.
    pub(super) fn declarations(&self) -> Vec<Declaration<'_>> {
        let queues = [
            Queue::OutboundDead,
            Queue::CallbacksDead,
            Queue::JournalDead,
            Queue::Outbound,
            Queue::Callbacks,
            Queue::Journal,
        ]
        .into_iter()
        .flat_map(|queue| {
            let names = self.queues(queue).iter();
            names.map(move |name| self.declaration(queue, name))
        });
        let tiers = self.tiers.iter().map(|name| Declaration::Tier {
            name,
            arguments: self.expires_into(&self.direct),
        });
        [self.exchange_declaration()]
            .into_iter()
            .chain(queues)
            .chain(tiers)
            .collect()
    }

    /// The exchange that work and dead queues are bound to.
    pub(super) const fn exchange_declaration(&self) -> Declaration<'_> {
        Declaration::Direct(&self.direct)
    }

    /// One of the queues that `queue` is made of.
    pub(super) fn declaration<'a>(
        &'a self,
        queue: Queue,
        name: &'a ShortString,
    ) -> Declaration<'a> {
        let arguments = if queue.dead() == queue {
            dead_arguments()
        } else {
            self.work_arguments(queue)
        };
        Declaration::Queue {
            queue,
            name,
            exchange: &self.direct,
            arguments,
        }
    }

    /// Declares it where it is not there yet; a queue as it is where it is known to differ.
    ///
    /// # Errors
    /// Where the broker refuses it, which closes the channel.
    pub(super) async fn declare(
        &self,
        channel: &Channel,
        declaration: &Declaration<'_>,
    ) -> lapin::Result<()> {
        match declaration {
            Declaration::Direct(name) => {
                declare_exchange(channel, name, ExchangeKind::Direct).await
            }
            Declaration::Queue {
                name,
                exchange,
                arguments,
                ..
            } => {
                declare_queue(channel, name, self.applied(arguments, name)).await?;
                bind(channel, name, exchange).await
            }
            Declaration::Tier { name, arguments } => {
                declare_exchange(channel, name, ExchangeKind::Fanout).await?;
                declare_queue(channel, name, self.applied(arguments, name)).await?;
                bind(channel, name, name).await
            }
        }
    }

    /// These arguments, as the queue is known to have them.
    fn applied(&self, arguments: &FieldTable, name: &ShortString) -> FieldTable {
        self.differences.applied_to(arguments.clone(), name)
    }

    /// Whether a declare that was refused succeeds when it is repeated: the queue that exists differs
    /// in an argument that may differ, and is declared as it is from now on.
    pub(super) fn learns(&self, declaration: &Declaration<'_>, error: &lapin::Error) -> bool {
        let queue = match declaration {
            Declaration::Direct(_) => return false,
            Declaration::Queue { queue, .. } => Some(*queue),
            Declaration::Tier { .. } => None,
        };
        let may_differ = |argument: &str| may_differ(queue, argument);
        self.differences.note(declaration.name(), error, may_differ)
    }

    fn work_arguments(&self, queue: Queue) -> FieldTable {
        let mut arguments = self.expires_into(&self.direct);
        arguments.insert(
            "x-dead-letter-routing-key".into(),
            text(self.key(Address::dead(queue)).as_str()),
        );
        let limit = if queue == Queue::Journal {
            NO_DELIVERY_LIMIT
        } else {
            DELIVERY_LIMIT
        };
        arguments.insert("x-delivery-limit".into(), limit.into());
        let max_length = i64::try_from(MAX_LENGTH).unwrap_or(i64::MAX);
        arguments.insert("x-max-length".into(), max_length.into());
        arguments
    }

    /// At-least-once dead-lettering needs both the strategy and `reject-publish`; with one of them
    /// only, RabbitMQ silently falls back to at most once.
    #[expect(
        clippy::unused_self,
        reason = "reads as the arguments of this topology's queues"
    )]
    fn expires_into(&self, exchange: &ShortString) -> FieldTable {
        let mut arguments = quorum();
        arguments.insert("x-dead-letter-exchange".into(), text(exchange.as_str()));
        arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
        arguments.insert("x-overflow".into(), text("reject-publish"));
        arguments
    }
}

/// Whether a queue that exists may differ in this argument, because another version declared it; no
/// queue: a tier's. What is not listed would break a promise: another type of queue, a work queue
/// that drops its oldest messages, a dead queue that gives up after some deliveries.
fn may_differ(queue: Option<Queue>, argument: &str) -> bool {
    match argument {
        // Where its members are, not what becomes of a message.
        LEADER_LOCATOR | "x-quorum-initial-group-size" => true,
        "x-max-length" => matches!(
            queue,
            Some(Queue::Outbound | Queue::Callbacks | Queue::Journal)
        ),
        "x-delivery-limit" => matches!(queue, Some(Queue::Outbound | Queue::Callbacks)),
        "x-overflow" => queue.is_some_and(|queue| queue.dead() == queue),
        _ => false,
    }
}

/// With `reject-publish` a `max-length` that a policy sets refuses the newest dead letter, which then
/// stays where it was, rather than drop the oldest.
fn dead_arguments() -> FieldTable {
    let mut arguments = quorum();
    arguments.insert("x-delivery-limit".into(), NO_DELIVERY_LIMIT.into());
    arguments.insert("x-overflow".into(), text("reject-publish"));
    arguments
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    // By default a queue is led by the node that it is declared by, and one process declares all.
    arguments.insert(LEADER_LOCATOR.into(), text("balanced"));
    arguments
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// An exchange or a queue, with what leads to it.
///
/// One that exists and was declared otherwise (another type of queue) is refused and not used, unless
/// the difference is one of [`may_differ`]: better no service than one without its promises.
pub(super) enum Declaration<'a> {
    Direct(&'a ShortString),
    Queue {
        queue: Queue,
        name: &'a ShortString,
        exchange: &'a ShortString,
        arguments: FieldTable,
    },
    /// An exchange and a queue of one name.
    Tier {
        name: &'a ShortString,
        arguments: FieldTable,
    },
}

impl Declaration<'_> {
    pub(super) const fn name(&self) -> &ShortString {
        match self {
            Self::Direct(name) | Self::Queue { name, .. } | Self::Tier { name, .. } => name,
        }
    }
}

async fn declare_exchange(
    channel: &Channel,
    name: &ShortString,
    kind: ExchangeKind,
) -> lapin::Result<()> {
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    channel
        .exchange_declare(name.clone(), kind, durable, FieldTable::default())
        .await
}

async fn declare_queue(
    channel: &Channel,
    name: &ShortString,
    arguments: FieldTable,
) -> lapin::Result<()> {
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(name.clone(), durable, arguments)
        .await?;
    Ok(())
}

async fn bind(channel: &Channel, queue: &ShortString, exchange: &ShortString) -> lapin::Result<()> {
    let options = QueueBindOptions::default();
    channel
        .queue_bind(
            queue.clone(),
            exchange.clone(),
            queue.clone(),
            options,
            FieldTable::default(),
        )
        .await
}

/// A channel's shard: FNV-1a (64 bits) of its id, its halves xored (its low bits alone depend on
/// the low bits of the id's bytes alone), modulo the number of shards. It must never change, or a
/// new version would put a channel's messages elsewhere than the old one beside it.
fn shard(channel: &ChannelId, shards: usize) -> usize {
    let hash = fnv1a(channel.as_str().as_bytes());
    let folded = (hash >> 32) ^ (hash & u64::from(u32::MAX));
    let shards = u64::try_from(shards).unwrap_or(u64::MAX).max(1);
    usize::try_from(folded % shards).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_keeps_its_shard_from_version_to_version() {
        let shard_of = |id: &str| shard(&id.parse().unwrap(), 7);
        assert_eq!(["echo", "a", "foobar"].map(shard_of), [4, 5, 2]);
    }

    #[test]
    fn channels_spread_over_the_shards() {
        let mut counts = [0_usize; 4];
        for channel in 0..1000 {
            counts[shard(&format!("channel-{channel}").parse().unwrap(), 4)] += 1;
        }
        assert!(counts.iter().all(|count| *count > 200), "{counts:?}");
    }

    #[test]
    fn the_outbound_queue_has_a_queue_for_each_shard_and_one_for_retries() {
        let config = Config {
            outbound_shards: 3,
            ..Config::default()
        };
        let topology = Topology::new(&config);
        let names: Vec<&str> = topology
            .queues(Queue::Outbound)
            .iter()
            .map(ShortString::as_str)
            .collect();
        assert_eq!(
            names,
            [
                "roundtrip.outbound.0",
                "roundtrip.outbound.1",
                "roundtrip.outbound.2",
                "roundtrip.outbound.retry"
            ]
        );
    }
}
