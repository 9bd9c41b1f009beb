//! One channel's messages on their way from the store to the worker loop.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use backoff::backoff::Backoff;
use roundtrip_broker::{Delivery, Message, PublishError, Route, Settle, SettleError, Settlement};
use roundtrip_model::{ChannelId, Waiting, retry::reconnect, waiting::WaitReason};
use roundtrip_store::{self as store, ChannelError, SettledRow, WaitingCursor, WaitingMessage};
use time::{OffsetDateTime, macros::datetime};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{Room, note};

/// The most messages that one read loads. Its bytes have a bound in the store.
const PAGE: u16 = 128;

/// After this time a lane goes back to the channel's first waiting message: messages that it has read may
/// have been cancelled or have expired, and new ones may be due before them. If this process reads as
/// many channels as it may, the lane ends instead, so that another channel gets a turn.
const TURN: Duration = Duration::from_secs(10);

/// A channel that cannot take its messages for this long is released.
const LONG: Duration = Duration::from_secs(5);

/// No message is due later.
const NEVER: OffsetDateTime = datetime!(9999-12-31 23:59:59 UTC);

/// When a message that was returned unsettled is handed out again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How long the publish of a dead letter is repeated if the broker does not accept it. Then the
/// message stays in the store and is handed out again.
const BROKER_PATIENCE: Duration = Duration::from_mins(5);

/// What happened to a message that was handed out.
enum Event {
    Settled(String),
    /// It was not attempted, and may be again after this time.
    Returned(String, Duration),
}

/// A lane that has ended, and whose process still has the channel's lease.
pub(super) struct Ended {
    pub(super) channel: ChannelId,
    /// `None` when its next message is due.
    pub(super) look_again_after: Option<Duration>,
}

pub(super) struct Lane {
    room: Arc<Room>,
    channel: ChannelId,
    /// Cancelled when another process has the lease.
    lost: CancellationToken,
    events: mpsc::UnboundedReceiver<Event>,
    /// For the leases of its messages. The worker loop bounds how many there are.
    report: mpsc::UnboundedSender<Event>,
    /// Read and not handed out, in order.
    ready: VecDeque<WaitingMessage>,
    handed_out: HashMap<String, WaitingMessage>,
    /// The last message that was read.
    cursor: Option<WaitingCursor>,
    /// Whether the expired messages were read, and settled.
    are_expired_read: bool,
    /// Whether no further message is due.
    is_read: bool,
    /// Lets the lane read messages; `None` once nothing more is handed out.
    reading: Option<OwnedSemaphorePermit>,
    /// When the channel is to be looked at after its lease; `None` when its next message is due.
    look_again_after: Option<Duration>,
    /// No message is handed out before.
    not_before: Instant,
    max_in_flight: usize,
}

impl Lane {
    pub(super) fn new(
        room: Arc<Room>,
        channel: ChannelId,
        lost: CancellationToken,
        reading: OwnedSemaphorePermit,
    ) -> Self {
        let (report, events) = mpsc::unbounded_channel();
        Self {
            max_in_flight: room.max_in_flight,
            room,
            channel,
            lost,
            events,
            report,
            ready: VecDeque::new(),
            handed_out: HashMap::new(),
            cursor: None,
            are_expired_read: false,
            is_read: false,
            reading: Some(reading),
            look_again_after: None,
            not_before: Instant::now(),
        }
    }

