use std::collections::BTreeSet;

use axum::http::Method;
use roundtrip_model::{ApiKey, MessageId, NewKey};
use rstest::rstest;
use serde_json::json;

use super::*;
use crate::{
    routes::calls,
    testing::{Answer, Bench, OPERATOR_KEY},
};

/// The secret of every key here.
const SECRET: [u8; 32] = [7; 32];

fn new_key(role: KeyRole) -> NewKey {
    NewKey {
        name: "n".to_owned(),
        role,
        channels: None,
        rate_per_second: None,
        expires_at: None,
    }
}

/// Keeps a key, and returns it as it is presented.
async fn keep(bench: &Bench, new: NewKey) -> (ApiKey, String) {
    let (key, issued) = new.make(SECRET, bench.clock.now()).unwrap();
    bench.store.create_key(&key).await.unwrap();
    (key, format!("Bearer {}", issued.expose()))
}

/// A key of this role, limited to these channels.
async fn limited(bench: &Bench, role: KeyRole, channels: &[&str]) -> String {
    let channels = channels.iter().map(|id| id.parse().unwrap());
    let new = NewKey {
        channels: Some(channels.collect()),
        ..new_key(role)
    };
    keep(bench, new).await.1
}

async fn ask(bench: &Bench, method: Method, path: &str, key: &str, body: &str) -> Answer {
    let headers = [("authorization", key)];
    bench.request(method, path, &headers, body).await
}

async fn get(bench: &Bench, path: &str, key: &str) -> Answer {
    ask(bench, Method::GET, path, key, "").await
}

async fn post(bench: &Bench, path: &str, key: &str, body: &str) -> Answer {
    ask(bench, Method::POST, path, key, body).await
}

fn operator() -> String {
    format!("Bearer {OPERATOR_KEY}")
}

/// The path with something in the place of each parameter.
fn filled(path: &str) -> String {
    path.replace("{channel_id}", "c")
        .replace("{message_id}", &MessageId::generate().to_string())
        .replace("{replay_id}", "rpl_none")
        .replace("{key_id}", "key_none")
}

/// What is presented by strangers: what each is, and the header's value.
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

