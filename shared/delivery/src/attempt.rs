//! An attempt that was made.

use std::time::Duration;

use roundtrip_model::{Decision, Event, Outcome, journal};
use time::OffsetDateTime;

#[derive(Debug)]
pub(crate) struct Attempt {
    /// From 1 on.
    pub(crate) number: u32,
    pub(crate) outcome: Outcome,
    pub(crate) duration: Duration,
    pub(crate) decision: Decision,
}

impl Attempt {
    /// Its event. If the receiver accepted the message, its answer is due at `answer_by`.
    pub(crate) fn event(&self, answer_by: Option<OffsetDateTime>) -> Event {
        let duration_ms = millis(self.duration);
        let attempt =
            journal::Attempt::new(self.number, &self.outcome, duration_ms, &self.decision);
        Event::Attempted(Box::new(attempt.answer_by(answer_by)))
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
