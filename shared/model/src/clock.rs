//! Time as a parameter.
//!
//! `clippy.toml` bans `SystemTime::now` and friends everywhere else, so that tests can choose the
//! time of day.

use std::fmt;

use time::OffsetDateTime;

pub trait Clock: fmt::Debug + Send + Sync + 'static {
    fn now(&self) -> OffsetDateTime;
}

#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the clock; everything else is handed a Clock"
    )]
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }
}
