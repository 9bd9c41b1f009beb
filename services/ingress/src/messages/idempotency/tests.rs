use futures::future::join_all;
use roundtrip_doubles::Mood;
use roundtrip_model::Clock;
use rstest::rstest;

use super::*;
use crate::tests::{Bench, TestResponse};

const BODY: &str = r#"{"channel_id":"c","session_id":"s","message":{"n":1}}"#;

async fn keyed(bench: &Bench, key: &str, body: &str) -> TestResponse {
    bench.post("/channel/message", &[(HEADER, key)], body).await
}

fn replayed(answer: &TestResponse) -> bool {
    answer.headers.get(REPLAYED).is_some_and(|is| is == "true")
}

#[tokio::test]
async fn a_repeat_gets_the_first_answer_and_is_not_enqueued() {
    let bench = Bench::new().await;
    let first = keyed(&bench, "k", BODY).await;
    let again = keyed(&bench, "k", BODY).await;
    assert_eq!((first.status, again.status), (202, 202));
    assert_eq!(first.text, again.text);
    assert_eq!((replayed(&first), replayed(&again)), (false, true));
    assert_eq!(bench.broker.taken().len(), 1);
}

#[tokio::test]
async fn another_message_under_the_key_is_422_and_names_the_header() {
    let bench = Bench::new().await;
    keyed(&bench, "k", BODY).await;
    let other = keyed(&bench, "k", &BODY.replace('1', "2")).await;
    assert_eq!(other.status, 422);
    let problem = other.json();
    assert_eq!(problem["errors"][0]["field"], HEADER);
    assert_eq!(
        problem["type"],
        "urn:roundtrip:problem:idempotency-key-reused"
    );
    assert_eq!(bench.broker.taken().len(), 1);
}

#[tokio::test]
async fn concurrent_repeats_enqueue_one_message_and_share_its_response() {
    let bench = Bench::new().await;
    let answers = join_all((0..20).map(|_| keyed(&bench, "k", BODY))).await;
    assert_eq!(bench.broker.taken().len(), 1);
    for answer in &answers {
        assert_eq!(answer.status, 202, "{}", answer.text);
        assert_eq!(answer.text, answers[0].text);
    }
    let first = answers.iter().filter(|answer| !replayed(answer));
    assert_eq!(first.count(), 1);
}

#[tokio::test]
async fn a_repeat_of_an_unfinished_request_is_409_with_retry_after() {
    let bench = Bench::new().await;
    bench.broker.set(Mood::Waits);
    let repeat = tokio::select! {
        // Polled first, so it holds the key.
        biased;
        _ = keyed(&bench, "k", BODY) => unreachable!("the broker never answers"),
        repeat = keyed(&bench, "k", BODY) => repeat,
    };
    assert_eq!(repeat.status, 409, "{}", repeat.text);
    assert!(repeat.headers.contains_key("retry-after"));
    assert_eq!(bench.broker.taken().len(), 0);
}

#[tokio::test]
async fn a_refused_request_leaves_no_idempotency_record() {
    let bench = Bench::new().await;
    bench.broker.set(Mood::IsUnavailable);
    assert_eq!(keyed(&bench, "k", BODY).await.status, 503);
    let unknown = BODY.replace("\"c\"", "\"unknown\"");
    assert_eq!(keyed(&bench, "k", &unknown).await.status, 404);
    bench.broker.set(Mood::Confirms);
    let taken = keyed(&bench, "k", BODY).await;
    assert_eq!((taken.status, replayed(&taken)), (202, false));
    assert_eq!(bench.broker.taken().len(), 1);
}

#[tokio::test]
async fn an_unconfirmed_message_is_enqueued_again_under_its_id() {
    let bench = Bench::new().await;
    bench.broker.set(Mood::Unconfirmed);
    assert_eq!(keyed(&bench, "k", BODY).await.status, 503);
    bench.clock.advance(LEASE);
    // The outcome is still unknown, so this refusal must not release the key either.
    bench.broker.set(Mood::IsUnavailable);
    assert_eq!(keyed(&bench, "k", BODY).await.status, 503);
    bench.clock.advance(LEASE);
    bench.broker.set(Mood::Confirms);
    let taken = keyed(&bench, "k", BODY).await;
    assert_eq!(taken.status, 202, "{}", taken.text);
    let ids = bench.broker.taken();
    assert_eq!(ids.len(), 2);
    assert!(ids.iter().all(|id| taken.json()["message_id"] == **id));
}

#[tokio::test]
async fn without_a_key_each_request_is_a_message() {
    let bench = Bench::new().await;
    for _ in 0..2 {
        let sent = bench.post("/channel/message", &[], BODY).await;
        assert_eq!(sent.status, 202);
    }
    assert_eq!(bench.broker.taken().len(), 2);
}

