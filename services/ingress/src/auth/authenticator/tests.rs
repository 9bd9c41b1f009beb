mod channels;
mod issuing;
mod keyless;

use std::collections::BTreeSet;

use axum::http::Method;
use roundtrip_model::{ApiKey, KeyRole, MessageId, NewKey};
use rstest::rstest;

use super::*;
use crate::{
    routes::calls,
    tests::{Bench, OPERATOR_KEY, TestResponse},
};

/// The secret of every key in these tests.
const SECRET: [u8; 32] = [7; 32];

fn new_key(role: KeyRole) -> NewKey {
    NewKey {
        name: "n".to_owned(),
        role,
        // A key with this role must name its channels.
        channels: (role == KeyRole::Channel).then(|| ["c".parse().unwrap()].into()),
        rate_per_second: None,
        expires_at: None,
    }
}

/// Stores a key and returns it as a client presents it.
async fn keep(bench: &Bench, new: NewKey) -> (ApiKey, String) {
    let (key, issued) = new.make(SECRET, bench.clock.now()).unwrap();
    bench.store.create_key(&key).await.unwrap();
    (key, format!("Bearer {}", issued.expose()))
}

async fn ask(bench: &Bench, method: Method, path: &str, key: &str, body: &str) -> TestResponse {
    let headers = [("authorization", key)];
    bench.request(method, path, &headers, body).await
}

async fn get(bench: &Bench, path: &str, key: &str) -> TestResponse {
    ask(bench, Method::GET, path, key, "").await
}

async fn post(bench: &Bench, path: &str, key: &str, body: &str) -> TestResponse {
    ask(bench, Method::POST, path, key, body).await
}

fn operator() -> String {
    format!("Bearer {OPERATOR_KEY}")
}

/// The path with a value for each parameter.
fn filled(path: &str) -> String {
    path.replace("{channel_id}", "c")
        .replace("{message_id}", &MessageId::generate().to_string())
        .replace("{replay_id}", "rpl_none")
        .replace("{key_id}", "key_none")
}

/// Invalid credentials: a description of each, and the header's value.
async fn strangers(bench: &Bench) -> Vec<(&'static str, Option<String>)> {
    let (_, good) = keep(bench, new_key(KeyRole::Operator)).await;
    let wrong_secret = format!("{}{}", &good[..good.len() - 4], "AAAA");
    let (_, unknown) = new_key(KeyRole::Operator)
        .make(SECRET, bench.clock.now())
        .unwrap();
    let (revoked, of_revoked) = keep(bench, new_key(KeyRole::Operator)).await;
    let now = bench.clock.now();
    bench.store.revoke_key(&revoked.key_id, now).await.unwrap();
    let expiring = NewKey {
        expires_at: Some(bench.clock.now() + Duration::from_mins(1)),
        ..new_key(KeyRole::Operator)
    };
    let (_, expired) = keep(bench, expiring).await;
    let is_good = get(bench, "/messages", &expired).await;
    assert_eq!(is_good.status, 200, "{}", is_good.text);
    bench.clock.advance(Duration::from_mins(1));
    vec![
        ("nothing", None),
        ("an empty header", Some(String::new())),
        ("no key", Some("Bearer ".to_owned())),
        ("another scheme", Some(good.replace("Bearer", "Basic"))),
        ("no scheme", Some(good.replace("Bearer ", ""))),
        ("some text", Some("Bearer secret".to_owned())),
        ("a wrong secret", Some(wrong_secret)),
        ("more than the key", Some(format!("{good}A"))),
        (
            "an unknown key",
            Some(format!("Bearer {}", unknown.expose())),
        ),
        ("a revoked key", Some(of_revoked)),
        ("an expired key", Some(expired)),
        (
            "a part of the operator's",
            Some(operator()[..30].to_owned()),
        ),
        (
            "a very long text",
            Some(format!("Bearer {}", "x".repeat(10_000))),
        ),
    ]
}

/// Every invalid credential gets this response.
fn assert_refused(answer: &TestResponse, what: &str) {
    assert_eq!(answer.status, 401, "{what}");
    assert_eq!(answer.headers["www-authenticate"], "Bearer", "{what}");
    assert_eq!(answer.headers["content-type"], "application/problem+json");
}

#[tokio::test]
async fn no_call_is_made_without_a_key() {
    let bench = Bench::in_production().await;
    let guarded = calls()
        .into_iter()
        .filter(|(.., access)| *access != Access::Open);
    let mut calls: Vec<_> = guarded
        .map(|(method, path, _)| (method, filled(path)))
        .collect();
    assert!(calls.len() > 15, "the table has shrunk to {calls:?}");
    calls.push((Method::GET, "/nothing/here".to_owned()));
    calls.push((Method::PATCH, "/channel/c".to_owned()));
    calls.push((Method::HEAD, "/messages".to_owned()));
    for (method, path) in calls {
        for headers in [&[][..], &[("authorization", "Bearer x")][..]] {
            let answer = bench.request(method.clone(), &path, headers, "{}").await;
            assert_refused(&answer, &format!("{method} {path}"));
        }
    }
}

