//! Keys that are limited to channels.

use serde_json::json;

use super::*;

/// A key of this role, limited to these channels.
async fn limited(bench: &Bench, role: KeyRole, channels: &[&str]) -> String {
    let channels = channels.iter().map(|id| id.parse().unwrap());
    let new = NewKey {
        channels: Some(channels.collect()),
        ..new_key(role)
    };
    keep(bench, new).await.1
}

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
        for (channel, allowed) in [
            ("d", false),
            ("unknown", false),
            ("%64", false),
            ("c", true),
        ] {
            let is_path = path.starts_with("/channel/ID");
            // Percent-encoding means something in a path only.
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
async fn a_replay_of_other_channels_is_404() {
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
    // An empty filter selects everything that the key may see.
    let (of_own, source) = replay(&own, "{}").await;
    assert_eq!(source, json!({"dead_letters": {"channel_ids": ["c"]}}));
    let (of_all, source) = replay(&operator(), "{}").await;
    assert_eq!(source, json!({"dead_letters": {}}));
    let (of_one, _) = replay(&wider, r#"{"channel_id":"c"}"#).await;
    for (path, seen_by_own, seen_by_wider) in
        [(of_own, 200, 200), (of_one, 200, 200), (of_all, 404, 404)]
    {
        let cancel = format!("{path}/cancel");
        for (method, path) in [(Method::GET, &path), (Method::POST, &cancel)] {
            for (key, status) in [
                (&other, 404),
                (&own, seen_by_own),
                (&wider, seen_by_wider),
                (&operator(), 200),
            ] {
                let answer = ask(&bench, method.clone(), path, key, "").await;
                assert_eq!(answer.status, status, "{method} {path}");
            }
        }
    }
}

#[tokio::test]
async fn a_replay_tells_no_key_of_channels_that_are_not_its_own() {
    let bench = Bench::in_production().await;
    let wider = limited(&bench, KeyRole::Operator, &["c", "d"]).await;
    let own = limited(&bench, KeyRole::Operator, &["c"]).await;
    let asked = post(
        &bench,
        "/dead-letters/replay",
        &wider,
        r#"{"channel_id":"c"}"#,
    )
    .await;
    assert_eq!(asked.status, 202, "{}", asked.text);
    let path = format!("/replays/{}", asked.json()["replay_id"].as_str().unwrap());
    let cancel = format!("{path}/cancel");
    for (method, path) in [(Method::GET, &path), (Method::POST, &cancel)] {
        for (key, ids) in [(&own, json!(["c"])), (&wider, json!(["c", "d"]))] {
            let answer = ask(&bench, method.clone(), path, key, "").await.json();
            let source = &answer["source"]["dead_letters"];
            assert_eq!(source["channel_ids"], ids, "{answer}");
            assert_eq!(source["channel_id"], "c");
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

/// A session may have messages in any channel.
#[tokio::test]
async fn a_key_of_some_channels_erases_no_session() {
    let bench = Bench::in_production().await;
    let session = "s".parse().unwrap();
    let limited = limited(&bench, KeyRole::Operator, &["c"]).await;
    let refused = ask(&bench, Method::DELETE, "/sessions/s", &limited, "").await;
    assert_eq!(refused.status, 403, "{}", refused.text);
    let problem = "urn:roundtrip:problem:channel-not-allowed";
    assert_eq!(refused.json()["type"], problem);
    assert_eq!(bench.store.erasure(&session).await.unwrap(), None);
    let key = keep(&bench, new_key(KeyRole::Operator)).await.1;
    let accepted = ask(&bench, Method::DELETE, "/sessions/s", &key, "").await;
    assert_eq!(accepted.status, 202, "{}", accepted.text);
    assert!(bench.store.erasure(&session).await.unwrap().is_some());
}
