//! The deliveries of one key, and whether one more may start.
//!
//! Invariant: deliveries under way never exceed the key's cap, nor what [`Slots`] grants it. A
//! delivery is counted before it starts. Time and randomness are arguments.

use std::time::Duration;

use roundtrip_model::{RateLimiter, waiting::WaitReason};
use tokio::time::Instant;

use super::{
    BreakerConfig, Change, MAX_RETURNS_PER_SECOND, Place, Signal, Snoozes,
    breaker::{Breaker, Ticket},
    snoozes::{MAX_SNOOZE, MIN_SNOOZE},
};

/// A key whose deliveries take this long counts as slow.
pub(super) const SLOW: Duration = Duration::from_secs(1);
/// How long a delivery may wait in its slot for another one of its key to end. It is shorter than
/// the broker's shortest delay, and costs the deliveries behind it little.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);
/// A slow key gets at most one of this many free slots.
const SLOW_SHARE: usize = 4;
/// One of this many slots is never given to a slow key.
const RESERVE: usize = 8;
/// The weight of the latest delivery in the average duration.
const LATEST: f64 = 0.2;
/// The share by which the deferral of a paused key is shortened at random.
const SPREAD: f64 = 0.2;

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_in_flight: usize,
    pub rate_per_second: Option<f64>,
    pub paused: bool,
}