#[tokio::test]
async fn whatever_is_wrong_with_a_key_the_answer_is_the_same() {
    let bench = Bench::in_production().await;
    let mut answers = BTreeSet::new();
    for (what, presented) in strangers(&bench).await {
        let header = presented.as_deref().map(|value| ("authorization", value));
        let headers: Vec<_> = header.into_iter().chain([("x-request-id", "1")]).collect();
        let answer = bench.request(Method::GET, "/messages", &headers, "").await;
        assert_refused(&answer, what);
        answers.insert(answer.text);
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[tokio::test]
async fn two_keys_in_one_request_are_refused() {
    let bench = Bench::in_production().await;
    let key = operator();
    let twice = [("authorization", &*key), ("authorization", &*key)];
    let answer = bench.request(Method::GET, "/messages", &twice, "").await;
    assert_eq!(answer.status, 401);
}

#[tokio::test]
async fn an_open_call_needs_no_key() {
    let bench = Bench::in_production().await;
    let open: Vec<_> = calls()
        .into_iter()
        .filter(|(.., access)| *access == Access::Open)
        .collect();
    assert!(!open.is_empty());
    for (method, path, _) in open {
        for headers in [&[][..], &[("authorization", "Bearer wrong")][..]] {
            let answer = bench.request(method.clone(), path, headers, "{}").await;
            let body: serde_json::Value = serde_json::from_str(&answer.text).unwrap_or_default();
            assert_ne!(body["type"], "urn:roundtrip:problem:no-valid-key", "{path}");
        }
    }
}

/// The calls that a key of this role may make, by method and path.
#[rstest]
#[case::operator(KeyRole::Operator, None)]
#[case::viewer(KeyRole::Viewer, Some(&[
    "GET /channel/{channel_id}",
    "GET /channel/{channel_id}/waiting",
    "POST /channels",
    "GET /channel/message/{message_id}",
    "GET /messages",
    "GET /sessions/{session_id}",
    "GET /sessions/{session_id}/events",
    "GET /dead-letters",
    "GET /replays",
    "GET /replays/{replay_id}",
][..]))]
#[case::producer(KeyRole::Producer, Some(&[
    "POST /channel/message",
    "POST /channel/messages",
    "GET /channel/message/{message_id}",
    "POST /channel/message/{message_id}/cancel",
][..]))]
#[case::channel(KeyRole::Channel, Some(&["POST /channel/{channel_id}/inbound"][..]))]
#[tokio::test]
async fn a_role_allows_only_its_own_calls(
    #[case] role: KeyRole,
    #[case] expected: Option<&[&str]>,
) {
    let bench = Bench::in_production().await;
    let (_, key) = keep(&bench, new_key(role)).await;
    for (method, path, access) in calls() {
        if !matches!(access, Access::Roles(_) | Access::SignedOr(_)) {
            continue;
        }
        let call = format!("{method} {path}");
        let answer = ask(&bench, method, &filled(path), &key, "{}").await;
        let allowed = expected.is_none_or(|expected| expected.contains(&&*call));
        assert_eq!(answer.status != 403, allowed, "{call}: {}", answer.text);
        assert_ne!(answer.status, 401, "{call}: {}", answer.text);
        if !allowed {
            let problem = answer.json();
            assert_eq!(problem["type"], "urn:roundtrip:problem:role-not-allowed");
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains("operator"), "{detail}");
            assert!(detail.ends_with(role.as_str()), "{detail}");
        }
    }
    // With a valid key an unknown path is 404 and not 401.
    assert_eq!(get(&bench, "/nothing/here", &key).await.status, 404);
    let patch = ask(&bench, Method::PATCH, "/channel/c", &key, "").await;
    assert_eq!(patch.status, 405);
    assert!(patch.headers.contains_key("allow"));
}

#[tokio::test]
async fn the_configured_key_is_an_operators() {
    let bench = Bench::in_production().await;
    let body = r#"{"channel_id":"d","channel_metadata":{"endpoint_url":"http://h/"}}"#;
    let created = post(&bench, "/channel", &operator(), body).await;
    assert_eq!(created.status, 201, "{}", created.text);
    let lower = operator().replace("Bearer ", "bearer  ");
    assert_eq!(get(&bench, "/channel/d", &lower).await.status, 200);
}

