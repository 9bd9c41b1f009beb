//! What the gateway handed out stays valid after all its processes are killed, also in development,
//! where no key is configured.

use anyhow::Context;
use harness::{
    gateway::{Accounted, Plan, Response, Setup, TestGateway},
    scripted::{Reply, ScriptedServer, forward_body},
};
use reqwest::Method;
use serde_json::{Value, json};

on_both_setups! {
    an_answer_after_a_restart_is_accepted,
    pages_repeats_versions_and_replays_go_on_after_a_restart,
}

/// A gateway as in development, without a configured key.
fn without_keys(setup: Setup) -> anyhow::Result<Plan> {
    Ok(Plan::new(setup)?.env("CALLBACK_SECRET", ""))
}

async fn an_answer_after_a_restart_is_accepted(setup: Setup) -> anyhow::Result<Accounted> {
    let (mut gateway, channel, sessions) = without_keys(setup)?
        .env("ROUNDTRIP__CALLBACK_AUTH", "signed")
        .start_with_servers(|_| Reply::ok())
        .await?;
    let id = gateway.send("c", "abc123").await?;
    let delivery = channel.taken_at_least(1).await?.remove(0);
    gateway.kill_and_restart_all().await?;
    let path = delivery.response_path()?;
    let answer = r#"{"session_id":"abc123","response_data":"late"}"#;
    gateway.post(&path, answer).await?.expect(202)?;
    let forwards = sessions.taken_at_least(1).await?;
    assert_eq!(forwards[0].body, forward_body("abc123", &id, r#""late""#));
    gateway.finish(&[&channel, &sessions]).await
}

/// Sends the same message under the same idempotency key each time.
async fn send_once(gateway: &TestGateway) -> anyhow::Result<Response> {
    let body = json!({"channel_id": "c1", "session_id": "s", "message": "once"});
    let headers = [("idempotency-key", "the-first")];
    let sent = gateway.request(Method::POST, "/channel/message", &headers, body);
    sent.await?.expect(202)
}

/// A list's method, path, field of its items, and field of an item's id.
type List = (Method, &'static str, &'static str, &'static str);

const LISTS: [List; 3] = [
    (Method::POST, "/channels", "channels", "channel_id"),
    (Method::GET, "/messages", "messages", "message_id"),
    (Method::GET, "/dead-letters", "dead_letters", "dead_id"),
];

/// The id on the page after this cursor, and the next cursor.
async fn page(
    gateway: &TestGateway,
    (method, path, items, id): List,
    cursor: &str,
) -> anyhow::Result<(Value, Value)> {
    let path = format!("{path}?limit=1{cursor}");
    let page = gateway.request(method, &path, &[], "{}").await?;
    let page = page.expect(200)?.json();
    Ok((page[items][0][id].clone(), page["next_cursor"].clone()))
}

async fn pages_repeats_versions_and_replays_go_on_after_a_restart(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let refuses = ScriptedServer::start(|_| Reply::status(400)).await?;
    let mut gateway = without_keys(setup)?.start().await?;
    gateway.register("c1", &channel.url()).await?;
    gateway.register("c2", &refuses.url()).await?;
    let first = send_once(&gateway).await?;
    gateway.send_many("c2", 2).await?;
    gateway.until_dead("c2", 2).await?;
    let etag = gateway.get("/channel/c1").await?.expect(200)?;
    let etag = etag.header("etag").to_owned();
    let replay = json!({"ids": [first.json()["message_id"]]});
    let replay = gateway.post("/messages/replay", replay).await?;
    let replay = replay.expect(202)?.field("replay_id")?;
    let mut pages = Vec::new();
    for list in LISTS {
        let (id, next) = page(&gateway, list.clone(), "").await?;
        let cursor = next.as_str().with_context(|| format!("{list:?}"))?;
        pages.push((list, id, format!("&cursor={cursor}")));
    }

    gateway.kill_and_restart_all().await?;

    let again = send_once(&gateway).await?;
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(again.json()["message_id"], first.json()["message_id"]);
    for (list, before, cursor) in pages {
        let (after, _) = page(&gateway, list.clone(), &cursor).await?;
        assert!(after.is_string(), "{list:?}: an empty page");
        assert_ne!(after, before, "{list:?}");
    }
    let path = format!("/replays/{replay}");
    gateway
        .until(&path, |replay| replay["status"] == "done")
        .await?;
    let headers = [("if-match", etag.as_str())];
    let renamed = json!({"channel_name": "renamed"});
    let update = gateway.request(Method::PUT, "/channel/c1", &headers, renamed);
    update.await?.expect(200)?;
    channel.taken_at_least(2).await?;
    gateway.finish(&[&channel, &refuses]).await
}
