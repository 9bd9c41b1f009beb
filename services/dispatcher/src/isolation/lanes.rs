//! All lanes, and who waits for a turn in them.
//!
//! Invariant: at most [`MAX_LANES`] are kept, and none is forgotten in which something is under
//! way.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use roundtrip_isolation::{Change, Signal, Ticket};
use roundtrip_model::ChannelId;
use tokio::{sync::oneshot, time::Instant};

use super::{
    Limits, Obstacle, Parked, Pass, Rules,
    lane::{Lane, Slots},
};

/// The most channels of which anything is remembered: more than can have something under way.
const MAX_LANES: usize = 20_000;

/// All lanes.
#[derive(Debug)]
pub(super) struct Lanes {
    rules: Rules,
    most: usize,
    /// The slots in which a post is under way.
    used: usize,
    channels: HashMap<ChannelId, Queued>,
}

/// A lane, and who waits for a turn in it.
#[derive(Debug)]
struct Queued {
    lane: Lane,
    waiters: VecDeque<oneshot::Sender<Pass>>,
}

impl Lanes {
    pub(super) fn new(rules: Rules) -> Self {
        Self::at_most(MAX_LANES, rules)
    }

    pub(super) fn at_most(most: usize, rules: Rules) -> Self {
        Self {
            rules,
            most,
            used: 0,
            channels: HashMap::new(),
        }
    }

    /// Begins a try for this channel, if one may begin now.
    pub(super) fn begin(
        &mut self,
        channel: &ChannelId,
        limits: Limits,
        now: Instant,
    ) -> Result<Ticket, Obstacle> {
        let slots = self.slots();
        let ticket = self.queued(channel, limits, now).lane.begin(now, slots)?;
        self.used += 1;
        Ok(ticket)
    }

    /// A place among those who wait for a turn, where that will come soon.
    pub(super) fn wait(
        &mut self,
        channel: &ChannelId,
        now: Instant,
    ) -> Option<oneshot::Receiver<Pass>> {
        let Queued { lane, waiters } = self.channels.get_mut(channel)?;
        waiters.retain(|waiter| !waiter.is_closed());
        lane.soon(now, waiters.len()).then(|| {
            let (waiter, turn) = oneshot::channel();
            waiters.push_back(waiter);
            turn
        })
    }

    /// Puts a message of this channel aside.
    pub(super) fn park(
        &mut self,
        channel: &ChannelId,
        limits: Limits,
        obstacle: Obstacle,
        now: Instant,
    ) -> Parked {
        let paused_park = self.rules.paused_park;
        let random = rand::random();
        let lane = &mut self.queued(channel, limits, now).lane;
        Parked {
            wait: lane.park(now, obstacle, paused_park, random),
            obstacle,
        }
    }

    /// Ends a try, with what it says of the endpoint and how long it took, or without a result.
    pub(super) fn end(
        &mut self,
        channel: &ChannelId,
        ticket: Ticket,
        result: Option<(Signal, Duration)>,
        now: Instant,
    ) -> Option<Change> {
        self.used = self.used.saturating_sub(1);
        let Queued { lane, waiters } = self.channels.get_mut(channel)?;
        let change = if let Some((signal, took)) = result {
            lane.end(ticket, signal, took, now)
        } else {
            lane.give_up(ticket, now);
            None
        };
        if !lane.is_closed() {
            // Nobody's turn comes soon now: they learn it by losing their place.
            waiters.clear();
        }
        change
    }

    /// The next who waits for a turn in this channel's lane, if it has come; it has begun then.
    pub(super) fn next(
        &mut self,
        channel: &ChannelId,
        now: Instant,
    ) -> Option<(oneshot::Sender<Pass>, Ticket)> {
        let slots = self.slots();
        let Queued { lane, waiters } = self.channels.get_mut(channel)?;
        while waiters.front().is_some_and(oneshot::Sender::is_closed) {
            waiters.pop_front();
        }
        waiters.front()?;
        let ticket = lane.begin(now, slots).ok()?;
        self.used += 1;
        Some((waiters.pop_front()?, ticket))
    }

    const fn slots(&self) -> Slots {
        Slots {
            total: self.rules.slots,
            used: self.used,
        }
    }

    fn queued(&mut self, channel: &ChannelId, limits: Limits, now: Instant) -> &mut Queued {
        if self.channels.len() >= self.most && !self.channels.contains_key(channel) {
            self.forget_idle();
        }
        let breaker = self.rules.breaker;
        let queued = self
            .channels
            .entry(channel.clone())
            .or_insert_with(|| Queued {
                lane: Lane::new(limits, breaker, now),
                waiters: VecDeque::new(),
            });
        queued.lane.limit(limits, now);
        queued
    }

    /// Forgets the half of the idle lanes that was not used for the longest.
    fn forget_idle(&mut self) {
        let mut idle: Vec<_> = self
            .channels
            .values()
            .filter(|queued| queued.lane.is_idle())
            .map(|queued| queued.lane.last_used())
            .collect();
        idle.sort_unstable();
        let Some(&newest) = idle.get(idle.len() / 2) else {
            return;
        };
        self.channels
            .retain(|_, queued| !queued.lane.is_idle() || queued.lane.last_used() > newest);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.channels.len()
    }
}

#[cfg(test)]
mod tests {
    use roundtrip_isolation::BreakerConfig;

    use super::*;

    const MOST: usize = 10;
    const LIMITS: Limits = Limits {
        max_in_flight: 1,
        rate_per_second: None,
        paused: false,
    };

    #[test]
    fn idle_channels_are_forgotten_and_busy_ones_are_not() {
        let mut lanes = Lanes::at_most(
            MOST,
            Rules {
                slots: 100,
                max_in_flight: 1,
                paused_park: Duration::from_secs(30),
                breaker: BreakerConfig::default(),
            },
        );
        let mut now = Instant::now();
        let busy: ChannelId = "busy".parse().unwrap();
        let _ticket = lanes.begin(&busy, LIMITS, now).unwrap();
        for number in 0..100 {
            now += Duration::from_secs(1);
            let channel = format!("c{number}").parse().unwrap();
            let ticket = lanes.begin(&channel, LIMITS, now).unwrap();
            lanes.end(&channel, ticket, Some((Signal::Alive, Duration::ZERO)), now);
            assert!(lanes.len() <= MOST);
        }
        assert_eq!(
            lanes.begin(&busy, LIMITS, now).unwrap_err(),
            Obstacle::Saturated
        );
    }
}
