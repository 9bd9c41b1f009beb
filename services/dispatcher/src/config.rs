//! The dispatcher's section of the configuration.

use std::time::Duration;

use roundtrip_webhook::RetryConfig;
use serde::{Deserialize, Serialize};

/// [`Config::concurrency`] where nothing is configured.
const DEFAULT_CONCURRENCY: u16 = 256;
/// [`Config::park`] where nothing is configured.
const DEFAULT_PARK: Duration = Duration::from_secs(5);

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
            webhook: roundtrip_webhook::Config::default(),
            retry: RetryConfig::default(),
        }
    }
}
