//! The message of a queue, and the queues.

use bytes::Bytes;
use roundtrip_model::{ChannelId, DeadReason, Waiting};
use time::OffsetDateTime;

/// One message in a queue. The broker does not read the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The message's id (`msg_…`, `cb_…`); it never changes.
    pub id: String,
    /// Number of attempts; a snooze does not count as one.
    pub attempts: u32,
    /// Number of replays; each replay starts again with zero attempts.
    pub replay_count: u32,
    /// When Roundtrip accepted the message, in milliseconds.
    pub accepted_at: OffsetDateTime,
    /// Why the message is dead; set only in dead queues.
    pub dead: Option<DeadReason>,
    /// Why the message waits in the store; set only in the waiting queue, and in what comes from
    /// the store.
    pub waiting: Option<Waiting>,
    pub body: Bytes,
}

impl Message {
    /// A message that was just accepted, without attempts or replays.
    pub fn new(id: String, accepted_at: OffsetDateTime, body: Bytes) -> Self {
        Self {
            id,
            attempts: 0,
            replay_count: 0,
            accepted_at,
            dead: None,
            waiting: None,
            body,
        }
    }

    /// The message as it is published to this queue, without what belongs to other queues.
    pub(crate) fn published_to(self, queue: Queue) -> Self {
        Self {
            dead: self.dead.filter(|_| queue == queue.dead()),
            waiting: self.waiting.filter(|_| queue == Queue::Waiting),
            ..self
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Queue {
    /// Messages for channels: the shards of new messages, and the retries. They are consumed in
    /// turn.
    Outbound,
    Callbacks,
    /// Messages that get no further attempt.
    OutboundDead,
    /// Answers that get no further attempt.
    CallbacksDead,
    Journal,
    JournalDead,
    Waiting,
    /// Notices for the operator's server.
    Notices,
    /// Notices that get no further attempt.
    NoticesDead,
}

// A queue's place in `ALL` is its discriminant: arrays with an item for each queue rely on it.
const _: () = {
    let mut at = 0;
    while at < Queue::ALL.len() {
        assert!(Queue::ALL[at] as usize == at);
        at += 1;
    }
};

impl Queue {
    pub const ALL: [Self; 9] = [
        Self::Outbound,
        Self::Callbacks,
        Self::OutboundDead,
        Self::CallbacksDead,
        Self::Journal,
        Self::JournalDead,
        Self::Waiting,
        Self::Notices,
        Self::NoticesDead,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Callbacks => "callbacks",
            Self::OutboundDead => "outbound.dead",
            Self::CallbacksDead => "callbacks.dead",
            Self::Journal => "journal",
            Self::JournalDead => "journal.dead",
            Self::Waiting => "waiting",
            Self::Notices => "notices",
            Self::NoticesDead => "notices.dead",
        }
    }

    /// The dead queue of this queue; a dead queue's is itself.
    pub const fn dead(self) -> Self {
        match self {
            Self::Outbound | Self::OutboundDead | Self::Waiting => Self::OutboundDead,
            Self::Callbacks | Self::CallbacksDead => Self::CallbacksDead,
            Self::Journal | Self::JournalDead => Self::JournalDead,
            Self::Notices | Self::NoticesDead => Self::NoticesDead,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route<'a> {
    /// The outbound queue; the channel determines the shard.
    Outbound(&'a ChannelId),
    Callbacks,
    Journal,
    /// The waiting queue, for a message that cannot go now. Its [`Message::waiting`] is set.
    Waiting,
    /// The dead queue of outbound messages. Its [`Message::dead`] is set.
    OutboundDead,
    Notices,
}

impl Route<'_> {
    pub const fn queue(&self) -> Queue {
        match self {
            Self::Outbound(_) => Queue::Outbound,
            Self::Callbacks => Queue::Callbacks,
            Self::Journal => Queue::Journal,
            Self::Waiting => Queue::Waiting,
            Self::OutboundDead => Queue::OutboundDead,
            Self::Notices => Queue::Notices,
        }
    }
}
