//! A channel's delivery settings, in `channel_metadata.delivery`.
//!
//! Invariant: reading never fails. An invalid setting that another client wrote to the database
//! counts as not set, so that no message is lost to it. The API checks settings before it writes
//! them ([`check`]) and names every invalid one.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::{config::Bounded, field_error::FieldError};

pub const DELIVERY: &str = "delivery";
pub const PAUSED: &str = "paused";

const TIMEOUT: &str = "timeout";
const MAX_IN_FLIGHT: &str = "max_in_flight";
const RATE_PER_SECOND: &str = "rate_per_second";
const RETRY_SCHEDULE: &str = "retry_schedule";
pub const ANSWER_WITHIN: &str = "answer_within";
const CONTENT_RETENTION: &str = "content_retention";

pub const MIN_TIMEOUT: Duration = Duration::from_millis(100);
/// The longest time limit. A broker that waits much longer for an ack redelivers the message.
pub const MAX_TIMEOUT: Duration = Duration::from_mins(5);
/// The highest limit on a channel's concurrent deliveries. The dispatcher's own concurrency applies
/// too.
pub const MAX_IN_FLIGHT_BOUND: u16 = 10_000;
/// The slowest rate: one delivery in 100 seconds.
pub const MIN_RATE: f64 = 0.01;
/// The fastest rate, which is more than one process can reach.
pub const MAX_RATE: f64 = 100_000.0;
pub const MAX_INTERVALS: usize = 64;
pub const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// The longest interval of a retry schedule. With its jitter it fits RabbitMQ's last delay tier.
pub const MAX_INTERVAL: Duration = Duration::from_hours(6);
/// A shorter time would end before the journal has recorded an answer.
pub const MIN_ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// By default the token for answers is valid for this long. With a shorter life of the token an
/// answer is due before the token expires.
pub const MAX_ANSWER_WITHIN: Duration = Duration::from_hours(7 * 24);

pub const MIN_CONTENT_RETENTION: Duration = Duration::from_secs(1);
/// The longest time that a channel can set. A shorter `store.retention` removes the contents earlier.
pub const MAX_CONTENT_RETENTION: Duration = Duration::from_hours(365 * 24);

/// A channel's settings. Those that are not set are the dispatcher's defaults.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeliverySettings {
    pub timeout: Option<Duration>,
    pub max_in_flight: Option<u16>,
    /// The most deliveries that one dispatcher process starts in a second.
    pub rate_per_second: Option<f64>,
    pub retry_schedule: Option<Vec<Duration>>,
    /// How long the channel has to answer a message that it accepted.
    pub answer_within: Option<Duration>,
    /// How long the store keeps the contents of messages and answers.
    pub content_retention: Option<Duration>,
    /// Whether messages are accepted and kept, but not delivered.
    pub paused: bool,
}

impl DeliverySettings {
    /// Reads the settings from this metadata. An invalid setting counts as not set.
    pub fn of(metadata: &Map<String, Value>) -> Self {
        let Some(Value::Object(delivery)) = metadata.get(DELIVERY) else {
            return Self::default();
        };
        let value = |key: &str| delivery.get(key);
        Self {
            timeout: value(TIMEOUT).and_then(|value| timeout(value).ok()),
            max_in_flight: value(MAX_IN_FLIGHT).and_then(|value| max_in_flight(value).ok()),
            rate_per_second: value(RATE_PER_SECOND).and_then(|value| rate(value).ok()),
            retry_schedule: value(RETRY_SCHEDULE).and_then(|value| schedule(value).ok()),
            answer_within: value(ANSWER_WITHIN).and_then(|value| answer_within(value).ok()),
            content_retention: value(CONTENT_RETENTION)
                .and_then(|value| content_retention(value).ok()),
            paused: value(PAUSED).and_then(Value::as_bool).unwrap_or_default(),
        }
    }
}

/// What is wrong with the settings in metadata that a client sent. An unknown key is wrong too.
pub fn check(metadata: &Map<String, Value>) -> Vec<FieldError> {
    let path = format!("channel_metadata.{DELIVERY}");
    let delivery = match metadata.get(DELIVERY) {
        None => return Vec::new(),
        Some(Value::Object(delivery)) => delivery,
        Some(_) => return vec![FieldError::new(path, "must be an object")],
    };
    let problem = |key: &str, value: &Value| match key {
        TIMEOUT => timeout(value).err(),
        MAX_IN_FLIGHT => max_in_flight(value).err(),
        RATE_PER_SECOND => rate(value).err(),
        RETRY_SCHEDULE => schedule(value).err(),
        ANSWER_WITHIN => answer_within(value).err(),
        CONTENT_RETENTION => content_retention(value).err(),
        PAUSED => (!value.is_boolean()).then(|| "must be true or false".to_owned()),
        _ => Some(format!(
            "is an unknown setting; the settings are {TIMEOUT}, {MAX_IN_FLIGHT}, \
             {RATE_PER_SECOND}, {RETRY_SCHEDULE}, {ANSWER_WITHIN}, {CONTENT_RETENTION} and {PAUSED}"
        )),
    };
    let wrong = |(key, value): (&String, &Value)| {
        problem(key, value).map(|problem| FieldError::new(format!("{path}.{key}"), problem))
    };
    delivery.iter().filter_map(wrong).collect()
}

