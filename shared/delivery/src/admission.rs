//! Admission: which delivery starts now, which waits a moment, which is deferred.
//!
//! Deliveries compete for a fixed number of slots. Each belongs to a key: the channel that it is
//! for, or came from. A key that hangs or fails costs the others little.
//!
//! Invariant: a delivery holds a [`Permit`], and permits keep to these bounds:
//!
//! - a key never exceeds its cap;
//! - a key never has more permits than it leaves free for all others together. A hung key takes at
//!   most half of the slots, a second one half of the rest, and so on;
//! - each key known to be slow (a second or more) gets at most a quarter of the free slots. All
//!   slow keys together leave the last eighth of the slots free;
//! - a key with an open breaker gets none, with a half-open one a few;
//! - if all keys share one server, and most of several keys fail, all keys together get a few.
//!
//! A delivery without a permit gives its slot back at once. For a quick key it first waits up to
//! [`lane::PATIENCE`], so that the key runs at full speed without the broker's delays.

mod breaker;
mod lane;
mod lanes;
mod parking;
mod whole;

use std::{
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use self::lanes::{Lanes, Tickets};
pub use self::{
    breaker::{BreakerConfig, Change, Invalid, Signal},
    lane::{Limits, Obstacle},
    parking::{MAX_PARK, MAX_RETURNS_PER_SECOND, Parking},
};

/// What deliveries are isolated by.
pub trait Key: Clone + Eq + Hash + fmt::Debug + Send + Sync + 'static {}

impl<K: Clone + Eq + Hash + fmt::Debug + Send + Sync + 'static> Key for K {}

/// Admits deliveries. Clones share all state.
#[derive(Debug, Clone)]
pub struct Admission<K: Key> {
    shared: Arc<Shared<K>>,
}

#[derive(Debug)]
struct Shared<K: Key> {
    lanes: Mutex<Lanes<K>>,
    rules: Rules<K>,
}

/// Rules for every key.
#[derive(Debug, Clone, Copy)]
pub struct Rules<K> {
    /// Maximum number of deliveries under way.
    pub slots: usize,
    /// How long a paused key's delivery is deferred; longer if many are.
    pub paused_snooze: Duration,
    /// When a key's breaker opens, and the breaker of a shared server.
    pub breaker: BreakerConfig,
    /// What is behind the keys.
    pub behind: Behind,
    /// Called when a breaker opens or closes.
    pub report: fn(Scope<'_, K>, Change),
}

/// What is behind the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// A server for each key.
    ServerEach,
    /// One server for all keys.
    OneServer,
}

/// Whose breaker opened or closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope<'a, K> {
    /// The breaker of one key.
    Key(&'a K),
    /// The breaker of the server behind all keys.
    Server,
}

/// The delivery was not admitted: how long it is deferred, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deferred {
    /// How long it is deferred.
    pub wait: Duration,
    /// Why it is deferred.
    pub obstacle: Obstacle,
}

/// The open breakers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// How long the breaker of the shared server stays open; `None` if it is closed.
    pub server: Option<Duration>,
    /// How many keys have a breaker that is not closed.
    pub keys: usize,
}

/// The right to make one delivery. Dropping it gives the slot back without a result.
#[derive(Debug)]
pub struct Permit<K: Key> {
    shared: Arc<Shared<K>>,
    key: K,
    begun: Instant,
    tickets: Option<Tickets>,
}

enum Asked<K: Key> {
    Admitted(Permit<K>),
    Wait(oneshot::Receiver<Permit<K>>),
    Deferred(Deferred),
}

impl<K: Key> Admission<K> {
    /// An admission with these rules.
    #[must_use]
    pub fn new(rules: Rules<K>) -> Self {
        Self {
            shared: Arc::new(Shared {
                lanes: Mutex::new(Lanes::new(&rules)),
                rules,
            }),
        }
    }

    /// A permit for a delivery of this key. `fresh`: the delivery has not failed yet. Fresh
    /// deliveries probe a failed endpoint before others do.
    ///
    /// # Errors
    /// How long the delivery is deferred.
    pub async fn enter(&self, key: &K, limits: Limits, fresh: bool) -> Result<Permit<K>, Deferred> {
        let limits = Limits {
            max_in_flight: limits.max_in_flight.min(self.shared.rules.slots),
            ..limits
        };
        let turn = match self.ask(key, limits, fresh) {
            Asked::Admitted(permit) => return Ok(permit),
            Asked::Deferred(deferred) => return Err(deferred),
            Asked::Wait(turn) => turn,
        };
        if let Ok(Ok(permit)) = timeout(lane::PATIENCE, turn).await {
            return Ok(permit);
        }
        // Its turn did not come in time, or never comes because the breaker has opened.
        let now = Instant::now();
        let mut lanes = self.shared.lock();
        Err(lanes.defer(key, limits, Obstacle::Saturated, fresh, now))
    }

    /// The open breakers.
    #[must_use]
    pub fn held(&self) -> Held {
        self.shared.lock().held(Instant::now())
    }

    fn ask(&self, key: &K, limits: Limits, fresh: bool) -> Asked<K> {
        let now = Instant::now();
        let mut lanes = self.shared.lock();
        match lanes.begin(key, limits, fresh, now) {
            Ok(tickets) => Asked::Admitted(Permit::new(&self.shared, key, tickets, now)),
            Err(Obstacle::Saturated) => lanes.wait(key, fresh, now).map_or_else(
                || Asked::Deferred(lanes.defer(key, limits, Obstacle::Saturated, fresh, now)),
                Asked::Wait,
            ),
            Err(obstacle) => Asked::Deferred(lanes.defer(key, limits, obstacle, fresh, now)),
        }
    }
}

impl<K: Key> Permit<K> {
    fn new(shared: &Arc<Shared<K>>, key: &K, tickets: Tickets, now: Instant) -> Self {
        Self {
            shared: Arc::clone(shared),
            key: key.clone(),
            begun: now,
            tickets: Some(tickets),
        }
    }

    /// Gives the slot back, with the delivery's result for the breakers.
    pub fn end(mut self, signal: Signal) {
        if let Some(tickets) = self.tickets.take() {
            let now = Instant::now();
            let took = now.saturating_duration_since(self.begun);
            Shared::give_back(&self.shared, &self.key, tickets, Some((signal, took)), now);
        }
    }
}

impl<K: Key> Drop for Permit<K> {
    fn drop(&mut self) {
        if let Some(tickets) = self.tickets.take() {
            Shared::give_back(&self.shared, &self.key, tickets, None, Instant::now());
        }
    }
}

impl<K: Key> Shared<K> {
    fn lock(&self) -> MutexGuard<'_, Lanes<K>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a permit back, and passes free slots to waiting deliveries of the key.
    fn give_back(
        shared: &Arc<Self>,
        key: &K,
        tickets: Tickets,
        result: Option<(Signal, Duration)>,
        now: Instant,
    ) {
        let mut unwanted = Vec::new();
        let changes = {
            let mut lanes = shared.lock();
            let changes = lanes.end(key, tickets, result, now);
            while let Some((waiter, tickets)) = lanes.next(key, now) {
                let permit = Permit::new(shared, key, tickets, now);
                unwanted.extend(waiter.send(permit).err());
            }
            changes
        };
        // Dropped after the lock is released: giving a permit back takes the lock.
        drop(unwanted);
        let report = shared.rules.report;
        if let Some(change) = changes.key {
            report(Scope::Key(key), change);
        }
        if let Some(change) = changes.server {
            report(Scope::Server, change);
        }
    }
}

#[cfg(test)]
mod tests;
