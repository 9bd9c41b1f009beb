//! The engine's time, in whole milliseconds since 1970.
//!
//! Invariant: it never goes back while the process runs, so a new key sorts after every key that
//! was read before. It starts at the time of day and then counts elapsed time. Setting the clock
//! while the process runs has no effect.
//!
//! Due times are stored, and the next process may start at an earlier time of day. Each row
//! therefore also stores its delay, and at the start no row waits longer than its own delay (see
//! [`super::schema`]).

use std::time::{Duration, Instant};

use roundtrip_model::{Clock, millis};
use time::OffsetDateTime;

/// The longest delay that is kept, so that sums of times do not overflow.
const LONGEST_DELAY: Duration = Duration::from_hours(24 * 3650);

#[derive(Debug)]
pub(super) struct Timeline {
    started_at: i64,
    started: Instant,
}

impl Timeline {
    pub(super) fn start(clock: &dyn Clock) -> Self {
        Self {
            started_at: millis::of(clock.now()),
            started: Instant::now(),
        }
    }

    pub(super) fn now(&self) -> i64 {
        self.started_at + whole_millis(self.started.elapsed())
    }
}

/// A delay as it is stored: rounded up, at least one millisecond. A moved message must get a key
/// after every key read in this millisecond, and must not become due early.
pub(super) fn delay_millis(delay: Duration) -> i64 {
    whole_millis(delay.min(LONGEST_DELAY)) + 1
}

fn whole_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn time_of_day(millis: i64) -> OffsetDateTime {
    millis::time(millis)
        .ok()
        .filter(millis::can_be_shown)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
