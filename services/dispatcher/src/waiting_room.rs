//! Consumes the messages that wait in the store, as a queue is consumed.
//!
//! A claimed channel is a lane: one task reads the channel's due messages in order, hands at most
//! `max_in_flight` of them to the worker loop, and releases the channel when none is due or the
//! channel cannot take them now. Expired messages come first, and also those of a paused channel.
//!
//! Invariant: a message is handed out only under its channel's lease, and its row stays in the store
//! until its settlement is written. So if the process dies, another one delivers what was under way
//! again, under the same `webhook-id`, after [`LEASE`].

mod lane;

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::FutureExt;
use parking_lot::Mutex;
use roundtrip_broker::{Consumer, Delivery, SharedBroker};
use roundtrip_model::{ChannelId, Clock, LogThrottle};
use roundtrip_store::{BulkWriter, CachedChannels, SettledRow, SharedStore, Unavailable};
use tokio::{
    sync::{Semaphore, mpsc},
    task::{Id, JoinError, JoinSet},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::lane::{Ended, Lane};

/// How often the store is asked for channels with due messages. Half of the time within which a
/// resumed channel's first message goes out.
const CLAIM_EVERY: Duration = Duration::from_millis(500);

/// The most channels whose messages one process reads from the store at once. It bounds the pages in
/// memory.
const MAX_READING: u16 = 64;

/// A lease that is not extended for this long is taken over by another process.
const LEASE: Duration = Duration::from_secs(30);

/// How often leases are extended.
const EXTEND_EVERY: Duration = Duration::from_secs(10);

/// No message is handed out in the last part of a lease.
const LEASE_RESERVE: Duration = Duration::from_secs(5);

/// The most settlements that wait to be written together. The worker loop bounds their number too.
const MAX_SETTLEMENTS: u16 = 1024;

static STORE_UNAVAILABLE: LogThrottle = LogThrottle::every(Duration::from_mins(1));

/// What the lanes share.
struct Room {
    store: SharedStore,
    broker: SharedBroker,
    channels: Arc<CachedChannels>,
    clock: Arc<dyn Clock>,
    settlements: BulkWriter<SettledRow>,
    /// Unique to this process; it names its leases.
    owner: String,
    /// `max_in_flight` of a channel that sets none.
    max_in_flight: usize,
    /// How long a paused channel is left alone, unless it is woken.
    paused: Duration,
    /// When the leases of this process' lanes end: the earliest end of all.
    leased_until: Mutex<Instant>,
    /// One permit for each lane that may read messages.
    reading: Arc<Semaphore>,
}

/// The store's waiting messages as a queue. Dropping it ends the lanes when their messages are
/// settled.
pub struct WaitingRoom {
    deliveries: mpsc::Receiver<Delivery>,
}

impl WaitingRoom {
    /// Starts to claim channels.
    pub fn open(
        config: &crate::Config,
        store: SharedStore,
        broker: SharedBroker,
        channels: Arc<CachedChannels>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let written = Arc::clone(&store);
        let settlements = BulkWriter::start("settlements", MAX_SETTLEMENTS, move |rows| {
            let store = Arc::clone(&written);
            async move { store.settle_waiting(rows).await }.boxed()
        });
        let room = Room {
            store,
            broker,
            channels,
            clock,
            settlements,
            owner: Uuid::now_v7().simple().to_string(),
            max_in_flight: usize::from(config.max_in_flight_per_channel),
            paused: config.paused_snooze,
            leased_until: Mutex::new(Instant::now()),
            reading: Arc::new(Semaphore::new(usize::from(MAX_READING))),
        };
        // The worker loop takes a message as soon as it has a permit.
        let (sender, deliveries) = mpsc::channel(1);
        tokio::spawn(claim(Arc::new(room), sender));
        Self { deliveries }
    }
}

#[async_trait]
impl Consumer for WaitingRoom {
    async fn next(&mut self) -> Option<Delivery> {
        self.deliveries.recv().await
    }
}

impl Drop for WaitingRoom {
    /// What the worker loop did not take returns to its lane.
    fn drop(&mut self) {
        self.deliveries.close();
        while let Ok(delivery) = self.deliveries.try_recv() {
            delivery.release();
        }
    }
}

/// The lanes of this process.
#[derive(Default)]
struct Lanes {
    /// The lanes, and the releases of ended ones, which return `None`.
    running: JoinSet<Option<Ended>>,
    /// Each lane's channel, and the token that ends it when its lease is lost.
    channels: HashMap<Id, (ChannelId, CancellationToken)>,
}

impl Lanes {
    fn start(&mut self, room: &Arc<Room>, channel: ChannelId, deliveries: &mpsc::Sender<Delivery>) {
        // The lease ended, and this process claimed the channel again. Its first lane still runs.
        if self.channels.values().any(|(known, _)| *known == channel) {
            return;
        }
        let Ok(permit) = Arc::clone(&room.reading).try_acquire_owned() else {
            // The lease ends by itself. No claim asks for more channels than there are permits.
            return;
        };
        let lost = CancellationToken::new();
        let lane = Lane::new(Arc::clone(room), channel.clone(), lost.clone(), permit);
        let task = self.running.spawn(lane.run(deliveries.clone()));
        self.channels.insert(task.id(), (channel, lost));
    }

    /// Forgets a lane that has ended, then releases its channel. In the other order a claim could return
    /// the channel while it is still known here, and no lane would start for it.
    fn joined(&mut self, room: &Arc<Room>, joined: Result<(Id, Option<Ended>), JoinError>) {
        let (task, ended) = match joined {
            Ok(ended) => ended,
            // The panic hook has logged it. The lease ends by itself.
            Err(panicked) => (panicked.id(), None),
        };
        self.channels.remove(&task);
        if let Some(ended) = ended {
            let room = Arc::clone(room);
            self.running.spawn(async move {
                room.give_back(ended).await;
                None
            });
        }
    }

    /// Ends the lanes whose lease this process no longer has.
    fn keep(&self, held: &[ChannelId]) {
        for (channel, lost) in self.channels.values() {
            if !held.contains(channel) {
                lost.cancel();
            }
        }
    }

    fn names(&self) -> Vec<ChannelId> {
        let names = self.channels.values();
        names.map(|(channel, _)| channel.clone()).collect()
    }
}

/// Claims channels and keeps their leases, until the consumer is dropped and the lanes have ended.
async fn claim(room: Arc<Room>, deliveries: mpsc::Sender<Delivery>) {
    let ticks = |period| {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    };
    let (mut claims, mut extensions) = (ticks(CLAIM_EVERY), ticks(EXTEND_EVERY));
    let mut lanes = Lanes::default();
    loop {
        let is_closed = deliveries.is_closed();
        if is_closed && lanes.running.is_empty() {
            return;
        }
        tokio::select! {
            Some(joined) = lanes.running.join_next_with_id() => lanes.joined(&room, joined),
            _ = extensions.tick(), if !lanes.channels.is_empty() => {
                if let Some(held) = room.extend(&lanes.names()).await {
                    lanes.keep(&held);
                }
            }
            // A lane frees its place without an event here, so the tick looks.
            _ = claims.tick(), if !is_closed => if room.free_lanes() > 0 {
                for channel in room.claim(lanes.channels.is_empty()).await {
                    lanes.start(&room, channel, &deliveries);
                }
            },
        }
    }
}

impl Room {
    /// Claims channels; none while the store is unavailable.
    async fn claim(&self, is_first: bool) -> Vec<ChannelId> {
        let asked = Instant::now();
        let now = self.clock.now();
        let claimed = self
            .store
            .claim_channels(&self.owner, now, now + LEASE, self.free_lanes());
        match claimed.await {
            Ok(channels) => {
                if is_first {
                    self.set_leased_until(asked + LEASE);
                }
                channels
            }
            Err(error) => {
                note(&error);
                Vec::new()
            }
        }
    }

    /// Extends the leases of these channels; returns those that this process still has.
    async fn extend(&self, channels: &[ChannelId]) -> Option<Vec<ChannelId>> {
        let asked = Instant::now();
        let until = self.clock.now() + LEASE;
        match self.store.extend_leases(&self.owner, channels, until).await {
            Ok(held) => {
                self.set_leased_until(asked + LEASE);
                Some(held)
            }
            Err(error) => {
                note(&error);
                None
            }
        }
    }

    /// Ends the lease of a channel.
    async fn give_back(&self, ended: Ended) {
        let now = self.clock.now();
        let look_at = ended.look_again_after.map(|after| now + after);
        let store = &self.store;
        let released = store.release_channel(&self.owner, &ended.channel, now, look_at);
        // Otherwise the lease ends by itself.
        if let Ok(Err(error)) = timeout(LEASE, released).await {
            note(&error);
        }
    }

    /// How many more channels this process may read. A lane that only waits for its last settlements
    /// does not count: the worker loop bounds how many messages such lanes have.
    fn free_lanes(&self) -> u16 {
        u16::try_from(self.reading.available_permits()).unwrap_or(MAX_READING)
    }

    fn set_leased_until(&self, until: Instant) {
        *self.leased_until.lock() = until;
    }

    /// Until when messages may be handed out.
    fn hand_out_until(&self) -> Instant {
        *self.leased_until.lock() - LEASE_RESERVE
    }
}

fn note(error: &Unavailable) {
    if let Some(suppressed) = STORE_UNAVAILABLE.due(Instant::now().into_std()) {
        tracing::warn!(%error, suppressed, "the store is unavailable; waiting messages are delivered when it responds again");
    }
}

#[cfg(test)]
mod tests;
