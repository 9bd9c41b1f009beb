//! What travels through a queue, and which queues there are.

use bytes::Bytes;
use roundtrip_model::{ChannelId, DeadReason};
use time::OffsetDateTime;

/// One message in a queue. The broker reads none of the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parcel {
    /// The message's own id (`msg_…`, `cb_…`); it never changes.
    pub id: String,
    /// How many times it was worked on; parking does not count.
    pub tries: u32,
    /// How many times it was replayed; its tries begin anew each time.
    pub round: u32,
    /// When Roundtrip accepted it. Carried at millisecond precision.
    pub accepted_at: OffsetDateTime,
    /// Why it is dead; only in dead queues.
    pub dead: Option<DeadReason>,
    /// JSON.
    pub body: Bytes,
}

/// A queue to consume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Queue {
    /// Messages for channels: new ones (in RabbitMQ several shards) and those that were put off,
    /// consumed as one, in turn.
    Outbound,
    /// Answers for the sessions server.
    Callbacks,
    /// Messages that no further try will be made of.
    OutboundDead,
    /// Answers that no further try will be made of.
    CallbacksDead,
    /// What happened to messages, on its way to the store.
    Journal,
    /// Journal entries that nobody can read.
    JournalDead,
}

impl Queue {
    /// Every queue.
    pub const ALL: [Self; 6] = [
        Self::Outbound,
        Self::Callbacks,
        Self::OutboundDead,
        Self::CallbacksDead,
        Self::Journal,
        Self::JournalDead,
    ];

    /// The queue's name, as an operator reads it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Callbacks => "callbacks",
            Self::OutboundDead => "outbound.dead",
            Self::CallbacksDead => "callbacks.dead",
            Self::Journal => "journal",
            Self::JournalDead => "journal.dead",
        }
    }

    /// Where this queue's parcels go when they are dead; a dead queue is its own.
    #[must_use]
    pub const fn dead(self) -> Self {
        match self {
            Self::Outbound | Self::OutboundDead => Self::OutboundDead,
            Self::Callbacks | Self::CallbacksDead => Self::CallbacksDead,
            Self::Journal | Self::JournalDead => Self::JournalDead,
        }
    }
}

/// Where a new parcel goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route<'a> {
    /// To the outbound queue; the channel chooses the shard.
    Outbound(&'a ChannelId),
    /// To the callbacks queue.
    Callbacks,
    /// To the journal queue.
    Journal,
}

impl Route<'_> {
    /// The queue that the route leads to.
    #[must_use]
    pub const fn queue(&self) -> Queue {
        match self {
            Self::Outbound(_) => Queue::Outbound,
            Self::Callbacks => Queue::Callbacks,
            Self::Journal => Queue::Journal,
        }
    }
}
