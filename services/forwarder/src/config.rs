//! The forwarder's section of the configuration.

use std::time::Duration;

use roundtrip_delivery::{BreakerConfig, ConfigError, RetryConfig, Settings, WebhookConfig};
use roundtrip_model::retry::Then;
use serde::{Deserialize, Serialize};

/// The default intervals between attempts; the last repeats. They are shorter than a channel's, as
/// all answers wait for one SESSIONS_SERVER.
const DEFAULT_SCHEDULE: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_mins(2),
];

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
    pub webhook: WebhookConfig,
    /// When a failed forward is retried. The last interval repeats until the answer reaches its
    /// maximum age.
    pub retry: RetryConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            concurrency: DEFAULT_CONCURRENCY,
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
            // Answers cannot be paused.
            paused_snooze: Duration::ZERO,
            breaker: self.breaker,
            webhook: &self.webhook,
            retry: &self.retry,
            then: Then::RepeatTheLast,
            default_schedule: &DEFAULT_SCHEDULE,
        }
    }

    /// Checks the settings against their bounds.
    ///
    /// # Errors
    /// Names the first setting that is out of bounds.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.settings().check().map(drop)
    }
}
