//! Checks when a message is delivered, and when its answer is due: `deliver_at`, `expires_at` and
//! `answer_within`.

use std::time::Duration;

use roundtrip_model::{
    millis,
    response_url::is_own,
    settings::{ANSWER_WITHIN, check_answer_within},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use url::Url;

use crate::problem::Problem;

/// How far ahead a delivery can be scheduled, and how long after it a message can expire.
const MAX_AHEAD: Duration = Duration::from_hours(365 * 24);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    /// In the future.
    pub(super) deliver_at: Option<OffsetDateTime>,
    pub(super) expires_at: Option<OffsetDateTime>,
}

impl Times {
    /// Checks the times that a producer has sent. A present or past `deliver_at` means now.
    pub(super) fn check(
        deliver_at: Option<OffsetDateTime>,
        expires_at: Option<OffsetDateTime>,
        now: OffsetDateTime,
    ) -> Result<Self, Problem> {
        if deliver_at.is_some_and(|at| at > now + MAX_AHEAD) {
            let problem = format!("must be at most 365 days ahead, such as {}", example(now));
            return Err(Problem::invalid_field("deliver_at", problem));
        }
        let deliver_at = deliver_at.map(not_before).filter(|at| *at > now);
        let (from, name) = deliver_at.map_or((now, "now"), |at| (at, "deliver_at"));
        if expires_at.is_some_and(|at| at <= from || at > from + MAX_AHEAD) {
            let example = example(from);
            let problem =
                format!("must be later than {name}, by at most 365 days, such as {example}");
            return Err(Problem::invalid_field("expires_at", problem));
        }
        Ok(Self {
            deliver_at,
            expires_at,
        })
    }
}

/// Checks how long the channel has to answer, and returns it in milliseconds. It has no effect on a
/// message whose `response_url` is not the gateway's `own`.
pub(super) fn answer_within(
    within: Option<Duration>,
    response_url: Option<&Url>,
    own: &str,
) -> Result<Option<u64>, Problem> {
    let Some(within) = within else {
        return Ok(None);
    };
    let wrong = |problem: String| Problem::invalid_field(ANSWER_WITHIN, problem);
    let within = check_answer_within(within).map_err(wrong)?;
    let is_elsewhere = |url: &Url| !Url::parse(own).is_ok_and(|own| is_own(&own, url));
    if response_url.is_some_and(is_elsewhere) {
        let problem =
            "has no effect with this response_url: its answers do not come to the gateway";
        return Err(wrong(problem.to_owned()));
    }
    Ok(u64::try_from(within.as_millis()).ok())
}

/// The first whole millisecond that is not before this time: queues and stores keep those.
fn not_before(at: OffsetDateTime) -> OffsetDateTime {
    millis::time(millis::not_before(at)).unwrap_or(at)
}

