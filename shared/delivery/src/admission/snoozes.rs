//! How long a message that cannot be delivered now is snoozed.
//!
//! Invariant: snoozed messages come back at about the endpoint's pace, each after those snoozed
//! before it. A deeper backlog waits longer, and so costs the others less. A snooze is never
//! shorter than [`MIN_SNOOZE`] or longer than [`MAX_SNOOZE`].

use std::time::Duration;

use tokio::time::Instant;

/// The shortest snooze: about the broker's shortest delay.
pub(super) const MIN_SNOOZE: Duration = Duration::from_secs(1);

/// The longest snooze. A backlog of 20,000 messages for a hung endpoint is then delivered and
/// snoozed about 40 times a second. That is less than a hundredth of either broker's rate.
pub(crate) const MAX_SNOOZE: Duration = Duration::from_mins(10);

/// Maximum number of returns per second for one endpoint, however fast it is. It bounds the cost of
/// a backlog that is too small for the longest snooze.
pub const MAX_RETURNS_PER_SECOND: f64 = 200.0;

/// The share by which the longest snooze is shortened at random, so that its messages do not all
/// return at once.
const SPREAD: f64 = 0.2;

/// The snoozed messages of one endpoint: their number, from the pace at which they return.
#[derive(Debug, Default)]
pub struct Snoozes {
    count: f64,
    last: Option<(Instant, f64)>,
}

impl Snoozes {
    /// The snooze of one more message. The first message returns after `base`, and later ones at
    /// `pace` per second. `random` is drawn from 0 to 1.
    pub fn add(&mut self, now: Instant, base: Duration, pace: f64, random: f64) -> Duration {
        let pace = pace.clamp(1.0 / MAX_SNOOZE.as_secs_f64(), MAX_RETURNS_PER_SECOND);
        if let Some((at, before)) = self.last {
            let returned = now.saturating_duration_since(at).as_secs_f64() * before;
            self.count = (self.count - returned).max(0.0);
        }
        // More could not return within the longest snooze. Counting them would only delay others
        // after the endpoint has recovered.
        self.count = (self.count + 1.0).min(MAX_SNOOZE.as_secs_f64() * pace);
        self.last = Some((now, pace));
        let wait = base.as_secs_f64() + self.count / pace;
        let longest = MAX_SNOOZE.as_secs_f64();
        let wait = if wait < longest {
            wait
        } else {
            longest * (1.0 - SPREAD * random.clamp(0.0, 1.0))
        };
        Duration::from_secs_f64(wait).clamp(MIN_SNOOZE, MAX_SNOOZE)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_snooze_stays_within_its_bounds(
            steps in prop::collection::vec((0_u64..100_000, 0_u64..1000, 0.0001_f64..10_000.0, 0.0_f64..=1.0), 1..200),
        ) {
            let mut now = Instant::now();
            let mut snoozes = Snoozes::default();
            for (millis, base, pace, random) in steps {
                now += Duration::from_millis(millis);
                let wait = snoozes.add(now, Duration::from_secs(base), pace, random);
                prop_assert!((MIN_SNOOZE..=MAX_SNOOZE).contains(&wait));
            }
        }

        #[test]
        fn messages_snoozed_at_once_come_back_at_the_pace(pace in 1.0_f64..200.0, base in 1_u64..10) {
            let now = Instant::now();
            let mut snoozes = Snoozes::default();
            let base = Duration::from_secs(base);
            let waits: Vec<_> = (0..100).map(|_| snoozes.add(now, base, pace, 0.0)).collect();
            let gap = Duration::from_secs_f64(1.0 / pace);
            for pair in waits.windows(2) {
                let between = pair[1].abs_diff(pair[0]);
                prop_assert!(between.abs_diff(gap) < Duration::from_micros(1), "{:?}", between);
            }
            prop_assert!(waits[0] >= base);
        }
    }

    /// Simulates that a hung channel's backlog costs next to nothing: 20,000 messages over the
    /// first hour, with none accepted.
    #[test]
    fn a_deep_backlog_that_is_never_accepted_is_rarely_delivered() {
        const MESSAGES: u32 = 20_000;
        let begin = Instant::now();
        let end = begin + Duration::from_hours(1);
        let mut snoozes = Snoozes::default();
        let mut due = std::collections::BTreeSet::new();
        due.extend((0..MESSAGES).map(|message| (begin, message)));
        let mut snoozed = 0_u32;
        while let Some((now, message)) = due.pop_first() {
            if now >= end {
                break;
            }
            snoozed += 1;
            // Two per second: 64 at once that take 30 s each.
            let random = f64::from(message) / f64::from(MESSAGES);
            let wait = snoozes.add(now, Duration::ZERO, 64.0 / 30.0, random);
            due.insert((now + wait, message));
        }
        // Each is snoozed about seven times in the hour: every nine minutes.
        assert!(snoozed / MESSAGES < 9, "{}", snoozed / MESSAGES);
    }
}
