//! Storage for messages that wait long, and the leases of the channels that they wait for.
//!
//! A dispatcher *looks at* a channel: it claims the channel's lease, then reads and delivers its due
//! messages.
//!
//! Invariant: a channel with waiting messages has a record with the time to look at it, which is
//! never later than the next expiry of a message. A put or a wake that happens while the channel is
//! leased takes effect when the lease ends. A channel has at most one lease at a time. A lease that
//! its owner ends leaves no record of a channel without messages.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use roundtrip_model::{
    ChannelId, Entry, EntryId, Event, MessageKind, SessionId, waiting::WaitReason,
};
use time::OffsetDateTime;

use crate::{QueryError, Unavailable};

/// Storage for messages that wait long.
///
/// A dispatcher claims a channel, reads its expired and then its due messages page by page, settles
/// each message that it is done with, and releases the channel.
#[async_trait]
pub trait WaitingRoom: Send + Sync + 'static {
    /// Stores messages. One that is already stored is replaced only if the new replay count, or the
    /// number of attempts at the same replay count, is greater. Their channels are looked at from
    /// the earliest due time or expiry on. If a channel was released with a time, only the expiries
    /// count until it is claimed again. One whose session was erased since its acceptance is not
    /// stored, but recorded as cancelled. After an error some may have been stored; storing all again
    /// completes them.
    async fn put_waiting(&self, messages: &[WaitingMessage]) -> Result<(), Unavailable>;

    /// Leases channels to be looked at, those first that have been due for longest. `owner` is
    /// unique to a process, and its calls do not overlap. It may get a channel again whose lease it
    /// did not extend in time.
    async fn claim_channels(
        &self,
        owner: &str,
        now: OffsetDateTime,
        lease_until: OffsetDateTime,
        limit: u16,
    ) -> Result<Vec<ChannelId>, Unavailable>;

    /// Extends the owner's leases of these channels, and returns the channels that it still has.
    async fn extend_leases(
        &self,
        owner: &str,
        channels: &[ChannelId],
        lease_until: OffsetDateTime,
    ) -> Result<Vec<ChannelId>, Unavailable>;

    /// A channel's due messages after the cursor, in the order of their due times and then ids. A
    /// page ends at [`MAX_PAGE_BYTES`](crate::MAX_PAGE_BYTES) or at its limit, but has at least one
    /// message if any is left.
    async fn due_messages(
        &self,
        channel: &ChannelId,
        after: Option<&WaitingCursor>,
        now: OffsetDateTime,
        limit: u16,
    ) -> Result<Vec<WaitingMessage>, Unavailable>;

    /// A channel's expired messages, due or not, in the order of their expiries and then ids. A page
    /// ends as one of due messages does. The next page is read after these messages are settled.
    async fn expired_messages(
        &self,
        channel: &ChannelId,
        now: OffsetDateTime,
        limit: u16,
    ) -> Result<Vec<WaitingMessage>, Unavailable>;

    /// Settles messages. One that was replaced or removed meanwhile is unchanged. After an error
    /// some may be settled; settling all again completes them.
    async fn settle_waiting(&self, settled: &[SettledRow]) -> Result<(), Unavailable>;

    /// Ends the owner's lease of a channel. A channel without messages is not looked at again. With
    /// `None` the channel is looked at when its next message is due or expires.
    ///
    /// With a time it is looked at then, or earlier when its next message expires, but not before
    /// `now`. Due messages do not make that earlier, whenever they are put: the channel cannot take
    /// them. A wake since the claim or later does. Nothing changes if another owner has the lease.
    ///
    /// If due messages are left, `None` puts the channel before those that became due later. A
    /// present time lets the channels take turns.
    async fn release_channel(
        &self,
        owner: &str,
        channel: &ChannelId,
        now: OffsetDateTime,
        look_at: Option<OffsetDateTime>,
    ) -> Result<(), Unavailable>;

    /// Sets the channel's next look to now, if any message waits for it, also if the channel was
    /// released with a later time.
    async fn wake_channel(
        &self,
        channel: &ChannelId,
        now: OffsetDateTime,
    ) -> Result<(), Unavailable>;

    /// The time from which a held channel can be claimed again. `None` if the channel is not held. A
    /// dispatcher holds a channel when it releases its lease with such a time; from that time on any
    /// dispatcher may claim it. A channel with a current lease is not held.
    async fn held_until(&self, channel: &ChannelId) -> Result<Option<OffsetDateTime>, Unavailable>;

    /// Makes messages due that are due later, wakes their channel, and returns how many they are.
    /// After an error some may be due.
    async fn make_due(
        &self,
        which: &WaitingSelection,
        now: OffsetDateTime,
    ) -> Result<u64, Unavailable>;

    /// A message without its body.
    async fn waiting_message(&self, id: &str) -> Result<Option<WaitingMessage>, Unavailable>;

    /// How many messages wait for a channel, why, and since when. Its cost does not grow with the
    /// number of messages: an engine that keeps no counts stops at
    /// [`max_counted_waiting`](crate::Config::max_counted_waiting) of a reason, and then says that more
    /// wait.
    async fn waiting_summary(&self, channel: &ChannelId) -> Result<WaitingSummary, QueryError>;
}

