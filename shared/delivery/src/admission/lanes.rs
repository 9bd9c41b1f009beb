//! The lanes of all keys, and the slots that they share.
//!
//! Invariant: `used` is the number of deliveries under way; the state of idle keys is bounded.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use super::{
    Behind, BreakerConfig, Change, Deferred, Held, Key, Limits, Obstacle, Permit, Rules, Signal,
    breaker::Ticket,
    lane::{Lane, SLOW, Slots},
    whole::Whole,
};

/// Maximum number of keys with state: more than can have a delivery under way.
const MAX_LANES: usize = 20_000;

/// All lanes.
#[derive(Debug)]
pub(super) struct Lanes<K: Key> {
    slots: usize,
    paused_snooze: Duration,
    breaker: BreakerConfig,
    most: usize,
    /// Slots with a delivery under way.
    used: usize,
    keys: HashMap<K, Queued<K>>,
    /// The server behind all keys, if there is one.
    whole: Option<Whole<K>>,
}

/// A lane, and the deliveries that wait for a turn in it.
#[derive(Debug)]
struct Queued<K: Key> {
    lane: Lane,
    waiters: VecDeque<Waiter<K>>,
}

#[derive(Debug)]
struct Waiter<K: Key> {
    turn: oneshot::Sender<Permit<K>>,
    fresh: bool,
}

/// The breaker states in which a delivery started.
#[derive(Debug)]
pub(super) struct Tickets {
    key: Ticket,
    server: Option<Ticket>,
}

/// The breakers that changed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) key: Option<Change>,
    pub(super) server: Option<Change>,
}

impl<K: Key> Lanes<K> {
    pub(super) fn new(rules: &Rules<K>) -> Self {
        Self::at_most(MAX_LANES, rules)
    }

    pub(super) fn at_most(most: usize, rules: &Rules<K>) -> Self {
        Self {
            slots: rules.slots,
            paused_snooze: rules.paused_snooze,
            breaker: rules.breaker,
            most,
            used: 0,
            keys: HashMap::new(),
            whole: (rules.behind == Behind::OneServer).then(|| Whole::new(rules.breaker)),
        }
    }

    /// Starts a delivery of this key, if one may start now.
    pub(super) fn begin(
        &mut self,
        key: &K,
        limits: Limits,
        fresh: bool,
        now: Instant,
    ) -> Result<Tickets, Obstacle> {
        self.queued(key, limits, now);
        self.begin_queued(key, fresh, now)
    }

    fn begin_queued(&mut self, key: &K, fresh: bool, now: Instant) -> Result<Tickets, Obstacle> {
        let slots = self.slots();
        let Queued { lane, .. } = self.keys.get_mut(key).ok_or(Obstacle::Saturated)?;
        let Some(whole) = &mut self.whole else {
            let key = lane.begin(now, slots, SLOW, fresh)?;
            self.used += 1;
            return Ok(Tickets { key, server: None });
        };
        // A key that fails itself would prove little about the server.
        let probes_first = fresh && lane.is_closed();
        if whole.blocked_until(now, probes_first).is_some() {
            return Err(Obstacle::ServerOpen);
        }
        let key = lane.begin(now, slots, whole.slow_from(), fresh)?;
        let server = whole.admit(now, probes_first);
        self.used += 1;
        Ok(Tickets { key, server })
    }

    /// A place among the waiting deliveries, if its turn comes soon.
    pub(super) fn wait(
        &mut self,
        key: &K,
        fresh: bool,
        now: Instant,
    ) -> Option<oneshot::Receiver<Permit<K>>> {
        let Queued { lane, waiters } = self.keys.get_mut(key)?;
        waiters.retain(|waiter| !waiter.turn.is_closed());
        lane.soon(now, waiters.len()).then(|| {
            let (turn, receiver) = oneshot::channel();
            waiters.push_back(Waiter { turn, fresh });
            receiver
        })
    }

    /// Defers a delivery of this key.
    pub(super) fn defer(
        &mut self,
        key: &K,
        limits: Limits,
        obstacle: Obstacle,
        fresh: bool,
        now: Instant,
    ) -> Deferred {
        let random = rand::random();
        if obstacle == Obstacle::ServerOpen
            && let Some(whole) = &mut self.whole
        {
            return Deferred {
                wait: whole.defer(now, fresh, random),
                obstacle,
            };
        }
        let paused_snooze = self.paused_snooze;
        let lane = &mut self.queued(key, limits, now).lane;
        Deferred {
            wait: lane.defer(now, obstacle, paused_snooze, fresh, random),
            obstacle,
        }
    }