/// Pauses or resumes the channel with this metadata. Everything else is kept.
pub fn set_paused(metadata: &mut Map<String, Value>, paused: bool) {
    let delivery = metadata
        .entry(DELIVERY)
        .or_insert_with(|| Value::Object(Map::new()));
    // Another client wrote something other than an object, which holds no setting.
    if !delivery.is_object() {
        *delivery = Value::Object(Map::new());
    }
    if let Some(delivery) = delivery.as_object_mut() {
        delivery.insert(PAUSED.to_owned(), Value::Bool(paused));
    }
}

/// Keeps a channel paused when its new metadata does not name the pause: the pause belongs to the
/// operator, the metadata to the channel's owner.
pub fn keep_pause(metadata: &mut Map<String, Value>, replaced: &Map<String, Value>) {
    let is_named = metadata
        .get(DELIVERY)
        .is_some_and(|delivery| delivery.get(PAUSED).is_some());
    if !is_named && DeliverySettings::of(replaced).paused {
        set_paused(metadata, true);
    }
}

fn timeout(value: &Value) -> Result<Duration, String> {
    duration(value, MIN_TIMEOUT, MAX_TIMEOUT)
}

fn content_retention(value: &Value) -> Result<Duration, String> {
    duration(value, MIN_CONTENT_RETENTION, MAX_CONTENT_RETENTION)
}

/// A whole number in any JSON spelling: `32` and `32.0` are equal (JSON Schema, 4.2.3).
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the double was found to be a whole number in the range of u16"
)]
fn whole(value: &Value) -> Option<u16> {
    value
        .as_f64()
        .filter(|number| number.fract() == 0.0 && (0.0..=f64::from(u16::MAX)).contains(number))
        .map(|number| number as u16)
}

fn max_in_flight(value: &Value) -> Result<u16, String> {
    whole(value)
        .filter(|number| (1..=MAX_IN_FLIGHT_BOUND).contains(number))
        .ok_or_else(|| format!("must be a whole number, 1 to {MAX_IN_FLIGHT_BOUND}"))
}

fn rate(value: &Value) -> Result<f64, String> {
    value
        .as_f64()
        .filter(|rate| (MIN_RATE..=MAX_RATE).contains(rate))
        .ok_or_else(|| format!("must be a number, {MIN_RATE} to {MAX_RATE}"))
}

fn schedule(value: &Value) -> Result<Vec<Duration>, String> {
    let intervals = value
        .as_array()
        .filter(|intervals| (1..=MAX_INTERVALS).contains(&intervals.len()))
        .ok_or_else(|| format!("must be a list of 1 to {MAX_INTERVALS} durations"))?;
    intervals
        .iter()
        .map(|interval| {
            duration(interval, MIN_INTERVAL, MAX_INTERVAL)
                .map_err(|problem| format!("each interval {problem}"))
        })
        .collect()
}

fn answer_within(value: &Value) -> Result<Duration, String> {
    duration(value, MIN_ANSWER_WITHIN, MAX_ANSWER_WITHIN)
}

/// Checks the time that a producer gives a channel to answer.
///
/// # Errors
/// What is wrong with the duration.
pub fn check_answer_within(within: Duration) -> Result<Duration, String> {
    bounded(Some(within), MIN_ANSWER_WITHIN, MAX_ANSWER_WITHIN)
}

fn duration(value: &Value, least: Duration, most: Duration) -> Result<Duration, String> {
    let text = value.as_str();
    let duration = text.and_then(|text| humantime::parse_duration(text).ok());
    bounded(duration, least, most)
}

