//! When a failed attempt is retried, and when it is not.
//!
//! The default schedule:
//!
//! | attempts made | wait before the next | running total |
//! |---|---|---|
//! | 1 | 1 s | 1 s |
//! | 2 | 5 s | 6 s |
//! | 3 | 30 s | 36 s |
//! | 4 | 2 min | 2 min 36 s |
//! | 5 | 10 min | 12 min 36 s |
//! | 6 | 30 min | 42 min 36 s |
//! | 7 | 2 h | 2 h 42 min 36 s |
//! | 8 | 6 h | 8 h 42 min 36 s |
//! | 9 | dead | |
//!
//! Each wait is drawn from ±20 % around its interval, so that messages that failed together do not
//! all retry at the same time.
//!
//! Invariant: a decision is a pure function of the attempts made, the message's age and a random
//! source.

use std::time::Duration;

use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};
use rand::{Rng, RngExt};
use time::OffsetDateTime;

use crate::{
    decision::{DeadKind, DeadReason, Decision},
    outcome::{Failure, Outcome, Verdict},
};

pub const DEFAULT_SCHEDULE: [Duration; 8] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_mins(2),
    Duration::from_mins(10),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(6),
];

/// How far a wait may differ from its interval, as a fraction of it, in both directions.
pub const JITTER: f64 = 0.2;

/// The default age from which a message gets no further attempt.
pub const DEFAULT_MAX_AGE: Duration = Duration::from_hours(72);

/// The longest wait that a response's `Retry-After` can ask for.
pub const DEFAULT_RETRY_AFTER_CAP: Duration = Duration::from_hours(1);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    pub schedule: Vec<Duration>,
    pub then: Then,
    pub max_age: Duration,
    pub retry_after_cap: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    GiveUp,
    /// The last interval is repeated until the message is too old.
    RepeatTheLast,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    After(Duration),
    Exhausted,
    TooOld,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            schedule: DEFAULT_SCHEDULE.to_vec(),
            then: Then::GiveUp,
            max_age: DEFAULT_MAX_AGE,
            retry_after_cap: DEFAULT_RETRY_AFTER_CAP,
        }
    }
}

impl RetryPolicy {
    /// What follows a failed attempt. `attempts` counts the attempts made, including this one;
    /// `retry_after` is the wait that the other side asked for.
    pub fn next(
        &self,
        attempts: u32,
        retry_after: Option<Duration>,
        accepted_at: OffsetDateTime,
        now: OffsetDateTime,
        random: &mut impl Rng,
    ) -> Next {
        if self.is_too_old(accepted_at, now) {
            return Next::TooOld;
        }
        let at = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
        let interval = match (self.schedule.get(at), self.then) {
            (Some(interval), _) => *interval,
            (None, Then::RepeatTheLast) => self.schedule.last().copied().unwrap_or_default(),
            (None, Then::GiveUp) => return Next::Exhausted,
        };
        let wait = interval.mul_f64(random.random_range(1.0 - JITTER..=1.0 + JITTER));
        let asked = retry_after.unwrap_or_default().min(self.retry_after_cap);
        Next::After(wait.max(asked))
    }

    /// Whether a message accepted at `accepted_at` has reached its maximum age. If the clock was
    /// set back, the age counts as zero.
    pub fn is_too_old(&self, accepted_at: OffsetDateTime, now: OffsetDateTime) -> bool {
        Duration::try_from(now - accepted_at).is_ok_and(|age| age >= self.max_age)
    }

    pub fn decide(
        &self,
        outcome: &Outcome,
        attempts: u32,
        accepted_at: OffsetDateTime,
        now: OffsetDateTime,
        random: &mut impl Rng,
    ) -> Decision {
        let retry_after = match outcome.verdict() {
            Verdict::Delivered => return Decision::Done,
            Verdict::Refused => {
                let kind = match outcome {
                    Outcome::Failed(Failure::NotAllowed(_)) => DeadKind::EndpointRefused,
                    _ => DeadKind::Refused,
                };
                return Decision::DeadLetter(DeadReason::new(kind, outcome.summary()));
            }
            Verdict::Failed { retry_after } => retry_after,
        };
        match self.next(attempts, retry_after, accepted_at, now, random) {
            Next::After(wait) => Decision::RetryAfter(wait),
            Next::Exhausted => Decision::DeadLetter(DeadReason::new(
                DeadKind::AttemptsExhausted,
                format!(
                    "{attempts} attempts failed; the last: {}",
                    outcome.summary()
                ),
            )),
            Next::TooOld => Decision::DeadLetter(DeadReason::new(
                DeadKind::TooOld,
                format!(
                    "older than {} after {attempts} attempts; the last: {}",
                    humantime::format_duration(self.max_age),
                    outcome.summary()
                ),
            )),
        }
    }
}