/// A message that waits. Times are whole milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingMessage {
    /// The id of the queue's message (`msg_…`).
    pub id: String,
    /// The message's channel.
    pub channel_id: ChannelId,
    /// Its session.
    pub session_id: SessionId,
    /// How many times it was replayed.
    pub replay_count: u32,
    /// The attempts made so far at this replay count.
    pub attempts: u32,
    /// When Roundtrip accepted it.
    pub accepted_at: OffsetDateTime,
    /// The earliest time of the next attempt.
    pub due_at: OffsetDateTime,
    /// Why it waits.
    pub reason: WaitReason,
    /// From this time on it is a dead letter.
    pub expires_at: Option<OffsetDateTime>,
    /// The body of the queue's message.
    pub body: Bytes,
}

impl WaitingMessage {
    /// The place of the message among its channel's.
    pub fn cursor(&self) -> WaitingCursor {
        WaitingCursor {
            due_at: self.due_at,
            id: self.id.clone(),
        }
    }

    /// The entry of a cancellation. `None` if the id is no message's.
    pub(crate) fn cancelled(&self, at: OffsetDateTime) -> Option<Entry> {
        Some(Entry {
            entry_id: EntryId::generate(),
            message_id: Some(self.id.parse().ok()?),
            channel_id: Some(self.channel_id.clone()),
            session_id: self.session_id.clone(),
            kind: MessageKind::Outbound,
            replay_count: self.replay_count,
            at,
            event: Event::Cancelled {},
        })
    }

    /// The settlement of the message as it was read.
    pub fn settled(&self, settlement: Settlement) -> SettledRow {
        SettledRow {
            id: self.id.clone(),
            replay_count: self.replay_count,
            attempts: self.attempts,
            settlement,
        }
    }
}

/// A place in the order of a channel's messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingCursor {
    /// The due time of the last message that was read.
    pub due_at: OffsetDateTime,
    /// Its id.
    pub id: String,
}

/// A message that was read, and its settlement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettledRow {
    /// The message.
    pub id: String,
    /// Its replay count when it was read.
    pub replay_count: u32,
    /// Its attempts when it was read.
    pub attempts: u32,
    /// What follows.
    pub settlement: Settlement,
}

/// What follows a delivery of a waiting message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// The message no longer waits.
    Removed,
    /// The message waits on.
    Deferred {
        /// The attempts made so far.
        attempts: u32,
        /// The earliest time of the next one.
        due_at: OffsetDateTime,
        /// Why it waits.
        reason: WaitReason,
    },
}

/// The messages to make due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitingSelection {
    /// The messages of a channel that wait for a retry. Scheduled ones keep their time.
    Channel(ChannelId),
    /// The message with this id.
    Message(String),
}

/// The messages that wait for a channel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WaitingSummary {
    /// How many wait.
    pub count: u64,
    /// Whether more messages wait than are counted.
    pub has_more: bool,
    /// How many wait for each reason. A reason without messages is absent.
    pub reasons: BTreeMap<WaitReason, u64>,
    /// The earliest acceptance.
    pub oldest_accepted_at: Option<OffsetDateTime>,
    /// The earliest due time, which may be past.
    pub next_due_at: Option<OffsetDateTime>,
}

/// The times at which a channel has to be looked at for messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Looks {
    /// The earliest due time.
    pub(crate) due_at: OffsetDateTime,
    /// The earliest expiry.
    pub(crate) expires_at: Option<OffsetDateTime>,
}

/// The earliest due time and expiry of each channel's messages.
pub(crate) fn earliest_looks(messages: &[WaitingMessage]) -> BTreeMap<&ChannelId, Looks> {
    let mut earliest = BTreeMap::new();
    for message in messages {
        let WaitingMessage {
            due_at, expires_at, ..
        } = *message;
        let looks = earliest
            .entry(&message.channel_id)
            .or_insert(Looks { due_at, expires_at });
        looks.due_at = looks.due_at.min(due_at);
        looks.expires_at = looks.expires_at.into_iter().chain(expires_at).min();
    }
    earliest
}

/// The time of a channel's next look: the planned time, or the earliest expiry of a message if that
/// is earlier, but never before `now`.
pub(crate) fn look_no_later<T: Ord>(look_at: T, now: T, next_expiry: Option<T>) -> T {
    match next_expiry {
        Some(expiry) => look_at.min(expiry.max(now)),
        None => look_at,
    }
}