    /// Runs until no message is due, the channel takes none, or the lease is lost. Returns when the
    /// channel is to be looked at again; `None` if another process has it.
    pub(super) async fn run(mut self, deliveries: mpsc::Sender<Delivery>) -> Option<Ended> {
        let mut turn_ends = Instant::now() + TURN;
        loop {
            while self.wants_to_read() {
                self.read().await;
            }
            let is_ending = self.reading.is_none();
            if self.ready.is_empty() && self.handed_out.is_empty() {
                break;
            }
            let has_next = !self.ready.is_empty() && self.handed_out.len() < self.max_in_flight;
            let now = Instant::now();
            let may_go = now >= self.not_before && now < self.room.hand_out_until();
            // Near the end of the lease it waits until the lease is extended.
            let then = self.not_before.max(now + Duration::from_millis(100));
            tokio::select! {
                biased;
                Some(event) = self.events.recv() => self.note(event),
                () = self.lost.cancelled(), if !is_ending => self.end(None),
                () = sleep_until(turn_ends), if !is_ending => {
                    turn_ends = Instant::now() + TURN;
                    if self.room.free_lanes() == 0 {
                        self.end(Some(Duration::ZERO));
                    } else {
                        self.read_again();
                    }
                }
                () = deliveries.closed(), if !is_ending => self.end(Some(Duration::ZERO)),
                permit = deliveries.reserve(), if has_next && may_go => {
                    if let (Ok(permit), Some(delivery)) = (permit, self.next()) {
                        permit.send(delivery);
                    }
                }
                () = sleep_until(then), if has_next && !may_go => {}
            }
        }
        (!self.lost.is_cancelled()).then_some(Ended {
            channel: self.channel,
            look_again_after: self.look_again_after,
        })
    }

    fn wants_to_read(&self) -> bool {
        // A page of expired messages may repeat those that are handed out. If fewer are handed out than
        // a page holds, the page also has room for a new one.
        let may_read = self.are_expired_read || self.handed_out.len() < usize::from(PAGE);
        let has_more = self.reading.is_some() && !self.is_read;
        self.ready.is_empty() && may_read && has_more
    }

    /// Reads the channel's expired messages, then its settings and its next due messages. The
    /// pipeline rejects an expired message whatever holds its channel, so not even a paused channel
    /// keeps one.
    async fn read(&mut self) {
        let now = self.room.clock.now();
        let store = Arc::clone(&self.room.store);
        if !self.are_expired_read {
            match store.expired_messages(&self.channel, now, PAGE).await {
                Ok(expired) => {
                    self.add(expired);
                    if !self.ready.is_empty() {
                        return;
                    }
                    self.are_expired_read = true;
                }
                Err(error) => {
                    note(&error);
                    self.end(Some(LONG));
                    return;
                }
            }
        }
        let mut due_until = now;
        match self.room.channels.get_now(&self.channel).await {
            Ok(known) => {
                let settings = &known.target.settings;
                if settings.paused {
                    self.end(Some(self.room.paused));
                    return;
                }
                let own = settings.max_in_flight.map(usize::from);
                self.max_in_flight = own.unwrap_or(self.room.max_in_flight).max(1);
            }
            // The pipeline makes all its messages dead letters, so none waits for its time.
            Err(ChannelError::NotFound(_)) => {
                self.room.channels.forget(&self.channel).await;
                due_until = NEVER;
            }
            // The pipeline decides about a channel that cannot be read now.
            Err(_) => {}
        }
        let due = store.due_messages(&self.channel, self.cursor.as_ref(), due_until, PAGE);
        match due.await {
            Ok(messages) => {
                self.is_read = messages.is_empty();
                self.cursor = messages
                    .last()
                    .map(WaitingMessage::cursor)
                    .or(self.cursor.take());
                self.add(messages);
            }
            Err(error) => {
                note(&error);
                self.end(Some(LONG));
            }
        }
    }

    /// Adds messages that were read. Those that are handed out are still in the store.
    fn add(&mut self, read: Vec<WaitingMessage>) {
        let handed_out = &self.handed_out;
        let new = read
            .into_iter()
            .filter(|message| !handed_out.contains_key(&message.id));
        self.ready.extend(new);
    }

    /// Forgets what was read and is not handed out.
    fn read_again(&mut self) {
        self.ready.clear();
        self.cursor = None;
        self.are_expired_read = false;
        self.is_read = false;
    }

