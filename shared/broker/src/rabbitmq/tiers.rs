//! The retry tiers: one queue for each delay, in which a parcel waits until it expires.
//!
//! Invariant: a parcel comes back no earlier than asked, but for delays beyond the last tier; and
//! because RabbitMQ expires messages at a queue's head only, every expiry in a tier lies within
//! ±20 % of the tier, so that the head blocks nobody for longer than 0.4 of it.

use std::time::Duration;

/// A delay queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tier {
    /// What its exchange and its queue are named after.
    pub(super) name: &'static str,
    /// The delay in its middle.
    pub(super) delay: Duration,
}

/// Every tier, shortest first: the intervals of the retry policy's default schedule.
pub(super) const TIERS: [Tier; 8] = [
    tier("1s", Duration::from_secs(1)),
    tier("5s", Duration::from_secs(5)),
    tier("30s", Duration::from_secs(30)),
    tier("2m", Duration::from_mins(2)),
    tier("10m", Duration::from_mins(10)),
    tier("30m", Duration::from_mins(30)),
    tier("2h", Duration::from_hours(2)),
    tier("6h", Duration::from_hours(6)),
];

const fn tier(name: &'static str, delay: Duration) -> Tier {
    Tier { name, delay }
}

impl Tier {
    /// The shortest expiry in this tier, in milliseconds.
    const fn shortest(self) -> u128 {
        self.delay.as_millis() * 4 / 5
    }

    /// The longest expiry in this tier, in milliseconds.
    const fn longest(self) -> u128 {
        self.delay.as_millis() * 6 / 5
    }
}

/// The index in [`TIERS`] that a delay belongs to, and the message's expiry there in milliseconds.
/// A delay beyond the last tier's longest expiry is cut to that.
pub(super) fn quantise(delay: Duration) -> (usize, u64) {
    // Rounded up: a fraction of a millisecond must not make it early.
    let wanted = delay.as_nanos().div_ceil(1_000_000);
    let last = TIERS.len() - 1;
    let index = TIERS
        .iter()
        .position(|tier| tier.longest() >= wanted)
        .unwrap_or(last);
    let tier = TIERS[index];
    let expiry = wanted.clamp(tier.shortest(), tier.longest());
    (index, u64::try_from(expiry).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use roundtrip_model::retry::DEFAULT_SCHEDULE;

    use super::*;

    #[test]
    fn the_tiers_are_the_default_schedule() {
        assert_eq!(TIERS.map(|tier| tier.delay), DEFAULT_SCHEDULE);
    }

    #[test]
    fn a_delay_beyond_the_last_tier_gets_its_longest_expiry() {
        let seven_hours_and_twelve_minutes = 25_920_000;
        assert_eq!(
            quantise(Duration::from_hours(100)),
            (7, seven_hours_and_twelve_minutes)
        );
    }

    proptest! {
        #[test]
        fn no_delay_ends_early_and_no_head_blocks_for_long(nanos in 0_u64..=25_920_000_000_000) {
            let delay = Duration::from_nanos(nanos);
            let (index, expiry) = quantise(delay);
            let expiry = Duration::from_millis(expiry);
            let tier = TIERS[index].delay;
            prop_assert!(expiry >= delay);
            prop_assert!(expiry >= tier * 4 / 5 && expiry <= tier * 6 / 5);
        }

        #[test]
        fn a_longer_delay_never_expires_sooner(one: u32, other: u32) {
            let (shorter, longer) = (one.min(other), one.max(other));
            let expiry = |millis| quantise(Duration::from_millis(u64::from(millis))).1;
            prop_assert!(expiry(shorter) <= expiry(longer));
        }

        #[test]
        fn the_smallest_tier_that_can_hold_a_delay_is_taken(millis in 0_u64..=25_920_000) {
            let delay = Duration::from_millis(millis);
            let (index, _) = quantise(delay);
            for smaller in &TIERS[..index] {
                prop_assert!(smaller.delay * 6 / 5 < delay);
            }
        }
    }
}
