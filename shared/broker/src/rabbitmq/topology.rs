//! The exchanges and queues, and the way of a message through them.
//!
//! | name | what |
//! |---|---|
//! | `{ns}.direct` | direct exchange; a queue is bound by its own name |
//! | `{ns}.outbound.0` … | work queues, one per shard |
//! | `{ns}.outbound.retry` | work queue: retries and snoozes of every shard |
//! | `{ns}.callbacks`, `{ns}.journal`, `{ns}.waiting`, `{ns}.notices` | work queues |
//! | `{ns}.outbound.dead`, `{ns}.callbacks.dead`, `{ns}.journal.dead`, `{ns}.notices.dead` | dead queues |
//! | `{ns}.delay.1s` … | per tier a fanout exchange and its queue, which dead-letters expired messages to `{ns}.direct` |
//! | `{ns}.notes.{mailbox}.{n}` | transient queue of one process, for its notes (`notes.rs`), bound by `{ns}.notes.{mailbox}` |
//!
//! A tier's exchange is a fanout, and its queue has no dead-letter routing key. A message therefore
//! keeps its routing key through the tier: the queue that it left, or `outbound.retry`. That queue
//! is consumed in turn with the shards, so that first attempts and retries never wait behind each
//! other's backlog.
//!
//! Invariant: every queue except those of notes is a quorum queue that rejects publishes when it is
//! full and dead-letters at least once. Declaring everything again changes nothing.

use std::time::Duration;

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use roundtrip_model::{ChannelId, MailboxId};

use super::{
    differences::{Differences, LEADER_LOCATOR},
    hash::fnv1a,
    tiers::{TIERS, longest, quantise},
};
use crate::{Config, Queue, Route};

/// Maximum length of a work queue, unless a policy sets a lower one. A queue's arguments never
/// change, so a policy carries the configurable `broker.max_backlog` (docs/operations.md).
pub(super) const MAX_LENGTH: u64 = 10_000_000;

/// Maximum bytes of bodies in a work queue, unless a policy sets a lower one.
pub(super) const MAX_LENGTH_BYTES: u64 = 10 << 30;

/// How often the broker redelivers a message whose consumer died before it becomes a dead letter.
/// It is explicit because RabbitMQ's default changed between versions.
const DELIVERY_LIMIT: i64 = 20;

/// Effectively no limit. RabbitMQ 4 has a default limit, and 3.10 rejects its value for "none". A
/// dead queue has no dead-letter target of its own. Journal entries and waiting messages are
/// redelivered for as long as the store is unavailable, which is no fault of theirs.
const NO_DELIVERY_LIMIT: i64 = 1_000_000_000;

/// A destination: one of the queues, directly or through a tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address {
    /// The index of a tier.
    tier: Option<usize>,
    queue: Queue,
    shard: usize,
}

impl Address {
    pub(super) const fn queue(self) -> Queue {
        self.queue
    }

    /// Whether the destination is reached directly, without a tier.
    pub(super) const fn is_new(self) -> bool {
        self.tier.is_none()
    }

    pub(super) const fn of(queue: Queue) -> Self {
        Self {
            tier: None,
            queue,
            shard: 0,
        }
    }

    pub(super) const fn dead(queue: Queue) -> Self {
        Self::of(queue.dead())
    }
}

#[derive(Debug)]
pub(super) struct Topology {
    direct: ShortString,
    /// The beginning of the names of everything for notes.
    notes: String,
    /// The RabbitMQ queues behind each queue, indexed as [`Queue::ALL`].
    queues: [Vec<ShortString>; Queue::ALL.len()],
    /// A tier's exchange and queue share a name.
    tiers: Vec<ShortString>,
    differences: Differences,
}

impl Topology {
    pub(super) fn new(config: &Config) -> Self {
        let ns = &config.namespace;
        let names = |queue: Queue| -> Vec<ShortString> {
            let name = format!("{ns}.{}", queue.name());
            if queue != Queue::Outbound {
                return vec![name.into()];
            }
            let shards = (0..config.outbound_shards).map(|shard| shard.to_string());
            shards
                .chain(["retry".to_owned()])
                .map(|end| format!("{name}.{end}").into())
                .collect()
        };
        Self {
            direct: format!("{ns}.direct").into(),
            notes: format!("{ns}.notes"),
            queues: Queue::ALL.map(names),
            tiers: (0..TIERS)
                .map(|tier| format!("{ns}.delay.{}s", longest(tier).as_secs()).into())
                .collect(),
            differences: Differences::default(),
        }
    }

    /// The RabbitMQ queues behind a queue. The outbound queue has its shards, followed by the queue of
    /// retries; every other queue is a single one.
    pub(super) fn queues(&self, queue: Queue) -> &[ShortString] {
        &self.queues[queue as usize]
    }

    fn shards(&self) -> usize {
        self.queues(Queue::Outbound).len() - 1
    }

    /// The destinations of the API's messages and answers: the shards, and the callbacks.
    pub(super) fn new_messages(&self) -> (&[ShortString], &[ShortString]) {
        let shards = &self.queues(Queue::Outbound)[..self.shards()];
        (shards, self.queues(Queue::Callbacks))
    }

    pub(super) fn address(&self, route: Route<'_>) -> Address {
        let address = Address::of(route.queue());
        match route {
            Route::Outbound(channel) => Address {
                shard: shard(channel, self.shards()),
                ..address
            },
            _ => address,
        }
    }

