//! The configuration sections of every role that posts: how webhooks are posted, and when they are
//! retried.
//!
//! Invariant: the binary checks every section before it builds a role.

use std::{ops::RangeInclusive, time::Duration};

use humantime_serde::Serde;
use hyper::header::HeaderValue;
use roundtrip_model::{
    Check, WrongSetting,
    retry::{DEFAULT_MAX_AGE, DEFAULT_RETRY_AFTER_CAP, RetryPolicy, Then},
};

const MAX_SCHEDULE: usize = 64;
/// Upper bound on every duration here: a longer one is a mistake.
const MAX_DURATION: Duration = Duration::from_hours(24 * 366);
/// An interval of zero would be a busy loop against a failing server.
const DURATIONS: RangeInclusive<Duration> = Duration::from_millis(1)..=MAX_DURATION;
/// Maximum number of deliveries that one role of one process has under way.
pub const MAX_CONCURRENCY: u16 = 10_000;

roundtrip_model::section! {
    #[derive(Debug, Eq)]
    pub struct WebhookConfig {
        /// The time limit on one exchange, from the connect to the last byte read of the response.
        #[serde(with = "humantime_serde")]
        timeout: Duration = Duration::from_secs(30), in DURATIONS;
        #[serde(with = "humantime_serde")]
        connect_timeout: Duration = Duration::from_secs(5), in DURATIONS;
        /// Maximum number of idle connections kept per host. The default is a role's default
        /// concurrency, so that one busy host does not cause repeated connects.
        max_idle_per_host: usize = 256;
        user_agent: String = concat!("Roundtrip/", env!("CARGO_PKG_VERSION")).to_owned();
    }
}

impl WebhookConfig {
    pub(crate) fn check(&self, check: &mut Check) -> Option<HeaderValue> {
        self.check_bounds(check);
        let user_agent = HeaderValue::from_str(&self.user_agent);
        check.take(user_agent.map_err(|_| {
            WrongSetting::new("user_agent", "must consist of printable ASCII characters")
        }))
    }
}

roundtrip_model::section! {
    #[derive(Debug, Eq)]
    pub struct RetryConfig {
        /// The interval after each failed attempt, in order; the role's own schedule by default.
        #[serde(skip_serializing_if = "Option::is_none")]
        schedule: Option<Vec<Serde<Duration>>> = None;
        /// The age at which a message gets no further attempt.
        #[serde(with = "humantime_serde")]
        max_age: Duration = DEFAULT_MAX_AGE, in DURATIONS;
        /// The longest wait that `Retry-After` can request.
        #[serde(with = "humantime_serde")]
        retry_after_cap: Duration = DEFAULT_RETRY_AFTER_CAP, in ..=MAX_DURATION;
    }
}

impl RetryConfig {
    pub(crate) fn check(&self, check: &mut Check) {
        self.check_bounds(check);
        let Some(schedule) = &self.schedule else {
            return;
        };
        if !(1..=MAX_SCHEDULE).contains(&schedule.len()) {
            let problem = format!("must have 1 to {MAX_SCHEDULE} intervals");
            check.add(WrongSetting::new("schedule", problem));
        }
        for interval in schedule {
            check.within("schedule", &**interval, &DURATIONS);
        }
    }

    pub fn policy(&self, then: Then, default: &[Duration]) -> RetryPolicy {
        let own = self.schedule.as_ref();
        RetryPolicy {
            schedule: own.map_or_else(
                || default.to_vec(),
                |own| own.iter().map(|interval| interval.into_inner()).collect(),
            ),
            then,
            max_age: self.max_age,
            retry_after_cap: self.retry_after_cap,
        }
    }
}

/// The consumer's window for this `concurrency`: a quarter more, so that a message is ready when a
/// permit becomes free. A larger window would let a slow channel hold messages that another process
/// could handle.
pub(crate) fn window(concurrency: u16) -> u16 {
    concurrency + (concurrency / 4).max(1)
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
        let policy = config.policy(Then::GiveUp, &DEFAULT);
        assert_eq!(
            policy.schedule,
            [Duration::from_millis(250), Duration::from_secs(90)]
        );
    }

    #[test]
    fn without_a_schedule_the_roles_own_is_used() {
        let policy = read(r#"{"max_age": "1h"}"#).policy(Then::RepeatTheLast, &DEFAULT);
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
    #[case::no_interval(r#"{"schedule": []}"#, "retry.schedule must have 1 to 64 intervals")]
    #[case::nothing(r#"{"schedule": ["0s"]}"#, "retry.schedule must be 1ms to 366 days")]
    #[case::no_age(r#"{"max_age": "0s"}"#, "retry.max_age must be 1ms to 366 days")]
    #[case::cap(
        r#"{"retry_after_cap": "2years"}"#,
        "retry.retry_after_cap must be at most 366 days"
    )]
    fn what_is_out_of_its_bounds_is_named(#[case] json: &str, #[case] message: &str) {
        let mut check = Check::of("retry");
        read(json).check(&mut check);
        assert_eq!(check.end().unwrap_err().to_string(), message);
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
        assert_eq!(window(at_once), ahead);
    }
}