    /// Ends a delivery, with or without a result and a duration.
    pub(super) fn end(
        &mut self,
        key: &K,
        tickets: Tickets,
        result: Option<(Signal, Duration)>,
        now: Instant,
    ) -> Changes {
        self.used = self.used.saturating_sub(1);
        let server = match (&mut self.whole, result) {
            (Some(whole), Some((signal, took))) => {
                whole.record(key, tickets.server, signal, took, now)
            }
            (Some(whole), None) => {
                whole.forget(tickets.server);
                None
            }
            (None, _) => None,
        };
        if matches!(server, Some(Change::Closed)) {
            // Breakers that opened while the server was unavailable are outdated.
            for queued in self.keys.values_mut() {
                queued.lane.probe_now(now);
            }
        }
        let Some(Queued { lane, waiters }) = self.keys.get_mut(key) else {
            return Changes { key: None, server };
        };
        let change = if let Some((signal, took)) = result {
            lane.end(tickets.key, signal, took, now)
        } else {
            lane.give_up(tickets.key, now);
            None
        };
        if !lane.is_closed() {
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
        key: &K,
        now: Instant,
    ) -> Option<(oneshot::Sender<Permit<K>>, Tickets)> {
        let Queued { waiters, .. } = self.keys.get_mut(key)?;
        while waiters
            .front()
            .is_some_and(|waiter| waiter.turn.is_closed())
        {
            waiters.pop_front();
        }
        let fresh = waiters.front()?.fresh;
        let tickets = self.begin_queued(key, fresh, now).ok()?;
        let waiter = self.keys.get_mut(key)?.waiters.pop_front()?;
        Some((waiter.turn, tickets))
    }

    pub(super) fn held(&self, now: Instant) -> Held {
        let keys = self.keys.values();
        Held {
            server: self.whole.as_ref().and_then(|whole| whole.held(now)),
            keys: keys.filter(|queued| !queued.lane.is_closed()).count(),
        }
    }

    const fn slots(&self) -> Slots {
        Slots {
            total: self.slots,
            used: self.used,
        }
    }

    fn queued(&mut self, key: &K, limits: Limits, now: Instant) -> &mut Queued<K> {
        if self.keys.len() >= self.most && !self.keys.contains_key(key) {
            self.forget_idle();
        }
        let breaker = self.breaker;
        let queued = self.keys.entry(key.clone()).or_insert_with(|| Queued {
            lane: Lane::new(limits, breaker, now),
            waiters: VecDeque::new(),
        });
        queued.lane.limit(limits, now);
        queued
    }

    /// Removes the least recently used half of the idle lanes.
    fn forget_idle(&mut self) {
        let mut idle: Vec<_> = self
            .keys
            .values()
            .filter(|queued| queued.lane.is_idle())
            .map(|queued| queued.lane.last_used())
            .collect();
        idle.sort_unstable();
        let Some(&newest) = idle.get(idle.len() / 2) else {
            return;
        };
        self.keys
            .retain(|_, queued| !queued.lane.is_idle() || queued.lane.last_used() > newest);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 10;
    const LIMITS: Limits = Limits {
        max_in_flight: 1,
        rate_per_second: None,
        paused: false,
    };

    #[test]
    fn idle_keys_are_forgotten_and_busy_ones_are_not() {
        let mut lanes = Lanes::at_most(
            MOST,
            &Rules {
                slots: 100,
                paused_snooze: Duration::from_secs(30),
                breaker: BreakerConfig::default(),
                behind: Behind::ServerEach,
                report: |_, _| {},
            },
        );
        let mut now = Instant::now();
        let _ticket = lanes.begin(&"busy".to_owned(), LIMITS, true, now).unwrap();
        for number in 0..100 {
            now += Duration::from_secs(1);
            let key = format!("c{number}");
            let tickets = lanes.begin(&key, LIMITS, true, now).unwrap();
            lanes.end(&key, tickets, Some((Signal::Alive, Duration::ZERO)), now);
            assert!(lanes.len() <= MOST);
        }
        assert_eq!(
            lanes
                .begin(&"busy".to_owned(), LIMITS, true, now)
                .unwrap_err(),
            Obstacle::Saturated
        );
    }
}
