//! Time as a parameter.
//!
//! `clippy.toml` bans `SystemTime::now` and friends everywhere else, so that tests can choose the
//! time of day.

use std::fmt;

use time::OffsetDateTime;

pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The time of day, in whole milliseconds: the precision of queues and stores. So the response
    /// that creates something shows the same time as later ones.
    fn now(&self) -> OffsetDateTime;
}

/// A clock that stands still, for tests.
impl Clock for OffsetDateTime {
    fn now(&self) -> OffsetDateTime {
        *self
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the clock; everything else is handed a Clock"
    )]
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc().truncate_to_millisecond()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_day_is_in_whole_milliseconds() {
        let times = (0..100).map(|_| SystemClock.now());
        assert_eq!(times.map(|now| now.nanosecond() % 1_000_000).max(), Some(0));
    }
}