#[tokio::test]
async fn development_needs_no_key_and_refuses_a_wrong_one() {
    let bench = Bench::new().await;
    let (_, viewer) = keep(&bench, new_key(KeyRole::Viewer)).await;
    let deleted = |headers: &'static [(&str, &str)]| {
        bench.request(Method::DELETE, "/channel/unknown", headers, "")
    };
    assert_eq!(deleted(&[]).await.status, 404);
    assert_eq!(deleted(&[("authorization", "Bearer x")]).await.status, 401);
    let as_viewer = ask(&bench, Method::DELETE, "/channel/unknown", &viewer, "").await;
    assert_eq!(as_viewer.status, 403);
}

const ABOUT: &str = r#"{"channel_id":"CHANNEL","session_id":"s","message":"m"}"#;

#[tokio::test]
async fn an_idempotency_key_is_its_callers_own() {
    let bench = Bench::in_production().await;
    let (_, one) = keep(&bench, new_key(KeyRole::Producer)).await;
    let (_, other) = keep(&bench, new_key(KeyRole::Producer)).await;
    let body = ABOUT.replace("CHANNEL", "c");
    let another = body.replace("\"m\"", "\"n\"");
    let mut ids = BTreeSet::new();
    for (key, body) in [(&one, &body), (&other, &another), (&operator(), &body)] {
        let headers = [("authorization", &**key), ("idempotency-key", "k")];
        let first = bench.post("/channel/message", &headers, body).await;
        assert_eq!(first.status, 202, "{}", first.text);
        assert!(!first.headers.contains_key("idempotent-replayed"));
        let again = bench.post("/channel/message", &headers, body).await;
        assert_eq!(again.text, first.text);
        ids.insert(first.json()["message_id"].to_string());
    }
    assert_eq!(ids.len(), 3);
    assert_eq!(bench.broker.taken().len(), 3);
}

#[tokio::test]
async fn a_key_over_its_rate_gets_429_with_retry_after() {
    let bench = Bench::in_production().await;
    let slow = NewKey {
        rate_per_second: Some(3),
        ..new_key(KeyRole::Viewer)
    };
    let (_, slow) = keep(&bench, slow).await;
    let (_, other) = keep(&bench, new_key(KeyRole::Viewer)).await;
    let mut limited = None;
    for _ in 0..100 {
        let answer = get(&bench, "/channel/c", &slow).await;
        if answer.status != 200 {
            limited = Some(answer);
            break;
        }
    }
    let limited = limited.expect("a limit");
    assert_eq!(limited.status, 429);
    assert_eq!(limited.headers["retry-after"], "1");
    assert_eq!(limited.headers["content-type"], "application/problem+json");
    assert_eq!(get(&bench, "/channel/c", &other).await.status, 200);
}

/// Puts secrets into every field that a response quotes.
#[tokio::test]
async fn no_problem_repeats_a_secret() {
    let bench = Bench::in_production().await;
    let (key, presented) = keep(&bench, new_key(KeyRole::Producer)).await;
    let whole = presented.strip_prefix("Bearer ").unwrap();
    let signing = format!("whsec_{}", "QUJD".repeat(8));
    let token = format!("v2.abcdefgh.{}.{}", "QUJD".repeat(8), "QUJD".repeat(8));
    for secret in [whole, &signing, &token] {
        let end = &secret[secret.len() - 20..];
        for (method, path, body) in [
            (Method::DELETE, "/api-keys/SECRET", ""),
            (Method::GET, "/channel/SECRET", ""),
            (Method::GET, "/channel/message/SECRET", ""),
            (Method::GET, "/replays/SECRET", ""),
            (Method::GET, "/messages?cursor=SECRET", ""),
            (Method::GET, "/messages?SECRET=1", ""),
            (Method::POST, "/api-keys", r#"{"name":"n","role":"SECRET"}"#),
            (Method::POST, "/api-keys", r#"{"SECRET":1}"#),
            (Method::POST, "/channels", r#"{"SECRET":{"$in":1}}"#),
            (Method::POST, "/channels", r#"{"a":{"$SECRET":1}}"#),
            (
                Method::POST,
                "/channel/messages",
                r#"[{"channel_id":"SECRET","session_id":"s","message":1}]"#,
            ),
        ] {
            let path = path.replace("SECRET", secret);
            let body = body.replace("SECRET", secret);
            let answer = ask(&bench, method, &path, &operator(), &body).await;
            assert!(answer.status >= 400 || path.ends_with("/messages"));
            assert!(!answer.text.contains(end), "{path} {body}: {}", answer.text);
        }
    }
    // The key's id is not secret, and the reader needs it.
    let path = format!("/api-keys/{whole}");
    let answer = ask(&bench, Method::DELETE, &path, &operator(), "").await;
    assert_eq!(answer.status, 404);
    let detail = answer.json()["detail"].to_string();
    assert!(detail.contains(&key.key_id.to_string()), "{detail}");
    assert!(detail.contains("whole key"), "{detail}");
}
