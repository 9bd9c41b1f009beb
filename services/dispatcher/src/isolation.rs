//! No channel may starve another: who may post now, who waits a moment, who is put aside.
//!
//! Invariant: a post is made with a [`Pass`] in hand, and passes keep to these bounds:
//!
//! - a channel never has more than its cap;
//! - a channel never has more than it leaves free for all others together, so that one which hangs
//!   takes at most half of the slots, a second one half of what is left, and so on;
//! - channels that are known to be slow (a second and more) get a quarter of what is free, each,
//!   and never the last eighth of all slots, however many of them there are;
//! - a channel whose breaker is open gets none, half-open a few.
//!
//! What gets no pass gives its slot back at once, or after [`lane::PATIENCE`] where its channel is
//! quick: such a channel goes at its full speed without a detour through the broker's delays.

mod lane;
mod lanes;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use roundtrip_isolation::{BreakerConfig, Change, Signal, Ticket};
use roundtrip_model::{ChannelId, DeliverySettings};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

pub(crate) use lane::{Limits, Obstacle};
use lanes::Lanes;

/// Before all channels' endpoints.
#[derive(Debug)]
pub(crate) struct Gate {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    lanes: Mutex<Lanes>,
    rules: Rules,
}

/// What holds for every channel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// The dispatcher's concurrency.
    pub(crate) slots: usize,
    /// The cap of a channel that names none.
    pub(crate) max_in_flight: usize,
    /// How long a paused channel's message is put aside, at the least where many are.
    pub(crate) paused_park: Duration,
    /// When a channel's breaker opens.
    pub(crate) breaker: BreakerConfig,
}

/// Put aside, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parked {
    pub(crate) wait: Duration,
    pub(crate) obstacle: Obstacle,
}

/// The right to make one post. Dropping it gives it back without a result.
#[derive(Debug)]
pub(crate) struct Pass {
    shared: Arc<Shared>,
    channel: ChannelId,
    begun: Instant,
    ticket: Option<Ticket>,
}

enum Asked {
    Granted(Pass),
    Wait(oneshot::Receiver<Pass>),
    Parked(Parked),
}

impl Gate {
    /// A gate with these rules.
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            shared: Arc::new(Shared {
                lanes: Mutex::new(Lanes::new(rules)),
                rules,
            }),
        }
    }

    /// A pass to this channel's endpoint, or how long its message is put aside.
    pub(crate) async fn enter(
        &self,
        channel: &ChannelId,
        settings: &DeliverySettings,
    ) -> Result<Pass, Parked> {
        let limits = self.shared.rules.limits(settings);
        let turn = match self.ask(channel, limits) {
            Asked::Granted(pass) => return Ok(pass),
            Asked::Parked(parked) => return Err(parked),
            Asked::Wait(turn) => turn,
        };
        if let Ok(Ok(pass)) = timeout(lane::PATIENCE, turn).await {
            return Ok(pass);
        }
        // Its turn did not come, or will not, for the breaker has opened.
        let now = Instant::now();
        let mut lanes = self.shared.lock();
        Err(lanes.park(channel, limits, Obstacle::Saturated, now))
    }

    fn ask(&self, channel: &ChannelId, limits: Limits) -> Asked {
        let now = Instant::now();
        let mut lanes = self.shared.lock();
        match lanes.begin(channel, limits, now) {
            Ok(ticket) => Asked::Granted(Pass::new(&self.shared, channel, ticket, now)),
            Err(Obstacle::Saturated) => lanes.wait(channel, now).map_or_else(
                || Asked::Parked(lanes.park(channel, limits, Obstacle::Saturated, now)),
                Asked::Wait,
            ),
            Err(obstacle) => Asked::Parked(lanes.park(channel, limits, obstacle, now)),
        }
    }
}

impl Rules {
    fn limits(&self, settings: &DeliverySettings) -> Limits {
        Limits {
            max_in_flight: settings
                .max_in_flight
                .map_or(self.max_in_flight, usize::from)
                .min(self.slots),
            rate_per_second: settings.rate_per_second,
            paused: settings.paused,
        }
    }
}

impl Pass {
    fn new(shared: &Arc<Shared>, channel: &ChannelId, ticket: Ticket, now: Instant) -> Self {
        Self {
            shared: Arc::clone(shared),
            channel: channel.clone(),
            begun: now,
            ticket: Some(ticket),
        }
    }

    /// Gives it back with what its post says of the endpoint.
    pub(crate) fn end(mut self, signal: Signal) {
        if let Some(ticket) = self.ticket.take() {
            let now = Instant::now();
            let took = now.saturating_duration_since(self.begun);
            Shared::give_back(
                &self.shared,
                &self.channel,
                ticket,
                Some((signal, took)),
                now,
            );
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            Shared::give_back(&self.shared, &self.channel, ticket, None, Instant::now());
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a pass back, and hands what came free to those of the channel that wait.
    fn give_back(
        shared: &Arc<Self>,
        channel: &ChannelId,
        ticket: Ticket,
        result: Option<(Signal, Duration)>,
        now: Instant,
    ) {
        let mut unwanted = Vec::new();
        let change = {
            let mut lanes = shared.lock();
            let change = lanes.end(channel, ticket, result, now);
            while let Some((waiter, ticket)) = lanes.next(channel, now) {
                let pass = Pass::new(shared, channel, ticket, now);
                unwanted.extend(waiter.send(pass).err());
            }
            change
        };
        // Dropped here and not above: giving one back takes the lock.
        drop(unwanted);
        match change {
            Some(Change::Opened(wait)) => tracing::warn!(
                channel_id = %channel,
                wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                "channel.opened"
            ),
            Some(Change::Closed) => tracing::info!(channel_id = %channel, "channel.closed"),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests;
