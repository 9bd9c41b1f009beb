//! What the gateway handed out stays valid after all its processes are killed, also in development,
//! where no key is configured.

use anyhow::Context;
use harness::{
    gateway::{Accounted, Answer, Plan, Setup, TestGateway},
    scripted::{Reply, ScriptedServer},
    wait,
};
use reqwest::Method;
use serde_json::{Value, json};
use url::Url;

on_both_setups! {
    an_answer_after_a_restart_is_accepted,
    pages_repeats_versions_and_replays_go_on_after_a_restart,
}

/// A gateway as in development, without a configured key.
fn without_keys(setup: Setup) -> anyhow::Result<Plan> {
    Ok(Plan::new(setup)?.env("CALLBACK_SECRET", ""))
}

async fn kill_and_start_all(gateway: &mut TestGateway) -> anyhow::Result<()> {
    let names = gateway.names();
    for name in &names {
        gateway.process(name)?.kill().await?;
    }
    for name in &names {
        gateway.process(name)?.restart().await?;
    }
    Ok(())
}

async fn an_answer_after_a_restart_is_accepted(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let sessions = ScriptedServer::start(|_| Reply::ok()).await?;
    let plan = without_keys(setup)?.sessions_server(sessions.url());
    let plan = plan.env("ROUNDTRIP__CALLBACK_AUTH", "signed");
    let mut gateway = plan.start().await?;
    gateway.register("c", &channel.url()).await?;
    gateway.send("c", "abc123").await?;
    let delivery = channel.taken_at_least(1).await?.remove(0);
    kill_and_start_all(&mut gateway).await?;
    let url: Url = delivery.field("response_url").parse()?;
    let path = format!("{}?{}", url.path(), url.query().context("no token")?);
    let answer = r#"{"session_id":"abc123","response_data":"late"}"#;
    gateway.post(&path, answer).await?.expect(202)?;
    let forwards = sessions.taken_at_least(1).await?;
    assert_eq!(forwards[0].body, answer);
    gateway.finish(&[&channel, &sessions]).await
}

/// Sends the same message under the same idempotency key each time.
async fn send_once(gateway: &TestGateway) -> anyhow::Result<Answer> {
    let body = json!({"channel_id": "c1", "session_id": "s", "message": "once"});
    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", "the-first"),
    ];
    let sent = gateway.request(Method::POST, "/channel/message", &headers, body.to_string());
    sent.await?.expect(202)
}

/// The page after this cursor, and its ids.
async fn page(gateway: &TestGateway, list: &List, cursor: &Value) -> anyhow::Result<Page> {
    let mut path = format!("{}?limit=1", list.path);
    if let Some(cursor) = cursor.as_str() {
        path = format!("{path}&cursor={cursor}");
    }
    let answer = gateway.request(
        list.method.clone(),
        &path,
        &[("content-type", "application/json")],
        list.body,
    );
    let answer = answer.await?.expect(200)?.json();
    Ok(Page {
        id: answer[list.items][0][list.id].clone(),
        next: answer["next_cursor"].clone(),
    })
}

struct List {
    method: Method,
    path: &'static str,
    body: &'static str,
    items: &'static str,
    id: &'static str,
}

struct Page {
    id: Value,
    next: Value,
}

fn lists() -> [List; 3] {
    let list = |method, path, body, items, id| List {
        method,
        path,
        body,
        items,
        id,
    };
    [
        list(Method::POST, "/channels", "{}", "channels", "channel_id"),
        list(Method::GET, "/messages", "", "messages", "message_id"),
        list(Method::GET, "/dead-letters", "", "dead_letters", "dead_id"),
    ]
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
    for session in ["dead-1", "dead-2"] {
        gateway.send("c2", session).await?;
    }
    wait::until("two dead letters", async || {
        let letters = gateway.get("/dead-letters").await.ok()?.json();
        (letters["dead_letters"].as_array()?.len() == 2).then_some(())
    })
    .await?;
    let etag = gateway.get("/channel/c1").await?.expect(200)?;
    let etag = etag.header("etag").to_owned();
    let replay = json!({"ids": [first.json()["message_id"]]});
    let replay = gateway.post("/messages/replay", replay.to_string()).await?;
    let replay = replay.expect(202)?.json();
    let mut pages = Vec::new();
    for list in lists() {
        let page = page(&gateway, &list, &Value::Null).await?;
        assert!(page.next.is_string(), "{}: no cursor", list.path);
        pages.push((list, page));
    }

    kill_and_start_all(&mut gateway).await?;

    let again = send_once(&gateway).await?;
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(again.json()["message_id"], first.json()["message_id"]);
    for (list, before) in pages {
        let after = page(&gateway, &list, &before.next).await?;
        assert!(after.id.is_string(), "{}: an empty page", list.path);
        assert_ne!(after.id, before.id, "{}", list.path);
    }
    let id = replay["replay_id"].as_str().context("no replay id")?;
    let path = format!("/replays/{id}");
    wait::until("the replay to end", async || {
        let replay = gateway.get(&path).await.ok()?.json();
        (replay["status"] == "done").then_some(())
    })
    .await?;
    let headers = [
        ("content-type", "application/json"),
        ("if-match", etag.as_str()),
    ];
    let renamed = json!({"channel_name": "renamed"}).to_string();
    let update = gateway.request(Method::PUT, "/channel/c1", &headers, renamed);
    update.await?.expect(200)?;
    channel.taken_at_least(2).await?;
    gateway.finish(&[&channel, &refuses]).await
}
