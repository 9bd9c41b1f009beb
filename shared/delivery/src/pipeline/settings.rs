//! The part of a role's configuration that the pipeline uses.

use std::time::Duration;

use roundtrip_model::{Check, RetryPolicy, retry::Then};

use crate::{BreakerConfig, MAX_CONCURRENCY, RetryConfig, WebhookConfig};

#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    pub concurrency: u16,
    pub paused_snooze: Duration,
    /// A wait of this length is in the store, if the role waits there.
    pub wait_in_store_after: Duration,
    pub breaker: BreakerConfig,
    pub webhook: &'a WebhookConfig,
    pub retry: &'a RetryConfig,
    pub then: Then,
    pub default_schedule: &'a [Duration],
}

impl Settings<'_> {
    pub fn check(&self, check: &mut Check) {
        check.within("concurrency", &self.concurrency, &(1..=MAX_CONCURRENCY));
        check.section("webhook", |check| drop(self.webhook.check(check)));
        check.section("retry", |check| self.retry.check(check));
        check.section("breaker", |check| self.breaker.check(check));
    }

    pub(super) fn policy(&self) -> RetryPolicy {
        self.retry.policy(self.then, self.default_schedule)
    }
}
