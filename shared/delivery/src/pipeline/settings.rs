//! The part of a role's configuration that the pipeline uses.

use std::time::Duration;

use roundtrip_model::{RetryPolicy, retry::Then};

use crate::{BreakerConfig, ConfigError, RetryConfig, WebhookConfig, config::window};

/// A role's settings, as its section of the configuration has them.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    pub concurrency: u16,
    /// How long a delivery of a paused key is snoozed.
    pub paused_snooze: Duration,
    pub breaker: BreakerConfig,
    pub webhook: &'a WebhookConfig,
    pub retry: &'a RetryConfig,
    /// What follows the last interval of the schedule.
    pub then: Then,
    /// The schedule of a configuration that sets none.
    pub default_schedule: &'a [Duration],
}

impl Settings<'_> {
    /// The retry policy, if every setting is within its bounds.
    ///
    /// # Errors
    /// Names the first setting that is out of bounds.
    pub fn check(&self) -> Result<RetryPolicy, ConfigError> {
        let policy = self.retry.policy(self.then, self.default_schedule)?;
        window(self.concurrency)?;
        self.breaker.check()?;
        Ok(policy)
    }
}