/// A time that is allowed after this one.
fn example(from: OffsetDateTime) -> String {
    let later = (from + Duration::from_hours(1)).truncate_to_second();
    later.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use roundtrip_broker::{Message, Queue};
    use roundtrip_model::{Clock, OutboundMessage, Waiting, waiting::WaitReason};
    use rstest::rstest;
    use serde_json::{Value, json};
    use time::macros::datetime;

    use super::*;
    use crate::tests::Bench;

    const NOW: OffsetDateTime = datetime!(2026-11-23 12:00:00.5 UTC);
    const MINUTE: time::Duration = time::Duration::MINUTE;
    const YEAR: time::Duration = time::Duration::days(365);

    fn checked(
        deliver: Option<time::Duration>,
        expires: Option<time::Duration>,
    ) -> Result<[Option<time::Duration>; 2], Value> {
        let at = |after: Option<time::Duration>| after.map(|after| NOW + after);
        match Times::check(at(deliver), at(expires), NOW) {
            Ok(times) => Ok([times.deliver_at, times.expires_at].map(|at| at.map(|at| at - NOW))),
            Err(problem) => Err(serde_json::to_value(problem).unwrap()["errors"][0].clone()),
        }
    }

    #[rstest]
    #[case::neither(None, None)]
    #[case::soon(Some(MINUTE), None)]
    #[case::in_a_year(Some(YEAR), None)]
    #[case::expiring(None, Some(YEAR))]
    #[case::both(Some(MINUTE), Some(2 * MINUTE))]
    #[case::two_years(Some(YEAR), Some(2 * YEAR))]
    fn times_within_their_bounds_are_kept(
        #[case] deliver: Option<time::Duration>,
        #[case] expires: Option<time::Duration>,
    ) {
        assert_eq!(checked(deliver, expires), Ok([deliver, expires]));
    }

    #[rstest]
    #[case::now(time::Duration::ZERO)]
    #[case::past(-MINUTE)]
    #[case::long_past(-100 * YEAR)]
    fn a_delivery_that_is_not_in_the_future_is_now(#[case] after: time::Duration) {
        let expires = Some(MINUTE);
        assert_eq!(checked(Some(after), expires), Ok([None, expires]));
    }

    #[test]
    fn a_time_between_two_milliseconds_is_not_early() {
        let between = Some(MINUTE + time::Duration::NANOSECOND);
        let after = Some(MINUTE + time::Duration::MILLISECOND);
        assert_eq!(checked(between, None), Ok([after, None]));
    }

    const AHEAD: &str = "must be at most 365 days ahead, such as 2026-11-23T13:00:00Z";
    const AFTER_NOW: &str =
        "must be later than now, by at most 365 days, such as 2026-11-23T13:00:00Z";
    const AFTER_DELIVERY: &str =
        "must be later than deliver_at, by at most 365 days, such as 2026-11-23T14:00:00Z";

    #[rstest]
    #[case::too_far(Some(YEAR + MINUTE), None, "deliver_at", AHEAD)]
    #[case::expired(None, Some(-MINUTE), "expires_at", AFTER_NOW)]
    #[case::expiring_now(None, Some(time::Duration::ZERO), "expires_at", AFTER_NOW)]
    #[case::expiring_too_late(None, Some(YEAR + MINUTE), "expires_at", AFTER_NOW)]
    #[case::of_a_past_delivery(Some(-MINUTE), Some(YEAR + MINUTE), "expires_at", AFTER_NOW)]
    #[case::before_the_delivery(Some(60 * MINUTE), Some(MINUTE), "expires_at", AFTER_DELIVERY)]
    #[case::with_the_delivery(Some(60 * MINUTE), Some(60 * MINUTE), "expires_at", AFTER_DELIVERY)]
    #[case::long_after_the_delivery(
        Some(60 * MINUTE),
        Some(YEAR + 61 * MINUTE),
        "expires_at",
        AFTER_DELIVERY
    )]
    fn another_time_is_refused_with_an_example(
        #[case] deliver: Option<time::Duration>,
        #[case] expires: Option<time::Duration>,
        #[case] field: &str,
        #[case] detail: &str,
    ) {
        let error = json!({"field": field, "detail": detail});
        assert_eq!(checked(deliver, expires), Err(error));
    }

    const OWN: &str = "https://gw.example/webhook-response";

    #[rstest]
    #[case::none(None, None, Ok(None))]
    #[case::least(Some(1_000), None, Ok(Some(1_000)))]
    #[case::most(Some(7 * 24 * 3_600_000), Some(OWN), Ok(Some(7 * 24 * 3_600_000)))]
    #[case::short(
        Some(999),
        None,
        Err("must be a duration such as \"10s\", 1s to 7 days")
    )]
    #[case::long(
        Some(7 * 24 * 3_600_000 + 1),
        None,
        Err("must be a duration such as \"10s\", 1s to 7 days")
    )]
    #[case::elsewhere(
        Some(1_000),
        Some("https://producer.example/"),
        Err("has no effect with this response_url: its answers do not come to the gateway")
    )]
    fn the_time_for_an_answer_has_bounds_and_needs_the_gateways_own_url(
        #[case] within: Option<u64>,
        #[case] response_url: Option<&str>,
        #[case] expected: Result<Option<u64>, &str>,
    ) {
        let url = response_url.map(|url| url.parse().unwrap());
        let within = within.map(Duration::from_millis);
        let checked = answer_within(within, url.as_ref(), OWN);
        let checked = checked.map_err(|problem| {
            let error = serde_json::to_value(problem).unwrap()["errors"][0].clone();
            assert_eq!(error["field"], "answer_within");
            error["detail"].as_str().unwrap().to_owned()
        });
        assert_eq!(checked, expected.map_err(str::to_owned));
    }

    /// A message with these times, this long after now.
    fn body(bench: &Bench, times: &[(&str, time::Duration)]) -> Value {
        let mut body = json!({"channel_id": "c", "session_id": "s", "message": "m"});
        let now = not_before(bench.clock.now());
        for (field, after) in times {
            body[field] = (now + *after).format(&Rfc3339).unwrap().into();
        }
        body
    }

    fn payload(message: &Message) -> OutboundMessage {
        serde_json::from_slice(&message.body).unwrap()
    }

    /// Also a paused channel's: it is due at its time and not now.
    #[tokio::test]
    async fn a_scheduled_message_goes_where_it_waits_for_its_time() {
        let bench = Bench::new().await;
        let body = body(
            &bench,
            &[("deliver_at", MINUTE), ("expires_at", 2 * MINUTE)],
        );
        for is_paused in [false, true] {
            if is_paused {
                bench.post("/channel/c/pause", &[], "").await;
            }
            let sent = bench.post("/channel/message", &[], body.to_string()).await;
            assert_eq!(sent.status, 202, "{}", sent.text);
        }
        let batch = json!([body]).to_string();
        let sent = bench.post("/channel/messages", &[], batch).await;
        assert_eq!(sent.json()["accepted"], 1, "{}", sent.text);

        assert_eq!(bench.broker.messages(Queue::Outbound), []);
        let waiting = bench.broker.messages(Queue::Waiting);
        assert_eq!(waiting.len(), 3);
        for message in waiting {
            let payload = payload(&message);
            let due_at = payload.deliver_at.unwrap();
            assert_eq!(payload.expires_at.unwrap() - due_at, MINUTE);
            let reason = WaitReason::Scheduled;
            assert_eq!(message.waiting, Some(Waiting { due_at, reason }));
        }
    }

    #[tokio::test]
    async fn a_message_for_now_goes_to_its_channel() {
        let bench = Bench::new().await;
        let body = body(&bench, &[("deliver_at", -MINUTE), ("expires_at", MINUTE)]);
        let sent = bench.post("/channel/message", &[], body.to_string()).await;
        assert_eq!(sent.status, 202, "{}", sent.text);
        let sent = bench.broker.messages(Queue::Outbound);
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].waiting, None);
        assert_eq!(payload(&sent[0]).deliver_at, None);
        assert!(payload(&sent[0]).expires_at.is_some());
    }

    #[tokio::test]
    async fn a_wrong_time_names_its_field_and_nothing_is_enqueued() {
        let bench = Bench::new().await;
        for (field, after) in [("deliver_at", YEAR + MINUTE), ("expires_at", -MINUTE)] {
            let body = body(&bench, &[(field, after)]);
            let refused = bench.post("/channel/message", &[], body.to_string()).await;
            assert_eq!(refused.status, 422);
            assert_eq!(refused.json()["errors"][0]["field"], field);
            let batch = json!([body]).to_string();
            let refused = bench.post("/channel/messages", &[], batch).await;
            let result = &refused.json()["results"][0];
            assert_eq!(result["errors"][0]["field"], field);
        }
        for queue in [Queue::Outbound, Queue::Waiting] {
            assert_eq!(bench.broker.messages(queue), []);
        }
    }
}