#[rstest]
#[case::empty("")]
#[case::too_long(&"k".repeat(MAX_KEY_BYTES + 1))]
#[case::not_ascii("clé")]
#[tokio::test]
async fn a_bad_key_is_422_and_names_the_header(#[case] key: &str) {
    let bench = Bench::new().await;
    let refused = keyed(&bench, key, BODY).await;
    assert_eq!(refused.status, 422);
    assert_eq!(refused.json()["errors"][0]["field"], HEADER);
    assert_eq!(bench.broker.taken().len(), 0);
}

#[tokio::test]
async fn two_keys_on_one_request_are_422() {
    let bench = Bench::new().await;
    let keys = [(HEADER, "a"), (HEADER, "b")];
    let refused = bench.post("/channel/message", &keys, BODY).await;
    assert_eq!(refused.json()["errors"][0]["field"], HEADER);
}

#[test]
fn the_longest_key_is_a_key() {
    assert!(Key::try_from("~ ".repeat(127) + "!").is_ok());
}

fn print(body: &str) -> String {
    fingerprint(&serde_json::from_str(body).unwrap())
}

#[rstest]
#[case::white_space(
    "{\"channel_id\":\"c\",\"session_id\":\"s\",\"message\":{\r\n\t\"n\" : 1 } }",
    true
)]
#[case::order(r#"{"message":{"n":1},"session_id":"s","channel_id":"c"}"#, true)]
#[case::channel(r#"{"channel_id":"d","session_id":"s","message":{"n":1}}"#, false)]
#[case::session(r#"{"channel_id":"c","session_id":"t","message":{"n":1}}"#, false)]
#[case::number(r#"{"channel_id":"c","session_id":"s","message":{"n":1.0}}"#, false)]
#[case::url(
    r#"{"channel_id":"c","session_id":"s","message":{"n":1},"response_url":"http://h/"}"#,
    false
)]
#[case::deliver_at(
    r#"{"channel_id":"c","session_id":"s","message":{"n":1},"deliver_at":"2100-01-01T00:00:00Z"}"#,
    false
)]
#[case::answer_within(
    r#"{"channel_id":"c","session_id":"s","message":{"n":1},"answer_within":"5s"}"#,
    false
)]
#[case::no_times(
    r#"{"channel_id":"c","session_id":"s","message":{"n":1},"deliver_at":null,"expires_at":null,"answer_within":null}"#,
    true
)]
fn what_counts_as_the_same_message(#[case] body: &str, #[case] same: bool) {
    assert_eq!(print(BODY) == print(body), same);
}

#[test]
fn the_times_of_a_message_count_and_their_offsets_do_not() {
    let timed = |times: &str| print(&BODY.replace("\"c\",", &format!("\"c\",{times},")));
    let deliver = timed(r#""deliver_at":"2100-01-01T00:00:00Z""#);
    assert_eq!(
        deliver,
        timed(r#""deliver_at":"2100-01-01T02:00:00+02:00""#)
    );
    for another in [
        r#""deliver_at":"2100-01-01T00:00:01Z""#,
        r#""expires_at":"2100-01-01T00:00:00Z""#,
        r#""deliver_at":"2100-01-01T00:00:00Z","expires_at":"2100-01-02T00:00:00Z""#,
        r#""deliver_at":"2100-01-01T00:00:00Z","answer_within":"5s""#,
    ] {
        assert_ne!(deliver, timed(another));
    }
}

/// A repeat may come after its times have passed.
#[tokio::test]
async fn a_repeat_of_an_expired_message_gets_the_first_response() {
    let bench = Bench::new().await;
    let soon = bench.clock.now() + time::Duration::HOUR;
    let format = &time::format_description::well_known::Rfc3339;
    let time = format!(r#""c","expires_at":"{}""#, soon.format(format).unwrap());
    let body = BODY.replace(r#""c""#, &time);
    let first = keyed(&bench, "k", &body).await;
    assert_eq!(first.status, 202, "{}", first.text);
    bench.clock.advance(Duration::from_hours(2));
    let again = keyed(&bench, "k", &body).await;
    assert_eq!((again.status, &again.text), (202, &first.text));
    assert_eq!(keyed(&bench, "l", &body).await.status, 422);
    assert_eq!(bench.broker.taken().len(), 1);
}

#[test]
fn white_space_counts_within_a_text() {
    let tight = without_white_space(b" [ \"a b\" , \"\\\" \\\\\" , 1 ] ");
    assert_eq!(tight, br#"["a b","\" \\",1]"#);
}
