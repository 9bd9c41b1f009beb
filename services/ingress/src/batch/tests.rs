use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::testing::{Answer, Bench, Mood};

const PATH: &str = "/channel/messages";
const ND: [(&str, &str); 1] = [("content-type", "application/x-ndjson")];

fn message(session: &str) -> Value {
    json!({"channel_id": "c", "session_id": session, "message": "m"})
}

fn messages(count: usize) -> String {
    let all: Vec<_> = (0..count).map(|n| message(&format!("s{n}"))).collect();
    Value::from(all).to_string()
}

fn counts(answer: &Answer) -> (Value, Value) {
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
    let mut told: Vec<_> = results
        .iter()
        .map(|result| result["message_id"].as_str().unwrap().to_owned())
        .collect();
    told.sort_unstable();
    assert_eq!(enqueued, told);
}

#[tokio::test]
async fn a_bad_message_fails_alone_and_as_the_single_call_would() {
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
async fn an_array_that_cannot_be_taken_is_refused_whole(
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
    let whole = bench.post(PATH, &[], " ".repeat(MAX_BYTES + 1)).await;
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
async fn a_bad_key_is_named_as_the_field() {
    let bench = Bench::new().await;
    let mut keyed = message("s");
    keyed["idempotency_key"] = "".into();
    let answer = bench.post(PATH, &[], json!([keyed]).to_string()).await;
    let result = answer.json()["results"][0].clone();
    assert_eq!(result["errors"][0]["field"], "idempotency_key");
}

#[tokio::test]
async fn without_a_broker_each_message_says_so() {
    let bench = Bench::new().await;
    bench.broker.set(Mood::IsAway);
    let answer = bench.post(PATH, &[], messages(3)).await;
    assert_eq!(counts(&answer), (0.into(), 3.into()));
    assert_eq!(answer.json()["results"][0]["status"], 503);
}