/// The one answer for strangers.
fn assert_refused(answer: &Answer, what: &str) {
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
        let headers: Vec<_> = header.into_iter().collect();
        let answer = bench.request(Method::GET, "/messages", &headers, "").await;
        assert_refused(&answer, what);
        answers.insert(answer.text);
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[tokio::test]
async fn a_key_that_is_presented_twice_is_none() {
    let bench = Bench::in_production().await;
    let key = operator();
    let twice = [("authorization", &*key), ("authorization", &*key)];
    let answer = bench.request(Method::GET, "/messages", &twice, "").await;
    assert_eq!(answer.status, 401);
}

#[tokio::test]
async fn what_is_open_asks_for_no_key() {
    let bench = Bench::in_production().await;
    let open: Vec<_> = calls()
        .into_iter()
        .filter(|(.., access)| *access == Access::Open)
        .collect();
    assert!(!open.is_empty());
    for (method, path, _) in open {
        for headers in [&[][..], &[("authorization", "Bearer wrong")][..]] {
            let answer = bench.request(method.clone(), path, headers, "{}").await;
            assert_ne!(
                answer.json()["type"],
                "urn:roundtrip:problem:no-valid-key",
                "{path}"
            );
        }
    }
}

/// Which calls a key of this role may make, by their method and path.
#[rstest]
#[case::operator(KeyRole::Operator, None)]
#[case::viewer(KeyRole::Viewer, Some(&[
    "GET /channel/{channel_id}",
    "POST /channels",
    "GET /channel/message/{message_id}",
    "GET /messages",
    "GET /dead-letters",
    "GET /replays/{replay_id}",
][..]))]
#[case::producer(KeyRole::Producer, Some(&[
    "POST /channel/message",
    "POST /channel/messages",
    "GET /channel/message/{message_id}",
][..]))]
#[tokio::test]
async fn a_role_allows_what_it_is_for_and_nothing_else(
    #[case] role: KeyRole,
    #[case] expected: Option<&[&str]>,
) {
    let bench = Bench::in_production().await;
    let (_, key) = keep(&bench, new_key(role)).await;
    for (method, path, access) in calls() {
        if !matches!(access, Access::Roles(_)) {
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
    // What is not there is not told by a 401 to those who have a key.
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
async fn development_asks_for_no_key_and_takes_no_wrong_one() {
    let bench = Bench::new().await;
    let (_, viewer) = keep(&bench, new_key(KeyRole::Viewer)).await;
    let deleted = |headers: &'static [(&str, &str)]| {
        bench.request(Method::DELETE, "/channel/nobody", headers, "")
    };
    assert_eq!(deleted(&[]).await.status, 404);
    assert_eq!(deleted(&[("authorization", "Bearer x")]).await.status, 401);
    let as_viewer = ask(&bench, Method::DELETE, "/channel/nobody", &viewer, "").await;
    assert_eq!(as_viewer.status, 403);
}

const ABOUT: &str = r#"{"channel_id":"CHANNEL","session_id":"s","message":"m"}"#;

#[tokio::test]
async fn a_key_reaches_no_channel_but_its_own() {
    let bench = Bench::in_production().await;
    bench.add_channel("d").await;
    let key = limited(&bench, KeyRole::Operator, &["c", "new"]).await;
    for (method, path, body) in [
        (Method::GET, "/channel/ID", ""),
        (Method::PUT, "/channel/ID", r#"{"channel_name":"n"}"#),
        (Method::POST, "/channel/ID/pause", ""),
        (Method::POST, "/channel/ID/resume", ""),
        (Method::POST, "/channel/ID/secret/rotate", ""),
        (Method::DELETE, "/channel/ID", ""),
        (Method::POST, "/channel/message", ABOUT),
        (Method::GET, "/messages?channel_id=ID", ""),
        (Method::GET, "/dead-letters?channel_id=ID", ""),
        (Method::DELETE, "/dead-letters?channel_id=ID", ""),
        (
            Method::POST,
            "/dead-letters/replay",
            r#"{"channel_id":"CHANNEL"}"#,
        ),
        (
            Method::POST,
            "/messages/replay",
            r#"{"channel_id":"CHANNEL"}"#,
        ),
    ] {
        for (channel, allowed) in [("d", false), ("nobody", false), ("%64", false), ("c", true)] {
            let is_path = path.starts_with("/channel/ID");
            // Whatever is in the path; elsewhere an id is an id.
            if channel == "%64" && !is_path {
                continue;
            }
            let path = path.replace("ID", channel);
            let body = body.replace("CHANNEL", channel);
            if method == Method::DELETE && is_path && allowed {
                continue;
            }
            let answer = ask(&bench, method.clone(), &path, &key, &body).await;
            let expected = if allowed { 200..=202 } else { 403..=403 };
            let status = answer.status;
            assert!(
                expected.contains(&status),
                "{method} {path}: {status} {}",
                answer.text
            );
            if !allowed {
                let kind = &answer.json()["type"];
                assert_eq!(kind, "urn:roundtrip:problem:channel-not-allowed");
            }
        }
    }
    for (channel, status) in [("other", 403), ("new", 201)] {
        let body =
            json!({"channel_id": channel, "channel_metadata": {"endpoint_url": "http://h/"}});
        let created = post(&bench, "/channel", &key, &body.to_string()).await;
        assert_eq!(created.status, status, "{}", created.text);
    }
    let taken = bench.broker.taken().len();
    assert_eq!(taken, 1);
}

#[tokio::test]
async fn a_batch_is_judged_message_by_message() {
    let bench = Bench::in_production().await;
    bench.add_channel("d").await;
    let key = limited(&bench, KeyRole::Producer, &["c"]).await;
    let messages = ["c", "d", "c"].map(|channel| ABOUT.replace("CHANNEL", channel));
    let body = format!("[{}]", messages.join(","));
    let answer = post(&bench, "/channel/messages", &key, &body).await;
    let statuses: Vec<_> = answer.json()["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|result| result["status"].clone())
        .collect();
    assert_eq!(statuses, [json!("queued"), json!(403), json!("queued")]);
    assert_eq!(bench.broker.taken().len(), 2);
}

#[tokio::test]
async fn a_query_shows_a_keys_own_channels() {
    let bench = Bench::in_production().await;
    bench.add_channel("d").await;
    let key = limited(&bench, KeyRole::Viewer, &["d", "gone"]).await;
    for filter in ["{}", r#"{"$or":[{"channel_id":"c"},{"channel_id":"d"}]}"#] {
        let answer = post(&bench, "/channels", &key, filter).await;
        let found = answer.json()["channels"].clone();
        let ids: Vec<_> = found
            .as_array()
            .unwrap()
            .iter()
            .map(|channel| channel["channel_id"].clone())
            .collect();
        assert_eq!(ids, ["d"], "{filter}");
    }
}

#[tokio::test]
async fn a_replay_of_other_channels_is_as_if_it_were_not_there() {
    let bench = Bench::in_production().await;
    let own = limited(&bench, KeyRole::Operator, &["c"]).await;
    let wider = limited(&bench, KeyRole::Operator, &["c", "d"]).await;
    let other = limited(&bench, KeyRole::Operator, &["d"]).await;
    let replay = async |key: &str, body: &str| {
        let asked = post(&bench, "/dead-letters/replay", key, body).await;
        assert_eq!(asked.status, 202, "{}", asked.text);
        let id = asked.json()["replay_id"].as_str().unwrap().to_owned();
        (format!("/replays/{id}"), asked.json()["source"].clone())
    };
    // An empty filter is of everything that the key may see.
    let (of_own, source) = replay(&own, "{}").await;
    assert_eq!(source, json!({"dead_letters": {"channel_ids": ["c"]}}));
    let (of_all, source) = replay(&operator(), "{}").await;
    assert_eq!(source, json!({"dead_letters": {}}));
    let (of_one, _) = replay(&wider, r#"{"channel_id":"c"}"#).await;
    for (path, seen_by_own, seen_by_wider) in
        [(of_own, 200, 200), (of_one, 200, 200), (of_all, 404, 404)]
    {
        for method in [Method::GET, Method::DELETE] {
            for (key, status) in [
                (&other, 404),
                (&own, seen_by_own),
                (&wider, seen_by_wider),
                (&operator(), 200),
            ] {
                let answer = ask(&bench, method.clone(), &path, key, "").await;
                assert_eq!(answer.status, status, "{method} {path}");
            }
        }
    }
}

#[tokio::test]
async fn a_purge_and_a_replay_still_ask_for_a_filter() {
    let bench = Bench::in_production().await;
    let key = limited(&bench, KeyRole::Operator, &["c"]).await;
    let purge = ask(&bench, Method::DELETE, "/dead-letters", &key, "").await;
    assert_eq!(purge.status, 422, "{}", purge.text);
    let replay = post(&bench, "/messages/replay", &key, "{}").await;
    assert_eq!(replay.status, 422, "{}", replay.text);
}

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
async fn a_key_that_is_used_too_fast_is_told_when_to_come_back() {
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

#[tokio::test]
async fn a_key_that_is_made_works_at_once_and_ends_at_once() {
    let bench = Bench::in_production().await;
    let body = r#"{"name":"shop","role":"producer","channels":["c"],"rate_per_second":50}"#;
    let made = post(&bench, "/api-keys", &operator(), body).await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(made.headers["cache-control"], "no-store");
    let made = made.json();
    let key = format!("Bearer {}", made["key"].as_str().unwrap());
    let message = ABOUT.replace("CHANNEL", "c");
    let sent = post(&bench, "/channel/message", &key, &message).await;
    assert_eq!(sent.status, 202, "{}", sent.text);

    let listed = get(&bench, "/api-keys", &operator()).await.json();
    let mut as_listed = made.clone();
    as_listed.as_object_mut().unwrap().remove("key");
    assert_eq!(listed["api_keys"], json!([as_listed]));

    let path = format!("/api-keys/{}", made["key_id"].as_str().unwrap());
    let revoked = ask(&bench, Method::DELETE, &path, &operator(), "").await;
    assert_eq!(revoked.status, 200, "{}", revoked.text);
    assert!(revoked.json()["revoked_at"].is_string());
    let sent = post(&bench, "/channel/message", &key, &message).await;
    assert_eq!(sent.status, 401);
}

#[rstest]
#[case::no_name(r#"{"role":"viewer"}"#, "name")]
#[case::empty_name(r#"{"role":"viewer","name":""}"#, "name")]
#[case::no_role(r#"{"name":"n"}"#, "role")]
#[case::other_role(r#"{"name":"n","role":"admin"}"#, "role")]
#[case::no_channel(r#"{"name":"n","role":"viewer","channels":[]}"#, "channels")]
#[case::bad_channel(r#"{"name":"n","role":"viewer","channels":["a b"]}"#, "channels[0]")]
#[case::no_rate(
    r#"{"name":"n","role":"viewer","rate_per_second":0}"#,
    "rate_per_second"
)]
#[case::past(
    r#"{"name":"n","role":"viewer","expires_at":"2020-01-01T00:00:00Z"}"#,
    "expires_at"
)]
#[case::unknown(r#"{"name":"n","role":"viewer","chanels":["c"]}"#, "chanels")]
#[tokio::test]
async fn a_key_that_cannot_be_is_422_and_names_the_field(#[case] body: &str, #[case] field: &str) {
    let bench = Bench::in_production().await;
    let refused = post(&bench, "/api-keys", &operator(), body).await;
    assert_eq!(refused.status, 422, "{}", refused.text);
    assert_eq!(refused.json()["errors"][0]["field"], field);
    assert_eq!(bench.store.keys(None, 10).await.unwrap(), []);
}

#[tokio::test]
async fn a_limited_operator_makes_no_wider_key_and_sees_none() {
    let bench = Bench::in_production().await;
    let tomorrow = bench.clock.now() + time::Duration::DAY;
    let new = NewKey {
        channels: Some(["c", "d"].map(|id| id.parse().unwrap()).into()),
        expires_at: Some(tomorrow),
        ..new_key(KeyRole::Operator)
    };
    let (own, key) = keep(&bench, new).await;
    let (wide, _) = keep(&bench, new_key(KeyRole::Viewer)).await;
    let hour = rfc3339(bench.clock.now() + time::Duration::HOUR);
    let week = rfc3339(bench.clock.now() + time::Duration::WEEK);
    for (channels, expires_at, field) in [
        (json!(null), json!(hour), Some("channels")),
        (json!(["c", "e"]), json!(hour), Some("channels")),
        (json!(["c"]), json!(null), Some("expires_at")),
        (json!(["c"]), json!(week), Some("expires_at")),
        (json!(["c"]), json!(hour), None),
    ] {
        let body = json!({
            "name": "n", "role": "operator", "channels": channels, "expires_at": expires_at,
        });
        let answer = post(&bench, "/api-keys", &key, &body.to_string()).await;
        let Some(field) = field else {
            assert_eq!(answer.status, 201, "{}", answer.text);
            continue;
        };
        assert_eq!(answer.status, 403, "{}", answer.text);
        assert_eq!(answer.json()["errors"][0]["field"], field);
    }
    let listed = get(&bench, "/api-keys", &key).await.json();
    let ids: Vec<_> = listed["api_keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key["key_id"].clone())
        .collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], own.key_id.to_string());
    let path = format!("/api-keys/{}", wide.key_id);
    let revoked = ask(&bench, Method::DELETE, &path, &key, "").await;
    assert_eq!(revoked.status, 404, "{}", revoked.text);
}

fn rfc3339(at: time::OffsetDateTime) -> String {
    at.format(&time::format_description::well_known::Rfc3339)
        .unwrap()
}
