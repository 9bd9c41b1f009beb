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
//! [`key_state::PATIENCE`], so that the key runs at full speed without the broker's delays.

mod breaker;
mod key_state;
mod keys;
mod server;
mod snoozes;

use std::{fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;
use roundtrip_model::{ChannelId, waiting::WaitReason};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

pub use self::{
    breaker::BreakerConfig,
    key_state::Limits,
    snoozes::{MAX_RETURNS_PER_SECOND, Snoozes},
};
pub(crate) use self::{
    breaker::{Change, Signal},
    snoozes::MAX_SNOOZE,
};
use self::{
    key_state::Denial,
    keys::{Keys, Tickets},
};
use crate::metrics::{BREAKERS_OPEN, BreakerScope, IN_FLIGHT, RoleName, WAITING};

/// What deliveries are isolated by: their channel. Answers without a token share one key.
pub(crate) type Key = Option<ChannelId>;

#[derive(Debug, Clone)]
pub struct Admission {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    keys: Mutex<Keys>,
    rules: Rules,
}

#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) slots: usize,
    /// How long a paused key's delivery is deferred; longer if many are.
    pub(crate) paused_snooze: Duration,
    pub(crate) breaker: BreakerConfig,
    pub(crate) shared_server: bool,
    pub(crate) report: Report,
}

/// Reports each change of a breaker.
#[derive(Clone)]
pub(crate) struct Report(pub(crate) Arc<dyn Fn(Scope<'_>, Change) + Send + Sync>);

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Report")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope<'a> {
    Key(&'a Key),
    Server,
}

/// Where a delivery waits that is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// With the broker, which redelivers it by itself. Such returns are spread.
    Broker,
    /// With the broker, but in the store if its key is paused or its breaker is open.
    BrokerOrStore,
    /// In the store, from where its key's deliveries come one after the other.
    Store,
}

/// The delivery was not admitted: how long it is deferred, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deferred {
    pub wait: Duration,
    pub reason: WaitReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenBreakers {
    /// How long the breaker of the shared server stays open; `None` if it is closed.
    pub server: Option<Duration>,
    /// How many keys have a breaker that is not closed.
    pub keys: usize,
}

/// The right to make one delivery. Dropping it gives the slot back without a result.
#[derive(Debug)]
pub(crate) struct Permit {
    inner: Arc<Inner>,
    key: Key,
    begun: Instant,
    tickets: Option<Tickets>,
}

enum Admitted {
    Now(Permit),
    Soon(oneshot::Receiver<Permit>),
}

impl Admission {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            inner: Arc::new(Inner {
                keys: Mutex::new(Keys::new(&rules)),
                rules,
            }),
        }
    }

    /// A permit for a delivery of this key. `fresh`: the delivery has not failed yet. Fresh
    /// deliveries probe a failed endpoint before others do. `place`: where it waits otherwise.
    pub(crate) async fn enter(
        &self,
        key: &Key,
        limits: Limits,
        fresh: bool,
        place: Place,
    ) -> Result<Permit, Deferred> {
        let limits = Limits {
            max_in_flight: limits.max_in_flight.min(self.inner.rules.slots),
            ..limits
        };
        match self.ask(key, limits, fresh, place)? {
            Admitted::Now(permit) => return Ok(permit),
            Admitted::Soon(turn) => {
                if let Ok(Ok(permit)) = timeout(key_state::PATIENCE, turn).await {
                    return Ok(permit);
                }
            }
        }
        // Its turn did not come in time, or never comes because the breaker has opened.
        let now = Instant::now();
        let mut keys = self.inner.keys.lock();
        Err(keys.defer(key, limits, Denial::AtCapacity, fresh, place, now))
    }

    /// Sets the gauges of this role to the state of its deliveries now.
    pub fn measure(&self, role: RoleName) {
        let (in_flight, waiting) = {
            let keys = self.inner.keys.lock();
            (keys.in_flight(), keys.waiting())
        };
        let OpenBreakers { server, keys } = self.open_breakers();
        IN_FLIGHT.set(role, in_flight);
        WAITING.set(role, waiting);
        BREAKERS_OPEN.set((role, BreakerScope::Channel), keys);
        if self.inner.rules.shared_server {
            BREAKERS_OPEN.set((role, BreakerScope::Server), server.iter().count());
        }
    }

    pub fn open_breakers(&self) -> OpenBreakers {
        self.inner.keys.lock().open_breakers(Instant::now())
    }

    fn ask(
        &self,
        key: &Key,
        limits: Limits,
        fresh: bool,
        place: Place,
    ) -> Result<Admitted, Deferred> {
        let now = Instant::now();
        let mut keys = self.inner.keys.lock();
        let denial = match keys.begin(key, limits, fresh, now) {
            Ok(tickets) => return Ok(Admitted::Now(Permit::new(&self.inner, key, tickets, now))),
            Err(denial) => denial,
        };
        if denial == Denial::AtCapacity
            && let Some(turn) = keys.wait(key, fresh, now)
        {
            return Ok(Admitted::Soon(turn));
        }
        Err(keys.defer(key, limits, denial, fresh, place, now))
    }
}

impl Permit {
    fn new(inner: &Arc<Inner>, key: &Key, tickets: Tickets, now: Instant) -> Self {
        Self {
            inner: Arc::clone(inner),
            key: key.clone(),
            begun: now,
            tickets: Some(tickets),
        }
    }

    /// Gives the slot back, with the delivery's result for the breakers.
    pub(crate) fn end(mut self, signal: Signal) {
        if let Some(tickets) = self.tickets.take() {
            let now = Instant::now();
            let took = now.saturating_duration_since(self.begun);
            Inner::give_back(&self.inner, &self.key, tickets, Some((signal, took)), now);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(tickets) = self.tickets.take() {
            Inner::give_back(&self.inner, &self.key, tickets, None, Instant::now());
        }
    }
}

impl Inner {
    /// Takes a permit back, and passes free slots to waiting deliveries of the key.
    fn give_back(
        inner: &Arc<Self>,
        key: &Key,
        tickets: Tickets,
        result: Option<(Signal, Duration)>,
        now: Instant,
    ) {
        let mut unwanted = Vec::new();
        let changes = {
            let mut keys = inner.keys.lock();
            let changes = keys.end(key, tickets, result, now);
            while let Some((waiter, tickets)) = keys.next(key, now) {
                let permit = Permit::new(inner, key, tickets, now);
                unwanted.extend(waiter.send(permit).err());
            }
            changes
        };
        // Dropped after the lock is released: giving a permit back takes the lock.
        drop(unwanted);
        let Report(report) = &inner.rules.report;
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
