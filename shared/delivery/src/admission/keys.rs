//! The state of all keys, and the slots that they share.
//!
//! Invariant: `used` is the number of deliveries under way; the state of idle keys is bounded.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use super::{
    BreakerConfig, Change, Deferred, Key, Limits, OpenBreakers, Permit, Place, Rules, Signal,
    breaker::Ticket,
    key_state::{Denial, KeyState, SLOW, Slots},
    server::ServerState,
};

/// Maximum number of keys with state: more than can have a delivery under way.
const MAX_KEYS: usize = 20_000;

#[derive(Debug)]
pub(super) struct Keys {
    slots: usize,
    paused_snooze: Duration,
    breaker: BreakerConfig,
    most: usize,
    used: usize,
    entries: HashMap<Key, KeyEntry>,
    server: Option<ServerState>,
}

/// A key's state, and its deliveries that wait for a turn.
#[derive(Debug)]
struct KeyEntry {
    state: KeyState,
    waiters: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    turn: oneshot::Sender<Permit>,
    fresh: bool,
}

/// The breaker states in which a delivery started.
#[derive(Debug)]
pub(super) struct Tickets {
    key: Ticket,
    server: Option<Ticket>,
}

#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) key: Option<Change>,
    pub(super) server: Option<Change>,
}

impl Keys {
    pub(super) fn new(rules: &Rules) -> Self {
        Self::at_most(MAX_KEYS, rules)
    }

    pub(super) fn at_most(most: usize, rules: &Rules) -> Self {
        Self {
            slots: rules.slots,
            paused_snooze: rules.paused_snooze,
            breaker: rules.breaker,
            most,
            used: 0,
            entries: HashMap::new(),
            server: rules.shared_server.then(|| ServerState::new(rules.breaker)),
        }
    }

    pub(super) fn begin(
        &mut self,
        key: &Key,
        limits: Limits,
        fresh: bool,
        now: Instant,
    ) -> Result<Tickets, Denial> {
        self.entry(key, limits, now);
        self.begin_known(key, fresh, now)
    }

    fn begin_known(&mut self, key: &Key, fresh: bool, now: Instant) -> Result<Tickets, Denial> {
        let slots = self.slots();
        let KeyEntry { state, .. } = self.entries.get_mut(key).ok_or(Denial::AtCapacity)?;
        let Some(server) = &mut self.server else {
            let key = state.begin(now, slots, SLOW, fresh)?;
            self.used += 1;
            return Ok(Tickets { key, server: None });
        };
        // A key that fails itself would prove little about the server.
        let probes_first = fresh && state.is_closed();
        if server.blocked_until(now, probes_first).is_some() {
            return Err(Denial::ServerBreakerOpen);
        }
        let key = state.begin(now, slots, server.slow_from(), fresh)?;
        let server = server.admit(now, probes_first);
        self.used += 1;
        Ok(Tickets { key, server })
    }

    /// A place among the waiting deliveries, if its turn comes soon.
    pub(super) fn wait(
        &mut self,
        key: &Key,
        fresh: bool,
        now: Instant,
    ) -> Option<oneshot::Receiver<Permit>> {
        let KeyEntry { state, waiters } = self.entries.get_mut(key)?;
        waiters.retain(|waiter| !waiter.turn.is_closed());
        state.soon(now, waiters.len()).then(|| {
            let (turn, receiver) = oneshot::channel();
            waiters.push_back(Waiter { turn, fresh });
            receiver
        })
    }

    pub(super) fn defer(
        &mut self,
        key: &Key,
        limits: Limits,
        denial: Denial,
        fresh: bool,
        place: Place,
        now: Instant,
    ) -> Deferred {
        let random = rand::random();
        let reason = denial.reason(self.server.is_some());
        if denial == Denial::ServerBreakerOpen
            && let Some(server) = &mut self.server
        {
            return Deferred {
                wait: server.defer(now, fresh, random),
                reason,
            };
        }
        let paused_snooze = self.paused_snooze;
        let state = &mut self.entry(key, limits, now).state;
        Deferred {
            wait: state.defer(now, denial, paused_snooze, fresh, place, random),
            reason,
        }
    }

