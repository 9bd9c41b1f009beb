//! The metrics of deliveries, by the role that makes them.

use std::time::Duration;

use roundtrip_metrics::{Counters, END_TO_END, Gauges, Histograms, REQUEST};
use roundtrip_model::{Outcome, Verdict, outcome::Failure};

roundtrip_metrics::label! {
    /// What is delivered.
    pub enum RoleName as "role" {
        /// Messages, to their channels.
        Delivery = "delivery",
        /// Answers and inbound messages, to the SESSIONS_SERVER.
        Forward = "forward",
        /// Notices, to the operator's server.
        Notice = "notice",
    }
}

roundtrip_metrics::label! {
    pub(crate) enum AttemptResult as "result" {
        Delivered = "delivered",
        Refused = "refused",
        Failed = "failed",
        TimedOut = "timed_out",
        ConnectionFailed = "connection_failed",
        NotAllowed = "not_allowed",
        Panicked = "panicked",
    }
}

roundtrip_metrics::label! {
    pub(crate) enum BreakerScope as "scope" {
        Channel = "channel",
        Server = "server",
    }
}

roundtrip_metrics::metrics! {
    pub static METRICS;
    /// Attempts by role and result.
    pub(crate) static ATTEMPTS: Counters<(RoleName, AttemptResult)> = "roundtrip_attempts_total";
    /// Duration of attempts, from the connection to the end of the response.
    pub(crate) static ATTEMPT_DURATION: Histograms<RoleName> = "roundtrip_attempt_duration_seconds" in REQUEST;
    /// Time from the acceptance of a message, answer or notice, or from its deliver_at, to its delivery.
    pub(crate) static ACCEPT_TO_DELIVERY: Histograms<RoleName> = "roundtrip_accept_to_delivery_seconds" in END_TO_END;
    /// Attempts under way.
    pub(crate) static IN_FLIGHT: Gauges<RoleName> = "roundtrip_in_flight";
    /// Deliveries that wait for another one of their channel to end.
    pub(crate) static WAITING: Gauges<RoleName> = "roundtrip_waiting_for_admission";
    /// Breakers that are open or half-open.
    pub(crate) static BREAKERS_OPEN: Gauges<(RoleName, BreakerScope)> = "roundtrip_breakers_open";
}

impl AttemptResult {
    fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Responded { .. } => match outcome.verdict() {
                Verdict::Delivered => Self::Delivered,
                Verdict::Refused => Self::Refused,
                Verdict::Failed { .. } => Self::Failed,
            },
            Outcome::Failed(Failure::TimedOut(_)) => Self::TimedOut,
            Outcome::Failed(Failure::Connect(_) | Failure::Connection(_)) => Self::ConnectionFailed,
            Outcome::Failed(Failure::NotAllowed(_)) => Self::NotAllowed,
            Outcome::Failed(Failure::Panicked) => Self::Panicked,
        }
    }
}

/// Counts an attempt, with the age of the message if it was delivered.
pub(crate) fn attempted(
    role: RoleName,
    outcome: &Outcome,
    took: Duration,
    age: impl FnOnce() -> time::Duration,
) {
    let result = AttemptResult::of(outcome);
    ATTEMPTS.inc((role, result));
    ATTEMPT_DURATION.observe(role, took);
    if result == AttemptResult::Delivered {
        // Another machine's clock may be ahead.
        ACCEPT_TO_DELIVERY.observe(role, age().try_into().unwrap_or_default());
    }
}