    /// The destination of a queue's delayed messages, and their expiry in the tier.
    pub(super) fn delayed(&self, queue: Queue, delay: Duration) -> (Address, u64) {
        let (tier, expiry) = quantise(delay);
        let address = Address {
            tier: Some(tier),
            queue,
            shard: self.queues(queue).len() - 1,
        };
        (address, expiry)
    }

    pub(super) fn exchange(&self, address: Address) -> &ShortString {
        address.tier.map_or(&self.direct, |tier| &self.tiers[tier])
    }

    /// The exchange of notes, and the routing key of those for this mailbox.
    pub(super) fn notes(&self, mailbox: MailboxId) -> (ShortString, ShortString) {
        let key = format!("{}.{mailbox}", self.notes);
        (self.direct.clone(), key.into())
    }

    pub(super) fn key(&self, address: Address) -> &ShortString {
        &self.queues(address.queue)[address.shard]
    }

    pub(super) fn queue(&self, address: Address) -> &ShortString {
        address
            .tier
            .map_or_else(|| self.key(address), |tier| &self.tiers[tier])
    }

    /// Everything to declare, in order. Dead queues come before the work queues that dead-letter to
    /// them.
    pub(super) fn declarations(&self) -> Vec<Declaration<'_>> {
        let (dead, work): (Vec<_>, Vec<_>) = Queue::ALL
            .into_iter()
            .partition(|queue| queue.dead() == *queue);
        let queues = dead.into_iter().chain(work).flat_map(|queue| {
            let names = self.queues(queue).iter();
            names.map(move |name| self.declaration(queue, name))
        });
        let tiers = self.tiers.iter().map(|name| Declaration::Tier {
            name,
            arguments: expires_into(&self.direct),
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

    /// Declares it if it is missing; an existing queue is declared with its known differences.
    ///
    /// # Errors
    /// If the broker refuses, which closes the channel.
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

    fn applied(&self, arguments: &FieldTable, name: &ShortString) -> FieldTable {
        self.differences.applied_to(arguments.clone(), name)
    }

    /// Whether a refused declare should be repeated: the existing queue differs in an argument that
    /// may differ, and the next declare uses the existing value.
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
        let mut arguments = expires_into(&self.direct);
        arguments.insert(
            "x-dead-letter-routing-key".into(),
            text(self.key(Address::dead(queue)).as_str()),
        );
        let limit = match queue {
            Queue::Journal | Queue::Waiting => NO_DELIVERY_LIMIT,
            _ => DELIVERY_LIMIT,
        };
        arguments.insert("x-delivery-limit".into(), limit.into());
        for (argument, limit) in [
            ("x-max-length", MAX_LENGTH),
            ("x-max-length-bytes", MAX_LENGTH_BYTES),
        ] {
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            arguments.insert(argument.into(), limit.into());
        }
        arguments
    }
}

/// At-least-once dead-lettering needs both the strategy and `reject-publish`; with only one of them
/// RabbitMQ silently falls back to at most once.
fn expires_into(exchange: &ShortString) -> FieldTable {
    let mut arguments = quorum();
    arguments.insert("x-dead-letter-exchange".into(), text(exchange.as_str()));
    arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
    arguments.insert("x-overflow".into(), text("reject-publish"));
    arguments
}

/// Whether an existing queue may differ in this argument because another version declared it.
/// `None` means a tier's queue. Any other difference breaks a promise: another queue type, a work
/// queue that drops its oldest messages, or a dead queue with a delivery limit.
fn may_differ(queue: Option<Queue>, argument: &str) -> bool {
    match argument {
        // Determines where the members are, without affecting messages.
        LEADER_LOCATOR | "x-quorum-initial-group-size" => true,
        "x-max-length" | "x-max-length-bytes" => queue.is_some_and(|queue| queue.dead() != queue),
        "x-delivery-limit" => matches!(
            queue,
            Some(Queue::Outbound | Queue::Callbacks | Queue::Notices)
        ),
        "x-overflow" => queue.is_some_and(|queue| queue.dead() == queue),
        _ => false,
    }
}

/// With `reject-publish`, a policy's `max-length` rejects the newest dead letter, which then stays
/// in its queue. Otherwise the queue would drop its oldest one.
fn dead_arguments() -> FieldTable {
    let mut arguments = quorum();
    arguments.insert("x-delivery-limit".into(), NO_DELIVERY_LIMIT.into());
    arguments.insert("x-overflow".into(), text("reject-publish"));
    arguments
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    // By default a queue's leader is on the declaring node, and one process declares every queue.
    arguments.insert(LEADER_LOCATOR.into(), text("balanced"));
    arguments
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// An exchange or a queue, with its bindings.
///
/// An existing one with other arguments (another queue type) is refused and unused, unless
/// [`may_differ`] allows the difference. No service is better than one that breaks its promises.
pub(super) enum Declaration<'a> {
    Direct(&'a ShortString),
    Queue {
        queue: Queue,
        name: &'a ShortString,
        exchange: &'a ShortString,
        arguments: FieldTable,
    },
    /// An exchange and a queue with the same name.
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

/// A channel's shard: FNV-1a (64 bits) of its id, the halves xored, modulo the number of shards.
/// Without the xor the low bits would depend only on the low bits of the id's bytes. It must never
/// change: two versions side by side would use different shards for one channel.
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
