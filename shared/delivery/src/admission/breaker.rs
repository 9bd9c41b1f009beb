//! The circuit breaker.
//!
//! ```text
//!          failures in a row, or most of a window
//!        ┌────────────────────────────────────────▶ open ◀──────────┐
//!      closed                                         │ wait        │ a probe fails:
//!        ▲                                            ▼             │ wait twice as long
//!        └───────────── a probe succeeds ──────── half-open ────────┘
//! ```
//!
//! Invariant: an open breaker admits no delivery; a half-open one never more than the allowed
//! probes at once. A result counts only in the state in which its delivery was admitted, so late
//! failures of earlier deliveries cannot open it again.
//!
//! Deliveries that have not failed yet ("fresh") probe first: a message that always fails would
//! keep the breaker open for all others. The rest may probe [`BreakerConfig::wait`] later, so that
//! the breaker also closes without fresh deliveries.

use std::time::Duration;

use roundtrip_model::{Check, Outcome};
use tokio::time::Instant;

/// The shortest configurable wait; a shorter one would defeat the breaker.
const MIN_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_hours(1);

/// How long results are counted together for [`WINDOW_SHARE`].
const WINDOW: Duration = Duration::from_secs(10);
/// Minimum number of results in a window that can open the breaker.
const WINDOW_RESULTS: u32 = 20;
/// The share of failures in a window that opens the breaker: three of four. Below it the endpoint
/// accepts enough for its messages to arrive by their own retries.
const WINDOW_SHARE: (u32, u32) = (3, 4);

roundtrip_model::section! {
    #[derive(Debug, Copy, Eq)]
    pub struct BreakerConfig {
        /// This many consecutive failures open it.
        failures: u32 = 8, in 1..;
        /// How long it stays open the first time; each further time is twice as long.
        #[serde(with = "humantime_serde")]
        wait: Duration = Duration::from_secs(2), in MIN_WAIT..=LONGEST_WAIT;
        /// The longest time that it stays open.
        #[serde(with = "humantime_serde")]
        max_wait: Duration = Duration::from_mins(2), in ..=LONGEST_WAIT;
        /// Maximum number of concurrent probes while it is half-open.
        probes: u32 = 2, in 1..;
    }
}

impl BreakerConfig {
    pub(crate) fn check(&self, check: &mut Check) {
        self.check_bounds(check);
        let is_longest = self.max_wait >= self.wait;
        check.unless(is_longest, "max_wait", "must not be shorter than 'wait'");
    }

    fn wait_after(&self, openings: u32) -> Duration {
        let factor = 2_u32.saturating_pow(openings);
        self.wait.saturating_mul(factor).min(self.max_wait)
    }
}

/// What an attempt says about the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// It responds. A refusal counts too: it concerns the message, not the endpoint.
    Alive,
    /// It fails: no response in time, no connection, or one that reports a failure.
    Failing,
    /// It asks for a pause (429 with `Retry-After`).
    Hold(Duration),
}

const TOO_MANY_REQUESTS: u16 = 429;

impl Signal {
    /// The signal of this outcome; a requested pause is cut to `cap`.
    pub(crate) fn of(outcome: &Outcome, cap: Duration) -> Self {
        use roundtrip_model::Verdict;
        match (outcome, outcome.verdict()) {
            (
                Outcome::Responded {
                    status: TOO_MANY_REQUESTS,
                    ..
                },
                Verdict::Failed {
                    retry_after: Some(wait),
                },
            ) if !wait.is_zero() => Self::Hold(wait.min(cap)),
            (_, Verdict::Failed { .. }) => Self::Failing,
            (_, Verdict::Delivered | Verdict::Refused) => Self::Alive,
        }
    }
}

/// The state in which an attempt was admitted. Pass it back with the attempt's result.
#[derive(Debug)]
#[must_use = "a probe that is never handed back keeps the breaker half-open"]
pub(super) struct Ticket {
    era: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Opened(Duration),
    Closed,
}

