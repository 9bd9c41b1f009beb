//! The breaker of the one server behind all keys: it opens when most of several keys fail.
//!
//! Invariant: failures of fewer than [`SEVERAL`] keys never open the server's breaker, however many
//! they are. A 429 with `Retry-After` concerns only its key.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::{
    BreakerConfig, Change, Key, MAX_RETURNS_PER_SECOND, Signal, Snoozes,
    breaker::{Breaker, Ticket},
    key_state::{SLOW, average},
};

/// Minimum number of keys with results before failures count against the server.
const SEVERAL: usize = 5;
/// The share of those keys that must fail: three of four.
const SHARE: (usize, usize) = (3, 4);
/// How long a key's latest result counts. It is long, so that keys with little traffic count too.
const COUNTS_FOR: Duration = Duration::from_secs(30);
/// How long results must have come before they count: the first results after a start may all be
/// failures.
const LISTEN_FOR: Duration = Duration::from_secs(5);
/// How often outdated results are dropped.
const DROP_EVERY: Duration = Duration::from_secs(1);
/// A key is slow if it takes this many times the server's average duration.
const SLOWER: u32 = 2;

#[derive(Debug)]
pub(super) struct ServerState {
    breaker: Breaker,
    snoozes: Snoozes,
    latest: HashMap<Key, Latest>,
    /// How many of the latest results are failures.
    failing: usize,
    since: Option<Instant>,
    dropped_at: Option<Instant>,
    /// The average duration of the latest deliveries, in seconds.
    average: Option<f64>,
}

#[derive(Debug, Clone, Copy)]
struct Latest {
    at: Instant,
    failed: bool,
}

impl ServerState {
    pub(super) fn new(config: BreakerConfig) -> Self {
        Self {
            breaker: Breaker::new(config),
            snoozes: Snoozes::default(),
            latest: HashMap::new(),
            failing: 0,
            since: None,
            dropped_at: None,
            average: None,
        }
    }

    pub(super) fn blocked_until(&self, now: Instant, fresh: bool) -> Option<Instant> {
        self.breaker.blocked_until(now, fresh)
    }

    pub(super) fn admit(&mut self, now: Instant, fresh: bool) -> Option<Ticket> {
        self.breaker.admit(now, fresh)
    }

    pub(super) fn open_breakers(&self, now: Instant) -> Option<Duration> {
        if self.breaker.is_closed() {
            return None;
        }
        let until = self.breaker.blocked_until(now, true);
        Some(until.map_or(Duration::ZERO, |until| until - now))
    }

    /// The duration from which on a key is slow. If the server itself is slow, no key is.
    pub(super) fn slow_from(&self) -> Duration {
        let average = Duration::from_secs_f64(self.average.unwrap_or_default());
        SLOW.max(average.saturating_mul(SLOWER))
    }

    pub(super) fn defer(&mut self, now: Instant, fresh: bool, random: f64) -> Duration {
        let until = self.breaker.blocked_until(now, fresh);
        let base = until.map_or(Duration::ZERO, |until| until - now);
        self.snoozes.add(now, base, MAX_RETURNS_PER_SECOND, random)
    }

    pub(super) fn record(
        &mut self,
        key: &Key,
        ticket: Option<Ticket>,
        signal: Signal,
        took: Duration,
        now: Instant,
    ) -> Option<Change> {
        self.average = Some(average(self.average, took));
        let failed = signal == Signal::Failing;
        if self.breaker.is_closed() {
            self.note(key, failed, now);
            return self.most_fail(now).then(|| {
                self.latest.clear();
                self.failing = 0;
                self.since = None;
                self.breaker.open_for_longer(now)
            });
        }
        // A server that asks for a pause is alive.
        let signal = if failed { signal } else { Signal::Alive };
        let change = self.breaker.record(ticket?, signal, now);
        if change == Some(Change::Closed) {
            self.snoozes = Snoozes::default();
        }
        change
    }

    pub(super) fn forget(&mut self, ticket: Option<Ticket>) {
        if let Some(ticket) = ticket {
            self.breaker.forget(ticket);
        }
    }

    fn note(&mut self, key: &Key, failed: bool, now: Instant) {
        self.since.get_or_insert(now);
        if self.dropped_at.is_none_or(|at| now >= at + DROP_EVERY) {
            self.latest
                .retain(|_, latest| now.saturating_duration_since(latest.at) < COUNTS_FOR);
            self.failing = self.latest.values().filter(|latest| latest.failed).count();
            self.dropped_at = Some(now);
        }
        let before = self.latest.insert(key.clone(), Latest { at: now, failed });
        self.failing += usize::from(failed);
        self.failing -= usize::from(before.is_some_and(|before| before.failed));
    }

    fn most_fail(&self, now: Instant) -> bool {
        let (share, of) = SHARE;
        self.failing >= SEVERAL
            && self.failing * of >= self.latest.len() * share
            && self.since.is_some_and(|since| now >= since + LISTEN_FOR)
    }
}
