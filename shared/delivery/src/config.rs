//! The two configuration sections of every role that posts: how webhooks are posted, and when they
//! are retried.
//!
//! Invariant: a [`crate::Webhook`] or a [`RetryPolicy`] is only made from settings within their
//! bounds. Any other setting is an error of one line that names it.

use std::time::Duration;

use humantime_serde::Serde;
use roundtrip_model::retry::{DEFAULT_MAX_AGE, DEFAULT_RETRY_AFTER_CAP, RetryPolicy, Then};
use serde::{Deserialize, Serialize};

use crate::ConfigError;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Default of [`WebhookConfig::max_idle_per_host`]: a role's default concurrency, so that one busy
/// host does not cause repeated connects.
const DEFAULT_MAX_IDLE_PER_HOST: usize = 256;

/// Maximum number of intervals in a schedule.
const MAX_SCHEDULE: usize = 64;
/// The shortest interval in a schedule; zero would be a busy loop against a failing server.
const MIN_INTERVAL: Duration = Duration::from_millis(1);
/// Upper bound on every duration here: a longer one is a mistake.
const MAX_DURATION: Duration = Duration::from_hours(24 * MAX_DAYS);
const MAX_DAYS: u64 = 366;
/// Maximum number of deliveries that one role of one process has under way.
pub const MAX_CONCURRENCY: u16 = 10_000;

/// How a webhook is posted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookConfig {
    /// The time limit on one exchange, from the connect to the last byte read of the answer.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// The time limit on connecting, including TLS.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Maximum number of idle connections kept per host.
    pub max_idle_per_host: usize,
    pub user_agent: String,
}

impl Default for WebhookConfig {
    fn default() -> Self {
        Self {
            timeout: DEFAULT_TIMEOUT,
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            max_idle_per_host: DEFAULT_MAX_IDLE_PER_HOST,
            user_agent: concat!("Roundtrip/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

impl WebhookConfig {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        within("webhook.timeout", self.timeout)?;
        within("webhook.connect_timeout", self.connect_timeout)
    }
}

/// When a failed post is retried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryConfig {
    /// The interval after each failed attempt, in order; the role's own schedule by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Vec<Serde<Duration>>>,
    /// The age at which a message gets no further attempt.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// The longest wait that `Retry-After` can request.
    #[serde(with = "humantime_serde")]
    pub retry_after_cap: Duration,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            schedule: None,
            max_age: DEFAULT_MAX_AGE,
            retry_after_cap: DEFAULT_RETRY_AFTER_CAP,
        }
    }
}

impl RetryConfig {
    /// The policy, with the role's own schedule by default.
    ///
    /// # Errors
    /// Names the first setting that is out of bounds.
    pub fn policy(&self, then: Then, default: &[Duration]) -> Result<RetryPolicy, ConfigError> {
        let own = self.schedule.as_ref();
        let schedule = own.map_or_else(
            || default.to_vec(),
            |own| own.iter().map(|interval| interval.into_inner()).collect(),
        );
        if !(1..=MAX_SCHEDULE).contains(&schedule.len()) {
            return Err(ConfigError::new(
                "retry.schedule",
                format!("must have 1 to {MAX_SCHEDULE} intervals"),
            ));
        }
        for interval in &schedule {
            within("retry.schedule", *interval)?;
        }
        within("retry.max_age", self.max_age)?;
        if self.retry_after_cap > MAX_DURATION {
            return Err(ConfigError::new(
                "retry.retry_after_cap",
                format!("must be at most {MAX_DAYS} days"),
            ));
        }
        Ok(RetryPolicy {
            schedule,
            then,
            max_age: self.max_age,
            retry_after_cap: self.retry_after_cap,
        })
    }
}

fn within(setting: &'static str, duration: Duration) -> Result<(), ConfigError> {
    if (MIN_INTERVAL..=MAX_DURATION).contains(&duration) {
        Ok(())
    } else {
        let least = humantime::format_duration(MIN_INTERVAL);
        Err(ConfigError::new(
            setting,
            format!("must be {least} to {MAX_DAYS} days"),
        ))
    }
}

/// The consumer's window for this `concurrency`: a quarter more, so that a message is ready when a
/// permit becomes free. A larger window would let a slow channel hold messages that another process
/// could handle.
///
/// # Errors
/// If `concurrency` is not 1 to [`MAX_CONCURRENCY`].
pub(crate) fn window(concurrency: u16) -> Result<u16, ConfigError> {
    if (1..=MAX_CONCURRENCY).contains(&concurrency) {
        Ok(concurrency + (concurrency / 4).max(1))
    } else {
        Err(ConfigError::new(
            "concurrency",
            format!("must be 1 to {MAX_CONCURRENCY}"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const DEFAULT: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

    fn read(json: &str) -> RetryConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_schedule_is_a_list_of_durations_as_people_write_them() {
        let config = read(r#"{"schedule": ["250ms", "1m 30s"]}"#);
        let policy = config.policy(Then::GiveUp, &DEFAULT).unwrap();
        assert_eq!(
            policy.schedule,
            [Duration::from_millis(250), Duration::from_secs(90)]
        );
    }

    #[test]
    fn without_a_schedule_the_roles_own_is_used() {
        let policy = read(r#"{"max_age": "1h"}"#)
            .policy(Then::RepeatTheLast, &DEFAULT)
            .unwrap();
        assert_eq!(policy.schedule, DEFAULT);
        assert_eq!(policy.max_age, Duration::from_hours(1));
    }

    #[test]
    fn what_is_written_reads_back() {
        let config = read(r#"{"schedule": ["250ms"]}"#);
        let written = serde_json::to_string(&config).unwrap();
        assert_eq!(read(&written), config);
    }

    #[rstest]
    #[case::no_interval(r#"{"schedule": []}"#, "retry.schedule: must have 1 to 64 intervals")]
    #[case::nothing(r#"{"schedule": ["0s"]}"#, "retry.schedule: must be 1ms to 366 days")]
    #[case::no_age(r#"{"max_age": "0s"}"#, "retry.max_age: must be 1ms to 366 days")]
    #[case::cap(
        r#"{"retry_after_cap": "2years"}"#,
        "retry.retry_after_cap: must be at most 366 days"
    )]
    fn what_is_out_of_its_bounds_is_named(#[case] json: &str, #[case] message: &str) {
        let error = read(json).policy(Then::GiveUp, &DEFAULT).unwrap_err();
        assert_eq!(error.to_string(), message);
    }

    #[rstest]
    #[case::retry(serde_json::from_str::<RetryConfig>(r#"{"shedule": []}"#).unwrap_err())]
    #[case::webhook(serde_json::from_str::<WebhookConfig>(r#"{"shedule": []}"#).unwrap_err())]
    fn an_unknown_key_is_refused(#[case] error: serde_json::Error) {
        assert!(error.to_string().contains("shedule"), "{error}");
    }

    #[rstest]
    #[case(1, 2)]
    #[case(256, 320)]
    #[case(MAX_CONCURRENCY, 12_500)]
    fn the_window_is_a_little_more_than_the_concurrency(#[case] at_once: u16, #[case] ahead: u16) {
        assert_eq!(window(at_once).unwrap(), ahead);
    }

    #[rstest]
    #[case(0)]
    #[case(MAX_CONCURRENCY + 1)]
    fn a_concurrency_out_of_its_bounds_is_refused(#[case] concurrency: u16) {
        let error = window(concurrency).unwrap_err();
        assert_eq!(error.to_string(), "concurrency: must be 1 to 10000");
    }
}
