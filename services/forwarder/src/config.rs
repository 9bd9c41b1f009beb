//! The forwarder's section of the configuration.

use roundtrip_delivery::admission::BreakerConfig;
use roundtrip_delivery::{ConfigError, RetryConfig, window};
use roundtrip_model::{RetryPolicy, retry::Then};
use serde::{Deserialize, Serialize};

use crate::DEFAULT_SCHEDULE;

/// All answers go to one server.
const DEFAULT_CONCURRENCY: u16 = 64;

/// Settings of the forwarder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The most forwards in progress at once.
    pub concurrency: u16,
    /// When the breakers open. Each channel's answers have one. One for all answers opens if the
    /// sessions server fails over the answers of most channels.
    pub breaker: BreakerConfig,
    /// How requests to the sessions server are made.
    pub webhook: roundtrip_delivery::WebhookConfig,
    /// When a failed forward is retried. The last interval repeats until the answer reaches its
    /// maximum age.
    pub retry: RetryConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            concurrency: DEFAULT_CONCURRENCY,
            breaker: BreakerConfig::default(),
            webhook: roundtrip_delivery::WebhookConfig::default(),
            retry: RetryConfig::default(),
        }
    }
}

impl Config {
    pub(crate) fn policy(&self) -> Result<RetryPolicy, ConfigError> {
        self.retry.policy(Then::RepeatTheLast, &DEFAULT_SCHEDULE)
    }

    /// Checks the settings against their bounds.
    ///
    /// # Errors
    /// Names the first setting that is out of bounds.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.policy()?;
        window(self.concurrency)?;
        self.breaker
            .check()
            .map_err(|(setting, problem)| ConfigError::new(setting, problem))
    }
}
