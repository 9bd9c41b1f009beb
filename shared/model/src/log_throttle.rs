//! A limit on repeated log lines. Without it, a line for each rejected request or snoozed message
//! fills the disk of a gateway that already has a problem.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

const EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct LogThrottle {
    every: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    last: Option<Instant>,
    suppressed: u64,
}

impl LogThrottle {
    pub const fn new() -> Self {
        Self::every(EVERY)
    }

    pub const fn every(every: Duration) -> Self {
        let state = State {
            last: None,
            suppressed: 0,
        };
        Self {
            every,
            state: Mutex::new(state),
        }
    }

    /// `Some` if a line may be written now, with the number of lines suppressed since the last one.
    pub fn due(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        let is_early = |last| now.saturating_duration_since(last) < self.every;
        if state.last.is_some_and(is_early) {
            state.suppressed += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.suppressed))
    }
}

impl Default for LogThrottle {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_written_once_in_a_while_with_the_number_of_those_suppressed() {
        let (throttle, now) = (LogThrottle::new(), Instant::now());
        assert_eq!(throttle.due(now), Some(0));
        assert_eq!(throttle.due(now), None);
        assert_eq!(throttle.due(now), None);
        assert_eq!(throttle.due(now + EVERY), Some(2));
    }
}
