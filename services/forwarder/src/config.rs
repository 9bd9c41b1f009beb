//! The forwarder's section of the configuration.

use roundtrip_isolation::BreakerConfig;
use roundtrip_model::{RetryPolicy, retry::Then};
use roundtrip_webhook::{ConfigError, RetryConfig, window};
use serde::{Deserialize, Serialize};

use crate::DEFAULT_SCHEDULE;

/// [`Config::concurrency`] where nothing is configured: the answers all go to one server.
const DEFAULT_CONCURRENCY: u16 = 64;

/// How answers are forwarded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The most forwards under way at once.
    pub concurrency: u16,
    /// When the answers of a channel over which the sessions server fails are snoozed; and all
    /// answers, when it fails over those of most channels.
    pub breaker: BreakerConfig,
    /// How the sessions server is posted to.
    pub webhook: roundtrip_webhook::Config,
    /// When a failed forward is tried again. The last interval is repeated until the answer has
    /// reached its maximum age.
    pub retry: RetryConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            concurrency: DEFAULT_CONCURRENCY,
            breaker: BreakerConfig::default(),
            webhook: roundtrip_webhook::Config::default(),
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
    /// Names the first that is out of them.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.policy()?;
        window(self.concurrency)?;
        self.breaker
            .check()
            .map_err(|(setting, problem)| ConfigError::new(setting, problem))
    }
}
