//! The forwarder's section of the configuration.

use std::time::Duration;

use roundtrip_delivery::{BreakerConfig, RetryConfig, Settings, WebhookConfig};
use roundtrip_model::{Check, retry::Then};
use serde::{Deserialize, Serialize};

/// The default intervals between attempts; the last repeats. They are shorter than a channel's, as
/// all answers wait for one SESSIONS_SERVER.
const DEFAULT_SCHEDULE: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_mins(2),
];

roundtrip_model::section! {
    #[derive(Debug, Eq)]
    pub struct Config {
        /// The most forwards in progress at once, all to one server.
        concurrency: u16 = 64;
        body: BodyFields = BodyFields::Full;
        /// When the breakers open. Each channel's answers have one. One for all answers opens if the
        /// sessions server fails over the answers of most channels.
        breaker: BreakerConfig = BreakerConfig::default();
        webhook: WebhookConfig = WebhookConfig::default();
        /// When a failed forward is retried. The last interval repeats until the answer reaches its
        /// maximum age.
        retry: RetryConfig = RetryConfig::default();
    }
}

/// The fields of a forward's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BodyFields {
    /// All of them. `message_id` and `channel_id` are absent if the answer came without a token, and
    /// an inbound message has no `message_id`.
    Full,
    /// `session_id` and `response_data`.
    Bare,
}

impl Config {
    pub(crate) fn settings(&self) -> Settings<'_> {
        Settings {
            concurrency: self.concurrency,
            // Answers cannot be paused.
            paused_snooze: Duration::ZERO,
            // Answers wait in the broker.
            wait_in_store_after: Duration::MAX,
            breaker: self.breaker,
            webhook: &self.webhook,
            retry: &self.retry,
            then: Then::RepeatTheLast,
            default_schedule: &DEFAULT_SCHEDULE,
        }
    }

    pub fn check(&self, check: &mut Check) {
        self.check_bounds(check);
        self.settings().check(check);
    }
}
