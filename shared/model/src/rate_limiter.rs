//! A limit on a rate: a number per second on average, with a burst of one second's worth.
//!
//! Invariant: within any time `t` at most `rate * t` are taken, plus one second's worth (at least
//! one).

use std::time::{Duration, Instant};

/// A token bucket that fills at a rate. It starts full.
#[derive(Debug)]
pub struct RateLimiter {
    per_second: f64,
    tokens: f64,
    at: Instant,
}

impl RateLimiter {
    pub fn new(per_second: f64, now: Instant) -> Self {
        Self {
            per_second,
            tokens: most(per_second),
            at: now,
        }
    }

    pub fn set(&mut self, per_second: f64, now: Instant) {
        self.fill(now);
        self.per_second = per_second;
        self.tokens = self.tokens.min(most(per_second));
    }

    /// Time until a token can be taken; `None` if one can be taken now.
    pub fn blocked_for(&mut self, now: Instant) -> Option<Duration> {
        self.fill(now);
        let missing = 1.0 - self.tokens;
        (missing > 0.0).then(|| Duration::from_secs_f64(missing / self.per_second))
    }

    pub fn take(&mut self, now: Instant) -> bool {
        let there = self.blocked_for(now).is_none();
        if there {
            self.tokens -= 1.0;
        }
        there
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(most(self.per_second));
        self.at = self.at.max(now);
    }
}

/// The bucket's size: one second's worth, but at least one token, or none could ever be taken.
const fn most(per_second: f64) -> f64 {
    per_second.max(1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_limiter_admits_at_most_its_rate_plus_one_seconds_burst(
            per_second in 0.01_f64..1000.0,
            pauses in prop::collection::vec(0_u64..500, 1..300),
        ) {
            let begin = Instant::now();
            let mut now = begin;
            let mut limiter = RateLimiter::new(per_second, now);
            let mut taken = 0.0;
            for millis in pauses {
                now += Duration::from_millis(millis);
                taken += f64::from(u8::from(limiter.take(now)));
            }
            let allowed = (now - begin).as_secs_f64() * per_second + per_second.max(1.0);
            prop_assert!(taken <= allowed + 1e-6, "{} of {}", taken, allowed);
        }

        #[test]
        fn after_the_reported_wait_one_more_is_admitted(per_second in 0.01_f64..1000.0) {
            let now = Instant::now();
            let mut limiter = RateLimiter::new(per_second, now);
            while limiter.take(now) {}
            let wait = limiter.blocked_for(now).unwrap();
            prop_assert!(limiter.take(now + wait + Duration::from_micros(1)));
        }
    }

    #[test]
    fn a_new_rate_gives_nothing_for_nothing() {
        let now = Instant::now();
        let mut limiter = RateLimiter::new(2.0, now);
        assert!(limiter.take(now) && limiter.take(now));
        limiter.set(1000.0, now);
        assert!(!limiter.take(now));
    }
}