/// The waits between attempts to reach an unavailable broker or store: from 100 ms to 2 s, with
/// jitter, without end.
pub fn reconnect() -> ExponentialBackoff {
    ExponentialBackoffBuilder::new()
        .with_initial_interval(Duration::from_millis(100))
        .with_multiplier(2.0)
        .with_randomization_factor(JITTER)
        .with_max_interval(Duration::from_secs(2))
        .with_max_elapsed_time(None)
        .build()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};
    use time::macros::datetime;

    use super::*;

    const ACCEPTED: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);

    fn policy(then: Then) -> RetryPolicy {
        RetryPolicy {
            then,
            ..RetryPolicy::default()
        }
    }

    proptest! {
        #[test]
        fn a_wait_stays_within_the_jitter_of_its_interval(seed: u64, attempts in 1_u32..=8) {
            let mut random = SmallRng::seed_from_u64(seed);
            let next = policy(Then::GiveUp).next(attempts, None, ACCEPTED, ACCEPTED, &mut random);
            let Next::After(wait) = next else { panic!("{next:?}") };
            let interval = DEFAULT_SCHEDULE[attempts as usize - 1];
            prop_assert!(wait >= interval.mul_f64(1.0 - JITTER));
            prop_assert!(wait <= interval.mul_f64(1.0 + JITTER));
        }

        #[test]
        fn a_finite_schedule_ends(seed: u64, attempts in 9_u32..) {
            let mut random = SmallRng::seed_from_u64(seed);
            let next = policy(Then::GiveUp).next(attempts, None, ACCEPTED, ACCEPTED, &mut random);
            prop_assert_eq!(next, Next::Exhausted);
        }

        #[test]
        fn a_repeating_schedule_ends_only_at_the_maximum_age(
            seed: u64, attempts in 1_u32.., age in 0_i64..72 * 3600,
        ) {
            let mut random = SmallRng::seed_from_u64(seed);
            let now = ACCEPTED + time::Duration::seconds(age);
            let next = policy(Then::RepeatTheLast).next(attempts, None, ACCEPTED, now, &mut random);
            prop_assert!(matches!(next, Next::After(_)), "{:?}", next);
        }

        #[test]
        fn no_attempt_follows_the_maximum_age(seed: u64, attempts in 1_u32.., over in 0_i64..1_000_000) {
            let mut random = SmallRng::seed_from_u64(seed);
            let now = ACCEPTED + DEFAULT_MAX_AGE + time::Duration::seconds(over);
            let next = policy(Then::RepeatTheLast).next(attempts, None, ACCEPTED, now, &mut random);
            prop_assert_eq!(next, Next::TooOld);
        }

        #[test]
        fn retry_after_is_honoured_up_to_its_cap(seed: u64, attempts in 1_u32..=8, asked in 0_u64..1_000_000) {
            let mut random = SmallRng::seed_from_u64(seed);
            let asked = Duration::from_secs(asked);
            let next = policy(Then::GiveUp).next(attempts, Some(asked), ACCEPTED, ACCEPTED, &mut random);
            let Next::After(wait) = next else { panic!("{next:?}") };
            prop_assert!(wait >= asked.min(DEFAULT_RETRY_AFTER_CAP));
            let interval = DEFAULT_SCHEDULE[attempts as usize - 1];
            prop_assert!(wait <= interval.mul_f64(1.0 + JITTER).max(DEFAULT_RETRY_AFTER_CAP));
        }

        #[test]
        fn the_same_random_numbers_give_the_same_wait(seed: u64, attempts: u32, asked in proptest::option::of(0_u64..10_000)) {
            let asked = asked.map(Duration::from_secs);
            let next = || {
                let mut random = SmallRng::seed_from_u64(seed);
                policy(Then::RepeatTheLast).next(attempts, asked, ACCEPTED, ACCEPTED, &mut random)
            };
            prop_assert_eq!(next(), next());
        }

        #[test]
        fn a_clock_set_back_makes_no_message_too_old(back in 0_i64..1_000_000_000) {
            let now = ACCEPTED - time::Duration::seconds(back);
            prop_assert!(!policy(Then::GiveUp).is_too_old(ACCEPTED, now));
        }
    }
}
