//! The engine's time, in whole milliseconds since 1970.
//!
//! Invariant: it never goes back while the process runs, so a key that is handed out now sorts
//! after every key that was read before. It starts at the time of day and from then on counts
//! what has passed; a time of day that is set forward or back meanwhile moves nothing.
//!
//! Due times are stored, and the next process may start at an earlier time of day than the last
//! one ended with. Each row therefore also stores its delay, and at the start no row waits longer
//! than its own delay (see [`super::schema`]).

use std::time::{Duration, Instant};

use roundtrip_model::{Clock, millis};
use time::OffsetDateTime;

/// The longest delay that is kept: keeps sums of times far from overflowing.
const LONGEST_DELAY: Duration = Duration::from_hours(24 * 3650);

/// Tells the engine's time.
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

/// A delay as it is stored. At least a millisecond, and rounded up: a parcel that is moved must
/// get a key after all that may have been read in this very millisecond, and none may come before
/// its delay has passed.
pub(super) fn delay_millis(delay: Duration) -> i64 {
    whole_millis(delay.min(LONGEST_DELAY)) + 1
}

fn whole_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The time of day that this many milliseconds stand for.
pub(super) fn time_of_day(millis: i64) -> OffsetDateTime {
    millis::time(millis)
        .ok()
        .filter(millis::can_be_shown)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
