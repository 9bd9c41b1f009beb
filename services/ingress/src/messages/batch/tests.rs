use roundtrip_doubles::Mood;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::{
    messages::idempotency::HEADER,
    tests::{Bench, TestResponse},
};

const PATH: &str = "/channel/messages";
const ND: [(&str, &str); 1] = [("content-type", "application/x-ndjson")];

fn message(session: &str) -> Value {
    json!({"channel_id": "c", "session_id": session, "message": "m"})
}

fn messages(count: usize) -> String {
    let all: Vec<_> = (0..count).map(|n| message(&format!("s{n}"))).collect();
    Value::from(all).to_string()
}

fn counts(answer: &TestResponse) -> (Value, Value) {
    assert_eq!(answer.status, 200, "{}", answer.text);
    let answer = answer.json();
    (answer["accepted"].clone(), answer["rejected"].clone())
}

#[tokio::test]
async fn each_message_has_its_result_in_its_place() {
    let bench = Bench::new().await;
    let answer = bench.post(PATH, &[], messages(MAX_MESSAGES)).await;
    assert_eq!(counts(&answer), (1000.into(), 0.into()));
    let mut enqueued = bench.broker.taken();
    enqueued.sort_unstable();
    let answer = answer.json();
    let results = answer["results"].as_array().unwrap();
    for (number, result) in results.iter().enumerate() {
        assert_eq!(result["session_id"], format!("s{number}"));
        assert_eq!(result["status"], "queued");
    }
    let mut answered: Vec<_> = results
        .iter()
        .map(|result| result["message_id"].as_str().unwrap().to_owned())
        .collect();
    answered.sort_unstable();
    assert_eq!(enqueued, answered);
}

#[tokio::test]
async fn a_bad_message_of_a_batch_fails_like_a_single_call() {
    let bench = Bench::new().await;
    let bad = [
        r#"{"channel_id":"c","message":"m"}"#,
        r#"{"channel_id":"unknown","session_id":"s","message":"m"}"#,
        r#"{"channel_id":"c","session_id":"s","message":null}"#,
        r#"{"channel_id":"c","session_id":"s","message":"m","response_url":"x"}"#,
        r#"{"channel_id":"c","session_id":"s","message":"m","extra":1}"#,
        "5",
    ];
    let body = format!("[{},{},{}]", message("a"), bad.join(","), message("b"));
    let answer = bench.post(PATH, &[], body).await;
    assert_eq!(counts(&answer), (2.into(), bad.len().into()));
    let results = answer.json()["results"].clone();
    for (number, bad) in bad.into_iter().enumerate() {
        let mut alone = bench.post("/channel/message", &[], bad).await.json();
        alone["success"] = false.into();
        // The response to the batch has one id.
        alone.as_object_mut().unwrap().remove("request_id");
        assert_eq!(results[number + 1], alone, "{bad}");
    }
    assert_eq!(bench.broker.taken().len(), 2);
}

#[tokio::test]
async fn a_malformed_line_fails_alone() {
    let bench = Bench::new().await;
    let body = format!("{}\r\n\n{{\"channel_id\": \n{}", message("a"), message("b"));
    let answer = bench.post(PATH, &ND, body).await;
    assert_eq!(counts(&answer), (2.into(), 1.into()));
    let results = answer.json()["results"].clone();
    assert_eq!(results[0]["session_id"], "a");
    assert_eq!(results[1]["status"], 400);
    assert_eq!(results[2]["session_id"], "b");
}

#[rstest]
#[case::malformed("[{\"channel_id\":\"c\"", 400, None)]
#[case::something_after("[] x", 400, None)]
#[case::no_array("{}", 422, Some("body"))]
#[case::empty("[]", 422, Some("body"))]
#[case::too_many(&messages(MAX_MESSAGES + 1), 422, Some("body"))]
#[tokio::test]
async fn an_invalid_array_is_refused_as_a_whole(
    #[case] body: &str,
    #[case] status: u16,
    #[case] field: Option<&str>,
) {
    let bench = Bench::new().await;
    let answer = bench.post(PATH, &[], body).await;
    assert_eq!(answer.status, status, "{}", answer.text);
    assert_eq!(answer.json()["errors"][0]["field"].as_str(), field);
    assert_eq!(bench.broker.taken().len(), 0);
}

#[tokio::test]
async fn too_many_lines_are_refused_whole() {
    let bench = Bench::new().await;
    let body = format!("{}\n", message("s")).repeat(MAX_MESSAGES + 1);
    let answer = bench.post(PATH, &ND, body).await;
    assert_eq!(answer.status, 422);
    assert_eq!(bench.broker.taken().len(), 0);
}

#[tokio::test]
async fn another_media_type_is_415() {
    let bench = Bench::new().await;
    let text = [("content-type", "text/plain")];
    assert_eq!(bench.post(PATH, &text, messages(1)).await.status, 415);
}

