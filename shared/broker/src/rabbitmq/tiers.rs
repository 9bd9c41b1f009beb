//! The delay tiers: queues in which a message waits until it expires.
//!
//! Each tier holds delays up to its own, and more than the previous tier's, which is half as long.
//! Delays are exact to the millisecond. Rounded delays would come due together, thousands at once
//! after a channel's backlog was snoozed.
//!
//! Invariant: a message never comes back early, except for a delay beyond the last tier. RabbitMQ
//! expires messages only at a queue's head. Every expiry in a tier is at least half of the tier's
//! longest, so the head blocks others for at most the other half.

use std::time::Duration;

/// Number of tiers: one second to nine hours, more than the retry policy's longest interval.
pub(super) const TIERS: usize = 16;

/// The longest delay of the first tier; each later tier's is twice the previous one's.
const FIRST: Duration = Duration::from_secs(1);

/// The longest delay in a tier, which is also its name.
pub(super) const fn longest(tier: usize) -> Duration {
    FIRST.saturating_mul(1 << tier)
}

/// The index of a delay's tier, and the message's expiry there in milliseconds. A delay beyond the
/// last tier is cut to the tier's longest.
pub(super) fn quantise(delay: Duration) -> (usize, u64) {
    let tier = (0..TIERS)
        .find(|&tier| delay <= longest(tier))
        .unwrap_or(TIERS - 1);
    // Rounded up: dropping a fraction of a millisecond would make it early.
    let wanted = delay.as_nanos().div_ceil(1_000_000);
    let longest = longest(tier).as_millis();
    let expiry = wanted.clamp(longest / 2, longest);
    (tier, u64::try_from(expiry).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use roundtrip_model::settings::MAX_INTERVAL;

    use super::*;

    #[test]
    fn the_longest_interval_has_room_for_its_spread() {
        assert!(longest(TIERS - 1) >= MAX_INTERVAL.mul_f64(1.2));
    }

    #[test]
    fn a_delay_beyond_the_last_tier_is_cut() {
        assert_eq!(quantise(Duration::from_hours(100)), (15, 32_768_000));
    }

    proptest! {
        #[test]
        fn no_delay_ends_early_and_no_head_blocks_for_long(nanos in 0_u64..=32_768_000_000_000) {
            let delay = Duration::from_nanos(nanos);
            let (tier, expiry) = quantise(delay);
            let expiry = Duration::from_millis(expiry);
            prop_assert!(expiry >= delay);
            prop_assert!(expiry >= longest(tier) / 2 && expiry <= longest(tier));
        }

        #[test]
        fn a_delay_is_kept_to_the_millisecond(millis in 500_u64..=32_768_000) {
            prop_assert_eq!(quantise(Duration::from_millis(millis)).1, millis);
        }
    }
}
