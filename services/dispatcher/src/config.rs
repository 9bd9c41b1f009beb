//! The dispatcher's section of the configuration.

use std::time::Duration;

use roundtrip_isolation::BreakerConfig;
use roundtrip_model::{
    RetryPolicy,
    retry::{DEFAULT_SCHEDULE, Then},
    settings::MAX_IN_FLIGHT_BOUND,
};
use roundtrip_webhook::{ConfigError, RetryConfig, window};
use serde::{Deserialize, Serialize};

/// [`Config::concurrency`] where nothing is configured.
const DEFAULT_CONCURRENCY: u16 = 256;
/// [`Config::park`] where nothing is configured.
const DEFAULT_PARK: Duration = Duration::from_secs(5);

/// [`Config::max_in_flight_per_channel`] where nothing is configured: a quarter of the slots.
const DEFAULT_MAX_IN_FLIGHT_PER_CHANNEL: u16 = 64;
/// [`Config::paused_park`] where nothing is configured.
const DEFAULT_PAUSED_PARK: Duration = Duration::from_secs(30);
/// The shortest that can be configured: the broker's delays are no shorter.
const MIN_PAUSED_PARK: Duration = Duration::from_secs(1);
/// The longest: whoever resumes a channel wants to see it go on.
const MAX_PAUSED_PARK: Duration = Duration::from_mins(5);

/// How messages are delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The most deliveries under way at once.
    pub concurrency: u16,
    /// How long a message waits, at the cost of no try, when the store cannot say where its
    /// channel is.
    #[serde(with = "humantime_serde")]
    pub park: Duration,
    /// The most deliveries under way at once to one channel that names no `max_in_flight`.
    pub max_in_flight_per_channel: u16,
    /// How long a paused channel's message waits, at the cost of no try, before it is looked at
    /// again; longer where so many are paused that more than 200 a second would come back.
    #[serde(with = "humantime_serde")]
    pub paused_park: Duration,
    /// When a channel that fails is left alone.
    pub breaker: BreakerConfig,
    /// How an endpoint is posted to.
    pub webhook: roundtrip_webhook::Config,
    /// When a failed delivery is tried again.
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
            webhook: roundtrip_webhook::Config::default(),
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
    /// Names the first that is out of them.
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
