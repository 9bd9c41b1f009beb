//! Before the SESSIONS_SERVER: while it fails, answers wait, and only a few try.
//!
//! Invariant: a forward is made with a [`Pass`] in hand, and while the breaker is open there is
//! none. So hours without the SESSIONS_SERVER cost few tries, and an answer waits at the cost of
//! none.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use roundtrip_isolation::{
    Breaker, BreakerConfig, Change, MAX_RETURNS_PER_SECOND, Parking, Signal, Ticket,
};
use tokio::time::Instant;

/// Before the one SESSIONS_SERVER.
#[derive(Debug)]
pub(crate) struct Guard {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    breaker: Breaker,
    parking: Parking,
}

/// The right to make one forward. Dropping it gives it back without a result.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    guard: &'a Guard,
    ticket: Option<Ticket>,
}

impl Guard {
    pub(crate) fn new(config: BreakerConfig) -> Self {
        Self {
            state: Mutex::new(State {
                breaker: Breaker::new(config),
                parking: Parking::default(),
            }),
        }
    }

    /// A pass, or how long an answer is put aside.
    pub(crate) fn enter(&self) -> Result<Pass<'_>, Duration> {
        let now = Instant::now();
        let mut state = self.lock();
        let State { breaker, parking } = &mut *state;
        if let Some(ticket) = breaker.admit(now) {
            return Ok(Pass {
                guard: self,
                ticket: Some(ticket),
            });
        }
        let base = breaker
            .blocked_until(now)
            .map_or(Duration::ZERO, |until| until - now);
        Err(parking.park(now, base, MAX_RETURNS_PER_SECOND, rand::random()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass<'_> {
    /// Gives it back with what the forward says of the SESSIONS_SERVER.
    pub(crate) fn end(mut self, signal: Signal) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        let mut state = self.guard.lock();
        let change = state.breaker.record(ticket, signal, Instant::now());
        if change == Some(Change::Closed) {
            state.parking = Parking::default();
        }
        drop(state);
        match change {
            Some(Change::Opened(wait)) => tracing::warn!(
                wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                "sessions_server.opened"
            ),
            Some(Change::Closed) => tracing::info!("sessions_server.closed"),
            None => {}
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.guard.lock().breaker.forget(ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: BreakerConfig = BreakerConfig {
        failures: 3,
        wait: Duration::from_secs(2),
        max_wait: Duration::from_mins(2),
        probes: 1,
    };

    #[tokio::test(start_paused = true)]
    async fn hours_without_the_sessions_server_cost_few_forwards() {
        let guard = Guard::new(CONFIG);
        let begin = Instant::now();
        let mut forwards = 0_u32;
        while begin.elapsed() < Duration::from_hours(3) {
            match guard.enter() {
                Ok(pass) => {
                    forwards += 1;
                    pass.end(Signal::Failing);
                }
                Err(_) => tokio::time::advance(Duration::from_secs(1)).await,
            }
        }
        // One in two minutes, and those until it waits so long.
        assert!((90..=100).contains(&forwards), "{forwards}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_put_aside_for_longer_than_the_breaker_waits() {
        let guard = Guard::new(CONFIG);
        for _ in 0..CONFIG.failures {
            guard.enter().unwrap().end(Signal::Failing);
        }
        assert!(guard.enter().unwrap_err() > CONFIG.wait);
    }

    #[tokio::test(start_paused = true)]
    async fn a_forward_that_was_aborted_leaves_its_probe_to_another() {
        let guard = Guard::new(CONFIG);
        for _ in 0..CONFIG.failures {
            guard.enter().unwrap().end(Signal::Failing);
        }
        tokio::time::advance(CONFIG.wait).await;
        drop(guard.enter().unwrap());
        guard.enter().unwrap().end(Signal::Alive);
        assert!(guard.enter().is_ok());
    }
}