#[tokio::test]
async fn a_batch_may_be_longer_than_a_single_message_and_its_messages_may_not() {
    let bench = Bench::new().await;
    let limit = crate::Config::default().max_body_bytes;
    let long =
        |bytes: usize| json!({"channel_id": "c", "session_id": "s", "message": "x".repeat(bytes)});
    let body = json!([long(limit * 3 / 4), long(limit * 3 / 4), long(limit)]);
    let answer = bench.post(PATH, &[], body.to_string()).await;
    assert_eq!(counts(&answer), (2.into(), 1.into()));
    assert_eq!(answer.json()["results"][2]["status"], 413);
    let whole = bench.post(PATH, &[], " ".repeat(MAX_BATCH_BYTES + 1)).await;
    assert_eq!(whole.status, 413);
}

#[tokio::test]
async fn a_message_with_a_key_is_enqueued_once_within_and_across_batches() {
    let bench = Bench::new().await;
    let mut keyed = message("s");
    keyed["idempotency_key"] = "k".into();
    let body = json!([keyed, keyed]).to_string();
    let first = bench.post(PATH, &[], body.clone()).await;
    let again = bench.post(PATH, &[], body).await;
    assert_eq!(bench.broker.taken().len(), 1);
    let id = &bench.broker.taken()[0];
    for answer in [first, again] {
        assert_eq!(counts(&answer), (2.into(), 0.into()));
        for result in answer.json()["results"].as_array().unwrap() {
            assert_eq!(result["message_id"], **id);
        }
    }
}

#[tokio::test]
async fn a_repeat_of_a_call_under_a_key_gets_the_first_answers_and_enqueues_nothing() {
    let bench = Bench::new().await;
    let key = [(HEADER, "k")];
    let mut own = message("b");
    own["idempotency_key"] = "k".into();
    let body = json!([message("a"), message("a"), own]).to_string();
    let first = bench.post(PATH, &key, body.clone()).await;
    assert_eq!(counts(&first), (3.into(), 0.into()));
    assert_eq!(bench.broker.taken().len(), 3);
    let again = bench.post(PATH, &key, body).await;
    assert_eq!(counts(&again), (3.into(), 0.into()));
    assert_eq!(bench.broker.taken().len(), 3);
    for (number, result) in again.json()["results"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
    {
        assert_eq!(
            result["message_id"],
            first.json()["results"][number]["message_id"]
        );
        assert_eq!(result["idempotent_replayed"], true);
    }
}

#[tokio::test]
async fn other_messages_under_the_key_of_a_call_are_refused_whole() {
    let bench = Bench::new().await;
    let key = [(HEADER, "k")];
    assert_eq!(bench.post(PATH, &key, messages(2)).await.status, 200);
    for other in [messages(1), messages(3)] {
        let refused = bench.post(PATH, &key, other).await;
        assert_eq!(refused.status, 422, "{}", refused.text);
        assert_eq!(refused.json()["errors"][0]["field"], HEADER);
    }
    assert_eq!(bench.broker.taken().len(), 2);
    // The single call's keys are separate from a batch's.
    let alone = bench.post("/channel/message", &key, message("s0").to_string());
    assert_eq!(alone.await.status, 202);
}

#[tokio::test]
async fn a_repeat_of_a_call_tries_again_what_was_refused() {
    let bench = Bench::new().await;
    let key = [(HEADER, "k")];
    let elsewhere = json!({"channel_id": "d", "session_id": "s", "message": "m"});
    let body = json!([message("a"), elsewhere]).to_string();
    let first = bench.post(PATH, &key, body.clone()).await;
    assert_eq!(counts(&first), (1.into(), 1.into()));
    bench.add_channel("d").await;
    let again = bench.post(PATH, &key, body).await;
    assert_eq!(counts(&again), (2.into(), 0.into()));
    assert_eq!(bench.broker.taken().len(), 2);
}

#[tokio::test]
async fn a_call_of_which_nothing_was_enqueued_leaves_its_key_free() {
    let bench = Bench::new().await;
    let key = [(HEADER, "k")];
    bench.broker.set(Mood::IsUnavailable);
    let none = bench.post(PATH, &key, messages(2)).await;
    assert_eq!(counts(&none), (0.into(), 2.into()));
    bench.broker.set(Mood::Confirms);
    let other = bench.post(PATH, &key, messages(1)).await;
    assert_eq!(counts(&other), (1.into(), 0.into()));
}

#[tokio::test]
async fn a_bad_key_of_a_call_is_422_and_names_the_header() {
    let bench = Bench::new().await;
    let refused = bench.post(PATH, &[(HEADER, "")], messages(1)).await;
    assert_eq!(refused.status, 422);
    assert_eq!(refused.json()["errors"][0]["field"], HEADER);
}

#[tokio::test]
async fn a_bad_key_is_named_as_the_field() {
    let bench = Bench::new().await;
    let mut keyed = message("s");
    keyed["idempotency_key"] = "".into();
    let answer = bench.post(PATH, &[], json!([keyed]).to_string()).await;
    let result = answer.json()["results"][0].clone();
    assert_eq!(result["errors"][0]["field"], "idempotency_key");
}

#[tokio::test]
async fn without_a_broker_each_message_reports_503() {
    let bench = Bench::new().await;
    bench.broker.set(Mood::IsUnavailable);
    let answer = bench.post(PATH, &[], messages(3)).await;
    assert_eq!(counts(&answer), (0.into(), 3.into()));
    assert_eq!(answer.json()["results"][0]["status"], 503);
}
