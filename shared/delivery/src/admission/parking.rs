//! How long a message that cannot be delivered now is snoozed.
//!
//! Invariant: snoozed messages come back at about the endpoint's pace, each after those snoozed
//! before it. A deeper backlog waits longer, and so costs the others less. A snooze is never
//! shorter than [`MIN_PARK`] or longer than [`MAX_PARK`].

use std::time::Duration;

use tokio::time::Instant;

/// The shortest snooze: about the broker's shortest delay.
pub(super) const MIN_PARK: Duration = Duration::from_secs(1);

/// The longest snooze. A backlog of 20,000 messages for a hung endpoint is then delivered and
/// snoozed about 40 times a second. That is less than a hundredth of either broker's rate.
pub const MAX_PARK: Duration = Duration::from_mins(10);

/// Maximum number of returns per second for one endpoint, however fast it is. It bounds the cost of
/// a backlog that is too small for the longest snooze.
pub const MAX_RETURNS_PER_SECOND: f64 = 200.0;

/// The share by which the longest snooze is shortened at random, so that its messages do not all
/// return at once.
const SPREAD: f64 = 0.2;

/// The snoozed messages of one endpoint: their number, from the pace at which they return.
#[derive(Debug, Default)]
pub struct Parking {
    parked: f64,
    last: Option<(Instant, f64)>,
}

impl Parking {
    /// The snooze of one more message. The first message returns after `base`, and later ones at
    /// `pace` per second. `random` is drawn from 0 to 1.
    pub fn park(&mut self, now: Instant, base: Duration, pace: f64, random: f64) -> Duration {
        let pace = pace.clamp(1.0 / MAX_PARK.as_secs_f64(), MAX_RETURNS_PER_SECOND);
        if let Some((at, before)) = self.last {
            let returned = now.saturating_duration_since(at).as_secs_f64() * before;
            self.parked = (self.parked - returned).max(0.0);
        }
        // More could not return within the longest snooze. Counting them would only delay others
        // after the endpoint has recovered.
        self.parked = (self.parked + 1.0).min(MAX_PARK.as_secs_f64() * pace);
        self.last = Some((now, pace));
        let wait = base.as_secs_f64() + self.parked / pace;
        let longest = MAX_PARK.as_secs_f64();
        let wait = if wait < longest {
            wait
        } else {
            longest * (1.0 - SPREAD * random.clamp(0.0, 1.0))
        };
        Duration::from_secs_f64(wait).clamp(MIN_PARK, MAX_PARK)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_parking_stays_within_its_bounds(
            steps in prop::collection::vec((0_u64..100_000, 0_u64..1000, 0.0001_f64..10_000.0, 0.0_f64..=1.0), 1..200),
        ) {
            let mut now = Instant::now();
            let mut parking = Parking::default();
            for (millis, base, pace, random) in steps {
                now += Duration::from_millis(millis);
                let wait = parking.park(now, Duration::from_secs(base), pace, random);
                prop_assert!((MIN_PARK..=MAX_PARK).contains(&wait));
            }
        }

        #[test]
        fn what_was_parked_at_once_comes_back_at_the_pace(pace in 1.0_f64..200.0, base in 1_u64..10) {
            let now = Instant::now();
            let mut parking = Parking::default();
            let base = Duration::from_secs(base);
            let waits: Vec<_> = (0..100).map(|_| parking.park(now, base, pace, 0.0)).collect();
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
    fn a_deep_backlog_that_is_never_taken_is_seldom_handed_out() {
        const MESSAGES: u32 = 20_000;
        let begin = Instant::now();
        let end = begin + Duration::from_hours(1);
        let mut parking = Parking::default();
        let mut due = std::collections::BTreeSet::new();
        due.extend((0..MESSAGES).map(|message| (begin, message)));
        let mut parked = 0_u32;
        while let Some((now, message)) = due.pop_first() {
            if now >= end {
                break;
            }
            parked += 1;
            // Two per second: 64 at once that take 30 s each.
            let random = f64::from(message) / f64::from(MESSAGES);
            let wait = parking.park(now, Duration::ZERO, 64.0 / 30.0, random);
            due.insert((now + wait, message));
        }
        // Each is snoozed about seven times in the hour: every nine minutes.
        assert!(parked / MESSAGES < 9, "{}", parked / MESSAGES);
    }
}
