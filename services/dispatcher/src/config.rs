//! The dispatcher's section of the configuration.

use std::time::Duration;

use roundtrip_delivery::{BreakerConfig, RetryConfig, Settings, WebhookConfig};
use roundtrip_model::{
    Check,
    retry::{DEFAULT_SCHEDULE, Then},
    settings::MAX_IN_FLIGHT_BOUND,
};

/// The broker's delays are no shorter.
const MIN_PAUSED_SNOOZE: Duration = Duration::from_secs(1);
/// Shorter waits would only be moved about.
const MIN_WAIT_IN_STORE: Duration = Duration::from_secs(1);
/// A longer wait should be found, and ended by `POST /channel/{channel_id}/retry`.
const MAX_WAIT_IN_STORE: Duration = Duration::from_mins(10);
/// After a resume the channel's messages should move soon.
const MAX_PAUSED_SNOOZE: Duration = Duration::from_mins(5);

roundtrip_model::section! {
    #[derive(Debug, Eq)]
    pub struct Config {
        /// The most deliveries in progress at once.
        concurrency: u16 = 256;
        /// How long a message is snoozed if its channel or its secret cannot be read, or the
        /// endpoint returned 410. A snooze does not count as an attempt.
        #[serde(rename = "park", with = "humantime_serde")]
        snooze: Duration = Duration::from_secs(5);
        /// The most deliveries in progress to one channel that sets no `max_in_flight`. By default a
        /// quarter of the permits.
        max_in_flight_per_channel: u16 = 64, in 1..=MAX_IN_FLIGHT_BOUND;
        /// How often a paused channel is checked, and the longest time for which a channel that cannot
        /// take messages is left unchecked. While the store is unavailable, a message of a paused channel
        /// comes back after this time, or later if more than 200 a second would come back.
        #[serde(rename = "paused_park", with = "humantime_serde")]
        paused_snooze: Duration = Duration::from_secs(30);
        /// A message moves to the store if its next attempt is at least this far in the future. One
        /// with a shorter wait stays with the broker. What waits for a paused or failing channel moves
        /// at once.
        #[serde(with = "humantime_serde")]
        wait_in_store_after: Duration = Duration::from_mins(1);
        breaker: BreakerConfig = BreakerConfig::default();
        webhook: WebhookConfig = WebhookConfig::default();
        retry: RetryConfig = RetryConfig::default();
    }
}

impl Config {
    pub(crate) fn settings(&self) -> Settings<'_> {
        Settings {
            concurrency: self.concurrency,
            paused_snooze: self.paused_snooze,
            wait_in_store_after: self.wait_in_store_after,
            breaker: self.breaker,
            webhook: &self.webhook,
            retry: &self.retry,
            then: Then::GiveUp,
            default_schedule: &DEFAULT_SCHEDULE,
        }
    }

    pub fn check(&self, check: &mut Check) {
        self.check_bounds(check);
        self.settings().check(check);
        let bounds = MIN_WAIT_IN_STORE..=MAX_WAIT_IN_STORE;
        check.within("wait_in_store_after", &self.wait_in_store_after, &bounds);
        let bounds = MIN_PAUSED_SNOOZE..=MAX_PAUSED_SNOOZE;
        check.within("paused_park", &self.paused_snooze, &bounds);
    }
}