    /// Takes the next message out of the lane.
    fn next(&mut self) -> Option<Delivery> {
        let row = self.ready.pop_front()?;
        let message = Message {
            id: row.id.clone(),
            attempts: row.attempts,
            replay_count: row.replay_count,
            accepted_at: row.accepted_at,
            dead: None,
            waiting: Some(Waiting {
                due_at: row.due_at,
                reason: row.reason,
            }),
            body: row.body.clone(),
        };
        let lease = RowLease {
            room: Arc::clone(&self.room),
            id: row.id.clone(),
            report: Some(self.report.clone()),
        };
        self.handed_out.insert(row.id.clone(), row);
        Some(Delivery::new(message, Box::new(lease)))
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Settled(id) => {
                self.handed_out.remove(&id);
                self.not_before = Instant::now();
            }
            Event::Returned(id, after) => {
                let Some(row) = self.handed_out.remove(&id) else {
                    return;
                };
                if self.reading.is_none() {
                    return;
                }
                if after >= LONG {
                    // Another process may be able to deliver.
                    self.end(Some(after.min(self.room.paused)));
                    return;
                }
                let place = |row: &WaitingMessage| (row.due_at, row.id.clone());
                let at = self
                    .ready
                    .partition_point(|other| place(other) < place(&row));
                self.ready.insert(at, row);
                self.not_before = Instant::now() + after;
            }
        }
    }

    /// Hands nothing more out.
    fn end(&mut self, look_again_after: Option<Duration>) {
        self.reading = None;
        self.ready.clear();
        self.look_again_after = look_again_after;
    }
}

/// One message that was handed out. Dropping it returns the message to its lane.
struct RowLease {
    room: Arc<Room>,
    /// The message's.
    id: String,
    /// `None` once the lane was notified.
    report: Option<mpsc::UnboundedSender<Event>>,
}

impl RowLease {
    fn end(&mut self, event: Event) {
        if let Some(report) = self.report.take() {
            // A lane that is gone has lost the lease, or the process stops.
            let _ = report.send(event);
        }
    }

    /// Publishes the dead letter. The row stays until the confirm.
    async fn publish_dead(&self, dead: Message) -> Result<(), PublishError> {
        let deadline = Instant::now() + BROKER_PATIENCE;
        let mut waits = reconnect();
        loop {
            let published = self.room.broker.publish(Route::OutboundDead, dead.clone());
            let wait = waits.next_backoff().unwrap_or(waits.max_interval);
            match published.await {
                Err(_) if Instant::now() + wait < deadline => sleep(wait).await,
                done => return done,
            }
        }
    }
}

#[async_trait]
impl Settle for RowLease {
    async fn settle(
        mut self: Box<Self>,
        message: Message,
        settlement: Settlement,
    ) -> Result<(), SettleError> {
        let (id, replay_count, before) = (self.id.clone(), message.replay_count, message.attempts);
        let settlement = match settlement {
            // A snooze: nothing changes but the time of the next look.
            Settlement::Defer { delay, attempts } if attempts == before => {
                self.end(Event::Returned(id, delay));
                return Ok(());
            }
            Settlement::Ack => store::Settlement::Removed,
            Settlement::Defer { delay, attempts } => store::Settlement::Deferred {
                attempts,
                due_at: self.room.clock.now() + delay,
                reason: WaitReason::Retry,
            },
            Settlement::Wait { waiting, attempts } => store::Settlement::Deferred {
                attempts,
                due_at: waiting.due_at,
                reason: waiting.reason,
            },
            Settlement::Dead { reason, attempts } => {
                let dead = Message {
                    attempts,
                    dead: Some(reason),
                    waiting: None,
                    ..message
                };
                self.publish_dead(dead).await?;
                store::Settlement::Removed
            }
        };
        let row = SettledRow {
            id: id.clone(),
            replay_count,
            attempts: before,
            settlement,
        };
        let written = self.room.settlements.write(vec![row]).await;
        written.map_err(|error| SettleError::Lost(error.to_string()))?;
        self.end(Event::Settled(id));
        Ok(())
    }

    fn release(self: Box<Self>) {}
}

impl Drop for RowLease {
    fn drop(&mut self) {
        let id = self.id.clone();
        self.end(Event::Returned(id, AGAIN_AFTER));
    }
}