impl Limits {
    /// As much as admission allows one key.
    pub const NONE: Self = Self {
        max_in_flight: usize::MAX,
        rate_per_second: None,
        paused: false,
    };
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Slots {
    pub(super) total: usize,
    pub(super) used: usize,
}

impl Slots {
    /// Whether a key that holds `held` slots may have one more. A key never holds more than it
    /// leaves free for the others. A slow key may hold a quarter of that, and none of the reserve.
    const fn allow(self, held: usize, slow: bool) -> bool {
        let free = self.total.saturating_sub(self.used);
        if slow {
            free > self.total / RESERVE && (held == 0 || (held + 1) * SLOW_SHARE <= free)
        } else {
            held < free
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denial {
    Paused,
    /// The key's breaker is open, or half-open with all probes under way.
    BreakerOpen,
    /// The breaker of the server behind all keys is open, or half-open with all probes under way.
    ServerBreakerOpen,
    /// The key has as many deliveries under way as it may have.
    AtCapacity,
    RateLimited,
}

impl Denial {
    pub(super) const fn reason(self, shared_server: bool) -> WaitReason {
        match self {
            Self::Paused => WaitReason::ChannelPaused,
            Self::BreakerOpen | Self::ServerBreakerOpen if shared_server => {
                WaitReason::SessionsServerFailing
            }
            Self::BreakerOpen | Self::ServerBreakerOpen => WaitReason::EndpointFailing,
            Self::AtCapacity => WaitReason::ChannelAtCapacity,
            Self::RateLimited => WaitReason::RateLimited,
        }
    }
}

#[derive(Debug)]
pub(super) struct KeyState {
    limits: Limits,
    breaker: Breaker,
    rate: Option<RateLimiter>,
    snoozes: Snoozes,
    in_flight: usize,
    /// The average duration of the latest deliveries, in seconds.
    average: Option<f64>,
    /// When a delivery last ended, or the first one under way started.
    moved: Instant,
    used: Instant,
}

impl KeyState {
    pub(super) fn new(limits: Limits, breaker: BreakerConfig, now: Instant) -> Self {
        Self {
            limits,
            breaker: Breaker::new(breaker),
            rate: limits
                .rate_per_second
                .map(|rate| RateLimiter::new(rate, now.into_std())),
            snoozes: Snoozes::default(),
            in_flight: 0,
            average: None,
            moved: now,
            used: now,
        }
    }

    pub(super) fn limit(&mut self, limits: Limits, now: Instant) {
        self.used = now;
        let rate = self.rate.take();
        self.rate = limits.rate_per_second.map(|per_second| match rate {
            Some(mut rate) => {
                rate.set(per_second, now.into_std());
                rate
            }
            None => RateLimiter::new(per_second, now.into_std()),
        });
        self.limits = limits;
    }

    /// Starts a delivery, if one may start now. The key is slow from the duration `slow_from` on.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        slots: Slots,
        slow_from: Duration,
        fresh: bool,
    ) -> Result<Ticket, Denial> {
        if self.limits.paused {
            return Err(Denial::Paused);
        }
        if self.breaker.blocked_until(now, fresh).is_some() {
            return Err(Denial::BreakerOpen);
        }
        let slow = self.duration(now) >= slow_from;
        if self.in_flight >= self.limits.max_in_flight || !slots.allow(self.in_flight, slow) {
            return Err(Denial::AtCapacity);
        }
        if self
            .rate
            .as_mut()
            .is_some_and(|rate| !rate.take(now.into_std()))
        {
            return Err(Denial::RateLimited);
        }
        let ticket = self.breaker.admit(now, fresh).ok_or(Denial::BreakerOpen)?;
        if self.in_flight == 0 {
            self.moved = now;
        }
        self.in_flight += 1;
        Ok(ticket)
    }

    /// Whether a delivery of a key at its capacity, behind those already waiting, will soon have its
    /// turn.
    pub(super) fn soon(&self, now: Instant, waiting: usize) -> bool {
        let duration = self.duration(now);
        let ahead = f64::from(u32::try_from(waiting + 1).unwrap_or(u32::MAX));
        duration <= PATIENCE
            && duration.as_secs_f64() * ahead <= PATIENCE.as_secs_f64() * self.at_once()
    }

    /// How long a delivery that may not start is deferred. `random` is drawn from 0 to 1.
    pub(super) fn defer(
        &mut self,
        now: Instant,
        denial: Denial,
        paused_snooze: Duration,
        fresh: bool,
        place: Place,
        random: f64,
    ) -> Duration {
        let base = match denial {
            Denial::Paused => paused_snooze.mul_f64(1.0 - SPREAD * random),
            Denial::BreakerOpen => self
                .breaker
                .blocked_until(now, fresh)
                .map_or(Duration::ZERO, |until| until - now),
            Denial::RateLimited => self
                .rate
                .as_mut()
                .and_then(|rate| rate.blocked_for(now.into_std()))
                .unwrap_or_default(),
            Denial::ServerBreakerOpen | Denial::AtCapacity => Duration::ZERO,
        };
        let is_of_key = matches!(denial, Denial::Paused | Denial::BreakerOpen);
        if place == Place::Store || (place == Place::BrokerOrStore && is_of_key) {
            // It does not return by itself, so it delays no other.
            return base.clamp(MIN_SNOOZE, MAX_SNOOZE);
        }
        let pace = if denial == Denial::Paused {
            MAX_RETURNS_PER_SECOND
        } else {
            self.pace(now)
        };
        self.snoozes.add(now, base, pace, random)
    }

    pub(super) fn end(
        &mut self,
        ticket: Ticket,
        signal: Signal,
        took: Duration,
        now: Instant,
    ) -> Option<Change> {
        self.leave(now);
        let change = self.breaker.record(ticket, signal, now);
        // Durations from before the recovery are outdated.
        let before = self.average.filter(|_| change != Some(Change::Closed));
        self.average = Some(average(before, took));
        if change == Some(Change::Closed) {
            self.snoozes = Snoozes::default();
        }
        change
    }

    pub(super) fn probe_now(&mut self, now: Instant) {
        if self.breaker.probe_now(now) {
            self.snoozes = Snoozes::default();
        }
    }

    pub(super) fn give_up(&mut self, ticket: Ticket, now: Instant) {
        self.leave(now);
        self.breaker.forget(ticket);
    }

    pub(super) const fn is_idle(&self) -> bool {
        self.in_flight == 0
    }

    pub(super) const fn is_closed(&self) -> bool {
        self.breaker.is_closed()
    }

    pub(super) const fn last_used(&self) -> Instant {
        self.used
    }

    fn leave(&mut self, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.moved = now;
        self.used = now;
    }

    /// How long a delivery takes: the average, or the time since a delivery last ended. The latter
    /// makes a key count as slow before its first time-out.
    fn duration(&self, now: Instant) -> Duration {
        let average = Duration::from_secs_f64(self.average.unwrap_or_default());
        if self.in_flight == 0 {
            return average;
        }
        average.max(now.saturating_duration_since(self.moved))
    }

    fn pace(&self, now: Instant) -> f64 {
        let duration = self.duration(now).as_secs_f64().max(f64::MIN_POSITIVE);
        let pace = self.at_once() / duration;
        self.limits
            .rate_per_second
            .map_or(pace, |rate| pace.min(rate))
    }

    fn at_once(&self) -> f64 {
        f64::from(u32::try_from(self.limits.max_in_flight).unwrap_or(u32::MAX))
    }
}

/// The average duration, in seconds, after one more delivery.
pub(super) fn average(before: Option<f64>, took: Duration) -> f64 {
    let took = took.as_secs_f64();
    before.map_or(took, |average| average * (1.0 - LATEST) + took * LATEST)
}

#[cfg(test)]
mod tests;