impl Change {
    pub(crate) const fn open_for(self) -> Option<Duration> {
        match self {
            Self::Opened(wait) => Some(wait),
            Self::Closed => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Breaker {
    config: BreakerConfig,
    state: State,
    /// Counts the states; a ticket of an earlier state is ignored.
    era: u64,
    openings: u32,
}

#[derive(Debug)]
enum State {
    Closed(Counts),
    Open {
        until: Instant,
    },
    HalfOpen {
        probing: u32,
        /// When deliveries that failed before may probe.
        any_from: Instant,
    },
}

#[derive(Debug, Default)]
struct Counts {
    in_a_row: u32,
    window: Option<Instant>,
    results: u32,
    failures: u32,
}

impl Breaker {
    pub(super) fn new(config: BreakerConfig) -> Self {
        Self {
            config,
            state: State::Closed(Counts::default()),
            era: 0,
            openings: 0,
        }
    }

    /// Whether it is closed: a closed breaker admits every delivery.
    pub(super) const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed(_))
    }

    /// Until when a delivery has to wait; `None` if it is admitted now. `fresh`: the delivery has
    /// not failed yet.
    pub(super) fn blocked_until(&self, now: Instant, fresh: bool) -> Option<Instant> {
        let until = match self.state {
            State::Closed(_) => return None,
            State::Open { until } if fresh => until,
            State::Open { until } => until + self.config.wait,
            // By then the probes may have ended.
            State::HalfOpen { probing, .. } if probing >= self.config.probes => {
                now + self.config.wait
            }
            State::HalfOpen { .. } if fresh => now,
            State::HalfOpen { any_from, .. } => any_from,
        };
        (now < until).then_some(until)
    }

    pub(super) fn admit(&mut self, now: Instant, fresh: bool) -> Option<Ticket> {
        if self.blocked_until(now, fresh).is_some() {
            return None;
        }
        match &mut self.state {
            State::Closed(_) => {}
            State::Open { until } => {
                let any_from = *until + self.config.wait;
                self.enter(State::HalfOpen {
                    probing: 1,
                    any_from,
                });
            }
            State::HalfOpen { probing, .. } => *probing += 1,
        }
        Some(Ticket { era: self.era })
    }

    /// Ends the wait of an open breaker so that it can be probed now; returns whether it was open.
    pub(super) fn probe_now(&mut self, now: Instant) -> bool {
        let State::Open { until } = &mut self.state else {
            return false;
        };
        *until = now.min(*until);
        true
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "a ticket is good for one result"
    )]
    pub(super) fn record(
        &mut self,
        ticket: Ticket,
        signal: Signal,
        now: Instant,
    ) -> Option<Change> {
        if let Signal::Hold(wait) = signal {
            // The endpoint's own request counts in every state, but never shortens another wait.
            let until = now + wait;
            // A half-open breaker always opens: otherwise the ended probe would count as under way
            // forever.
            if matches!(self.state, State::Open { until: open } if open >= until) {
                return None;
            }
            return Some(self.open(until, wait));
        }
        if ticket.era != self.era {
            return None;
        }
        match (&mut self.state, signal) {
            (State::HalfOpen { .. }, Signal::Alive) => {
                self.openings = 0;
                self.enter(State::Closed(Counts::default()));
                Some(Change::Closed)
            }
            (State::HalfOpen { .. }, _) => Some(self.open_for_longer(now)),
            (State::Closed(counts), signal) => counts
                .add(signal == Signal::Failing, now, &self.config)
                .then(|| self.open_for_longer(now)),
            // An open breaker admitted no attempt.
            (State::Open { .. }, _) => None,
        }
    }

    /// Takes back the ticket of an attempt that ended without a result.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a ticket is good for one result"
    )]
    pub(super) fn forget(&mut self, ticket: Ticket) {
        if ticket.era == self.era
            && let State::HalfOpen { probing, .. } = &mut self.state
        {
            *probing = probing.saturating_sub(1);
        }
    }

    /// Opens it, regardless of the count.
    pub(super) fn open_for_longer(&mut self, now: Instant) -> Change {
        let wait = self.config.wait_after(self.openings);
        self.openings = self.openings.saturating_add(1);
        self.open(now + wait, wait)
    }

    fn open(&mut self, until: Instant, wait: Duration) -> Change {
        self.enter(State::Open { until });
        Change::Opened(wait)
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.era += 1;
    }
}

impl Counts {
    /// Adds a result and returns whether the breaker opens.
    fn add(&mut self, failed: bool, now: Instant, config: &BreakerConfig) -> bool {
        if self.window.is_none_or(|since| now >= since + WINDOW) {
            (self.window, self.results, self.failures) = (Some(now), 0, 0);
        }
        self.results += 1;
        if !failed {
            self.in_a_row = 0;
            return false;
        }
        self.in_a_row += 1;
        self.failures += 1;
        let (share, of) = WINDOW_SHARE;
        let most = self.results >= WINDOW_RESULTS && self.failures * of >= self.results * share;
        most || self.in_a_row >= config.failures
    }
}

#[cfg(test)]
mod tests;
