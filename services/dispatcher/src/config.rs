//! The dispatcher's section of the configuration.

use std::time::Duration;

use roundtrip_delivery::{BreakerConfig, ConfigError, RetryConfig, Settings, WebhookConfig};
use roundtrip_model::{
    retry::{DEFAULT_SCHEDULE, Then},
    settings::MAX_IN_FLIGHT_BOUND,
};
use serde::{Deserialize, Serialize};

const DEFAULT_CONCURRENCY: u16 = 256;
const DEFAULT_SNOOZE: Duration = Duration::from_secs(5);

/// A quarter of the permits.
const DEFAULT_MAX_IN_FLIGHT_PER_CHANNEL: u16 = 64;
const DEFAULT_PAUSED_SNOOZE: Duration = Duration::from_secs(30);
/// The broker's delays are no shorter.
const MIN_PAUSED_SNOOZE: Duration = Duration::from_secs(1);
/// After a resume the channel's messages should move soon.
const MAX_PAUSED_SNOOZE: Duration = Duration::from_mins(5);

/// Settings of the dispatcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The most deliveries in progress at once.
    pub concurrency: u16,
    /// How long a message is snoozed while the store is unavailable. A snooze does not count as an
    /// attempt.
    #[serde(rename = "park", with = "humantime_serde")]
    pub snooze: Duration,
    /// The most deliveries in progress to one channel that sets no `max_in_flight`.
    pub max_in_flight_per_channel: u16,
    /// How long a paused channel's message is snoozed, which does not count as an attempt. The
    /// snooze is longer when more than 200 paused messages a second would come back.
    #[serde(rename = "paused_park", with = "humantime_serde")]
    pub paused_snooze: Duration,
    /// When the breaker of a failing channel opens.
    pub breaker: BreakerConfig,
    /// How requests to endpoints are made.
    pub webhook: WebhookConfig,
    /// When a failed delivery is retried.
    pub retry: RetryConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            concurrency: DEFAULT_CONCURRENCY,
            snooze: DEFAULT_SNOOZE,
            max_in_flight_per_channel: DEFAULT_MAX_IN_FLIGHT_PER_CHANNEL,
            paused_snooze: DEFAULT_PAUSED_SNOOZE,
            breaker: BreakerConfig::default(),
            webhook: WebhookConfig::default(),
            retry: RetryConfig::default(),
        }
    }
}

impl Config {
    pub(crate) fn settings(&self) -> Settings<'_> {
        Settings {
            concurrency: self.concurrency,
            paused_snooze: self.paused_snooze,
            breaker: self.breaker,
            webhook: &self.webhook,
            retry: &self.retry,
            then: Then::GiveUp,
            default_schedule: &DEFAULT_SCHEDULE,
        }
    }

    /// Checks the settings against their bounds.
    ///
    /// # Errors
    /// Names the first setting that is out of bounds.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.settings().check()?;
        if !(1..=MAX_IN_FLIGHT_BOUND).contains(&self.max_in_flight_per_channel) {
            return Err(ConfigError::new(
                "max_in_flight_per_channel",
                format!("must be 1 to {MAX_IN_FLIGHT_BOUND}"),
            ));
        }
        if !(MIN_PAUSED_SNOOZE..=MAX_PAUSED_SNOOZE).contains(&self.paused_snooze) {
            return Err(ConfigError::new("paused_park", "must be 1s to 5m"));
        }
        Ok(())
    }
}