fn bounded(
    duration: Option<Duration>,
    least: Duration,
    most: Duration,
) -> Result<Duration, String> {
    duration
        .filter(|duration| (least..=most).contains(duration))
        .ok_or_else(|| {
            format!(
                "must be a duration such as \"10s\", {} to {}",
                least.shown(),
                most.shown()
            )
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn metadata(delivery: Value) -> Map<String, Value> {
        Map::from_iter([
            ("endpoint_url".to_owned(), json!("http://h/")),
            (DELIVERY.to_owned(), delivery),
        ])
    }

    #[test]
    fn every_setting_is_read() {
        let metadata = metadata(json!({
            "timeout": "10s", "max_in_flight": 32.0, "rate_per_second": 50,
            "retry_schedule": ["1s", "5s"], "answer_within": "7days", "content_retention": "1day",
            "paused": true,
        }));
        assert_eq!(check(&metadata), []);
        assert_eq!(
            DeliverySettings::of(&metadata),
            DeliverySettings {
                timeout: Some(Duration::from_secs(10)),
                max_in_flight: Some(32),
                rate_per_second: Some(50.0),
                retry_schedule: Some(vec![Duration::from_secs(1), Duration::from_secs(5)]),
                answer_within: Some(MAX_ANSWER_WITHIN),
                content_retention: Some(Duration::from_hours(24)),
                paused: true,
            }
        );
    }

    #[rstest]
    #[case::no_object(json!("fast"), "", "must be an object")]
    #[case::unknown(json!({"tymeout": "1s"}), ".tymeout", "is an unknown setting; the settings are timeout, max_in_flight, rate_per_second, retry_schedule, answer_within, content_retention and paused")]
    #[case::timeout(json!({"timeout": 10}), ".timeout", "must be a duration such as \"10s\", 100ms to 5m")]
    #[case::short(json!({"timeout": "1ms"}), ".timeout", "must be a duration such as \"10s\", 100ms to 5m")]
    #[case::long(json!({"timeout": "6m"}), ".timeout", "must be a duration such as \"10s\", 100ms to 5m")]
    #[case::none_at_once(json!({"max_in_flight": 0}), ".max_in_flight", "must be a whole number, 1 to 10000")]
    #[case::half(json!({"max_in_flight": 0.5}), ".max_in_flight", "must be a whole number, 1 to 10000")]
    #[case::too_many(json!({"max_in_flight": 10_001}), ".max_in_flight", "must be a whole number, 1 to 10000")]
    #[case::no_rate(json!({"rate_per_second": 0}), ".rate_per_second", "must be a number, 0.01 to 100000")]
    #[case::empty(json!({"retry_schedule": []}), ".retry_schedule", "must be a list of 1 to 64 durations")]
    #[case::interval(json!({"retry_schedule": ["7h"]}), ".retry_schedule", "each interval must be a duration such as \"10s\", 10ms to 6h")]
    #[case::no_answer(json!({"answer_within": "999ms"}), ".answer_within", "must be a duration such as \"10s\", 1s to 7 days")]
    #[case::late_answer(json!({"answer_within": "8days"}), ".answer_within", "must be a duration such as \"10s\", 1s to 7 days")]
    #[case::brief(json!({"content_retention": "1ms"}), ".content_retention", "must be a duration such as \"10s\", 1s to 365 days")]
    #[case::paused(json!({"paused": "yes"}), ".paused", "must be true or false")]
    fn an_invalid_setting_is_named_and_counts_as_absent(
        #[case] delivery: Value,
        #[case] field: &str,
        #[case] problem: &str,
    ) {
        let metadata = metadata(delivery);
        assert_eq!(
            check(&metadata),
            [FieldError::new(
                format!("channel_metadata.delivery{field}"),
                problem
            )]
        );
        assert_eq!(DeliverySettings::of(&metadata), DeliverySettings::default());
    }

    #[test]
    fn every_invalid_setting_is_named() {
        let metadata = metadata(json!({"timeout": null, "paused": 1}));
        assert_eq!(check(&metadata).len(), 2);
    }

    #[test]
    fn pausing_changes_only_the_pause() {
        let before = metadata(json!({"timeout": "10s", "paused": false, "other": [1]}));
        let mut after = before.clone();
        set_paused(&mut after, true);
        assert!(DeliverySettings::of(&after).paused);
        set_paused(&mut after, false);
        assert_eq!(after, before);
    }

    #[rstest]
    #[case::nothing(Map::new())]
    #[case::no_object(metadata(json!("fast")))]
    fn any_channel_can_be_paused(#[case] mut metadata: Map<String, Value>) {
        set_paused(&mut metadata, true);
        assert!(DeliverySettings::of(&metadata).paused);
        assert_eq!(check(&metadata), []);
    }

    #[rstest]
    #[case::no_settings(Map::new(), true)]
    #[case::others(metadata(json!({"timeout": "1s"})), true)]
    #[case::named(metadata(json!({"paused": false})), false)]
    fn a_pause_outlasts_metadata_that_does_not_name_it(
        #[case] mut new: Map<String, Value>,
        #[case] stays: bool,
    ) {
        let running = new.clone();
        keep_pause(&mut new, &metadata(json!({"paused": false})));
        assert_eq!(new, running);
        keep_pause(
            &mut new,
            &metadata(json!({"paused": true, "timeout": "9s"})),
        );
        assert_eq!(DeliverySettings::of(&new).paused, stays);
        assert_eq!(
            DeliverySettings::of(&new).timeout,
            DeliverySettings::of(&running).timeout
        );
    }

    proptest! {
        #[test]
        fn checked_settings_can_be_read(timeout in 0_u64..1_000_000, at_once: u16, rate: f64) {
            let metadata = metadata(json!({
                "timeout": format!("{timeout}ms"), "max_in_flight": at_once,
                "rate_per_second": rate,
            }));
            let read = DeliverySettings::of(&metadata);
            let all = read.timeout.is_some() && read.max_in_flight.is_some()
                && read.rate_per_second.is_some();
            prop_assert_eq!(check(&metadata).is_empty(), all);
        }
    }
}
