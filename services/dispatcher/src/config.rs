//! The dispatcher's section of the configuration.

use std::time::Duration;

use roundtrip_delivery::admission::BreakerConfig;
use roundtrip_delivery::{ConfigError, RetryConfig, window};
use roundtrip_model::{
    RetryPolicy,
    retry::{DEFAULT_SCHEDULE, Then},
    settings::MAX_IN_FLIGHT_BOUND,
};
use serde::{Deserialize, Serialize};

const DEFAULT_CONCURRENCY: u16 = 256;
const DEFAULT_PARK: Duration = Duration::from_secs(5);

/// A quarter of the permits.
const DEFAULT_MAX_IN_FLIGHT_PER_CHANNEL: u16 = 64;
const DEFAULT_PAUSED_PARK: Duration = Duration::from_secs(30);
/// The broker's delays are no shorter.
const MIN_PAUSED_PARK: Duration = Duration::from_secs(1);
/// After a resume the channel's messages should move soon.
const MAX_PAUSED_PARK: Duration = Duration::from_mins(5);

/// Settings of the dispatcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The most deliveries in progress at once.
    pub concurrency: u16,
    /// How long a message is snoozed while the store is unavailable. A snooze does not count as an
    /// attempt.
    #[serde(with = "humantime_serde")]
    pub park: Duration,
    /// The most deliveries in progress to one channel that sets no `max_in_flight`.
    pub max_in_flight_per_channel: u16,
    /// How long a paused channel's message is snoozed, which does not count as an attempt. The
    /// snooze is longer when more than 200 paused messages a second would come back.
    #[serde(with = "humantime_serde")]
    pub paused_park: Duration,
    /// When the breaker of a failing channel opens.
    pub breaker: BreakerConfig,
    /// How requests to endpoints are made.
    pub webhook: roundtrip_delivery::WebhookConfig,
    /// When a failed delivery is retried.
    pub retry: RetryConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            concurrency: DEFAULT_CONCURRENCY,
            park: DEFAULT_PARK,
            max_in_flight_per_channel: DEFAULT_MAX_IN_FLIGHT_PER_CHANNEL,
            paused_park: DEFAULT_PAUSED_PARK,
            breaker: BreakerConfig::default(),
            webhook: roundtrip_delivery::WebhookConfig::default(),
            retry: RetryConfig::default(),
        }
    }
}

impl Config {
    pub(crate) fn policy(&self) -> Result<RetryPolicy, ConfigError> {
        self.retry.policy(Then::GiveUp, &DEFAULT_SCHEDULE)
    }

    /// Checks the settings against their bounds.
    ///
    /// # Errors
    /// Names the first setting that is out of bounds.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.policy()?;
        window(self.concurrency)?;
        if !(1..=MAX_IN_FLIGHT_BOUND).contains(&self.max_in_flight_per_channel) {
            return Err(ConfigError::new(
                "max_in_flight_per_channel",
                format!("must be 1 to {MAX_IN_FLIGHT_BOUND}"),
            ));
        }
        if !(MIN_PAUSED_PARK..=MAX_PAUSED_PARK).contains(&self.paused_park) {
            return Err(ConfigError::new("paused_park", "must be 1s to 5m"));
        }
        self.breaker
            .check()
            .map_err(|(setting, problem)| ConfigError::new(setting, problem))
    }
}