    pub(super) fn end(
        &mut self,
        key: &Key,
        tickets: Tickets,
        result: Option<(Signal, Duration)>,
        now: Instant,
    ) -> Changes {
        self.used = self.used.saturating_sub(1);
        let server = match (&mut self.server, result) {
            (Some(server), Some((signal, took))) => {
                server.record(key, tickets.server, signal, took, now)
            }
            (Some(server), None) => {
                server.forget(tickets.server);
                None
            }
            (None, _) => None,
        };
        if matches!(server, Some(Change::Closed)) {
            // Breakers that opened while the server was unavailable are outdated.
            for entry in self.entries.values_mut() {
                entry.state.probe_now(now);
            }
        }
        let Some(KeyEntry { state, waiters }) = self.entries.get_mut(key) else {
            return Changes { key: None, server };
        };
        let change = if let Some((signal, took)) = result {
            state.end(tickets.key, signal, took, now)
        } else {
            state.give_up(tickets.key, now);
            None
        };
        if !state.is_closed() {
            // No turn comes soon now: clearing the queue wakes the waiting deliveries.
            waiters.clear();
        }
        Changes {
            key: change,
            server,
        }
    }

    /// Starts the next waiting delivery of this key, if its turn has come.
    pub(super) fn next(
        &mut self,
        key: &Key,
        now: Instant,
    ) -> Option<(oneshot::Sender<Permit>, Tickets)> {
        let KeyEntry { waiters, .. } = self.entries.get_mut(key)?;
        while waiters
            .front()
            .is_some_and(|waiter| waiter.turn.is_closed())
        {
            waiters.pop_front();
        }
        let fresh = waiters.front()?.fresh;
        let tickets = self.begin_known(key, fresh, now).ok()?;
        let waiter = self.entries.get_mut(key)?.waiters.pop_front()?;
        Some((waiter.turn, tickets))
    }

    pub(super) fn open_breakers(&self, now: Instant) -> OpenBreakers {
        let keys = self.entries.values();
        OpenBreakers {
            server: self
                .server
                .as_ref()
                .and_then(|server| server.open_breakers(now)),
            keys: keys.filter(|entry| !entry.state.is_closed()).count(),
        }
    }

    pub(super) const fn in_flight(&self) -> usize {
        self.used
    }

    pub(super) fn waiting(&self) -> usize {
        let waiters = self.entries.values().flat_map(|entry| &entry.waiters);
        waiters.filter(|waiter| !waiter.turn.is_closed()).count()
    }

    const fn slots(&self) -> Slots {
        Slots {
            total: self.slots,
            used: self.used,
        }
    }

    fn entry(&mut self, key: &Key, limits: Limits, now: Instant) -> &mut KeyEntry {
        if self.entries.len() >= self.most && !self.entries.contains_key(key) {
            self.forget_idle();
        }
        let breaker = self.breaker;
        let entry = self.entries.entry(key.clone()).or_insert_with(|| KeyEntry {
            state: KeyState::new(limits, breaker, now),
            waiters: VecDeque::new(),
        });
        entry.state.limit(limits, now);
        entry
    }

    fn forget_idle(&mut self) {
        let mut idle: Vec<_> = self
            .entries
            .values()
            .filter(|entry| entry.state.is_idle())
            .map(|entry| entry.state.last_used())
            .collect();
        idle.sort_unstable();
        let Some(&newest) = idle.get(idle.len() / 2) else {
            return;
        };
        self.entries
            .retain(|_, entry| !entry.state.is_idle() || entry.state.last_used() > newest);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::admission::Report;

    const MOST: usize = 10;
    const LIMITS: Limits = Limits {
        max_in_flight: 1,
        rate_per_second: None,
        paused: false,
    };

    #[test]
    fn idle_keys_are_forgotten_and_busy_ones_are_not() {
        let mut keys = Keys::at_most(
            MOST,
            &Rules {
                slots: 100,
                paused_snooze: Duration::from_secs(30),
                breaker: BreakerConfig::default(),
                shared_server: false,
                report: Report(Arc::new(|_, _| {})),
            },
        );
        let mut now = Instant::now();
        let _ticket = keys
            .begin(&Some("busy".parse().unwrap()), LIMITS, true, now)
            .unwrap();
        for number in 0..100 {
            now += Duration::from_secs(1);
            let key = Some(format!("c{number}").parse().unwrap());
            let tickets = keys.begin(&key, LIMITS, true, now).unwrap();
            keys.end(&key, tickets, Some((Signal::Alive, Duration::ZERO)), now);
            assert!(keys.len() <= MOST);
        }
        assert_eq!(
            keys.begin(&Some("busy".parse().unwrap()), LIMITS, true, now)
                .unwrap_err(),
            Denial::AtCapacity
        );
    }
}
