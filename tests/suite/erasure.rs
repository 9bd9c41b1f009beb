//! The contents of a session are erased when it is asked for, and all contents after their time.

use anyhow::ensure;
use harness::{
    gateway::{Accounted, Plan, Role, Setup, TestGateway},
    scripted::{Received, Reply, ScriptedServer},
    wait,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

on_both_setups! {
    no_byte_of_an_erased_session_is_in_the_store,
    a_replay_of_erased_contents_says_why_it_cannot,
    a_message_delivered_after_the_erasure_brings_nothing_back,
    an_erasure_outlasts_a_killed_process,
    contents_go_after_their_time_and_the_rest_stays,
}

/// A text that is found nowhere else.
fn text() -> String {
    format!("text-{}", Uuid::now_v7().simple())
}

/// Answers with the message, and repeats it in the response.
fn repeating(request: &Received) -> Reply {
    let message = request.field("message");
    Reply::answering(json!(message).to_string()).body(message)
}

/// Refuses the message, and repeats it in the response.
fn refusing(request: &Received) -> Reply {
    Reply::status(400).body(request.field("message"))
}

async fn say(
    gateway: &TestGateway,
    channel: &str,
    session: &str,
    message: &str,
) -> anyhow::Result<String> {
    let body = json!({"channel_id": channel, "session_id": session, "message": message});
    let accepted = gateway.post("/channel/message", body).await?.expect(202)?;
    accepted.field("message_id")
}

/// Waits until the erasure of a session has ended.
async fn until_erased(gateway: &TestGateway, session: &str) -> anyhow::Result<Value> {
    let path = format!("/sessions/{session}");
    let is_erased = |page: &Value| page["erasure"]["status"] == "erased";
    gateway.until(&path, is_erased).await
}

async fn erase(gateway: &TestGateway, session: &str) -> anyhow::Result<Value> {
    let path = format!("/sessions/{session}");
    let accepted = gateway.delete(&path).await?.expect(202)?.json();
    assert_eq!(accepted["session_id"], session);
    assert_eq!(accepted["erasure"]["status"], "erasing");
    until_erased(gateway, session).await
}

async fn no_byte_of_an_erased_session_is_in_the_store(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, _channel, _sessions) = Plan::new(setup)?.start_with_servers(repeating).await?;
    let refusing = ScriptedServer::start(refusing).await?;
    gateway.register("refusing", &refusing.url()).await?;
    gateway.register("paused", &refusing.url()).await?;
    gateway
        .post("/channel/paused/pause", "")
        .await?
        .expect(200)?;
    let texts = [("anna", text()), ("bert", text())];
    let mut answered = Vec::new();
    for (session, text) in &texts {
        answered.push(say(&gateway, "c", session, text).await?);
        say(&gateway, "refusing", session, text).await?;
        say(&gateway, "paused", session, text).await?;
    }
    for id in &answered {
        gateway.until_state(id, "forwarded").await?;
    }
    gateway.until_dead("refusing", 2).await?;
    gateway.until_waiting("paused", 2).await?;
    let [(_, of_anna), (_, of_bert)] = &texts;
    ensure!(
        gateway.store_holds(of_anna).await?,
        "the search finds nothing"
    );

    let page = erase(&gateway, "anna").await?;
    ensure!(!gateway.store_holds(of_anna).await?, "found {of_anna}");
    ensure!(gateway.store_holds(of_bert).await?, "lost {of_bert}");
    let requested_at = &page["erasure"]["requested_at"];
    let turns = page["turns"].as_array().cloned().unwrap_or_default();
    assert_eq!(turns.len(), 4, "{page}");
    for turn in &turns {
        assert_eq!(&turn["contents_erased_at"], requested_at, "{turn}");
        assert_eq!(
            (turn.get("message"), turn.get("response_data")),
            (None, None)
        );
    }
    let message = gateway.until_state(&answered[0], "forwarded").await?;
    assert_eq!(&message["contents_erased_at"], requested_at);
    assert_eq!(&message["answers"][0]["contents_erased_at"], requested_at);
    assert_eq!(message["answers"][0]["forward"]["state"], "forwarded");
    // What waited is cancelled.
    gateway.until_waiting("paused", 1).await?;
    let cancelled = gateway.get("/messages?channel_id=paused&state=cancelled");
    assert_eq!(cancelled.await?.json()["messages"][0]["session_id"], "anna");
    gateway.until_dead("refusing", 2).await?;
    gateway
        .finish_unaccounted("the paused channel's messages are not delivered")
        .await
}

async fn a_replay_of_erased_contents_says_why_it_cannot(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, channel, sessions) = Plan::new(setup)?.start_with_servers(repeating).await?;
    let refusing = ScriptedServer::start(refusing).await?;
    gateway.register("refusing", &refusing.url()).await?;
    let id = say(&gateway, "c", "anna", &text()).await?;
    gateway.until_state(&id, "forwarded").await?;
    say(&gateway, "refusing", "anna", &text()).await?;
    let dead_id = gateway.until_dead("refusing", 1).await?[0]["dead_id"].clone();
    erase(&gateway, "anna").await?;
    for (path, ids, filter) in [
        ("/messages/replay", json!([id]), json!({"channel_id": "c"})),
        (
            "/dead-letters/replay",
            json!([dead_id]),
            json!({"channel_id": "refusing"}),
        ),
    ] {
        let refused = gateway.post(path, json!({"ids": ids})).await?.expect(410)?;
        assert_eq!(
            refused.json()["type"],
            "urn:roundtrip:problem:contents-erased"
        );
        let replay = gateway.post(path, filter).await?.expect(202)?;
        let path = format!("/replays/{}", replay.field("replay_id")?);
        let is_done = |replay: &Value| replay["status"] == "done";
        let progress = gateway.until(&path, is_done).await?["progress"].clone();
        assert_eq!(progress["replayed"], 0);
        assert_eq!(progress["skipped"], 1);
        assert_eq!(progress["skips"][0]["reason"], "contents_erased");
    }
    gateway.finish(&[&channel, &sessions]).await
}

async fn a_message_delivered_after_the_erasure_brings_nothing_back(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let gate = CancellationToken::new();
    let opened = gate.clone();
    let (gateway, channel, sessions) = Plan::new(setup)?
        .start_with_servers(move |request| repeating(request).after(opened.clone()))
        .await?;
    let text = text();
    let id = say(&gateway, "c", "anna", &text).await?;
    channel.received_at_least(1).await?;
    erase(&gateway, "anna").await?;
    gate.cancel();
    let message = gateway.until_state(&id, "forwarded").await?;
    assert!(message["contents_erased_at"].is_string(), "{message}");
    // MongoDB's store erases what it has recorded in a further step.
    wait::until("the text to be gone", async || {
        matches!(gateway.store_holds(&text).await, Ok(false)).then_some(())
    })
    .await?;
    // A message that is accepted later is kept.
    let later = say(&gateway, "c", "anna", &text).await?;
    let message = gateway.until_state(&later, "forwarded").await?;
    assert_eq!(message.get("contents_erased_at"), None);
    ensure!(gateway.store_holds(&text).await?, "lost {text}");
    gateway.finish(&[&channel, &sessions]).await
}

async fn an_erasure_outlasts_a_killed_process(setup: Setup) -> anyhow::Result<Accounted> {
    const MESSAGES: usize = 60;
    let (mut gateway, channel) = Plan::new(setup)?
        .start_with_channel(|_| Reply::ok())
        .await?;
    let text = text();
    let mut ids = Vec::new();
    for _ in 0..MESSAGES {
        ids.push(say(&gateway, "c", "anna", &text).await?);
    }
    for id in &ids {
        gateway.until_state(id, "delivered").await?;
    }
    gateway.delete("/sessions/anna").await?.expect(202)?;
    gateway.kill_and_restart_all().await?;
    until_erased(&gateway, "anna").await?;
    ensure!(!gateway.store_holds(&text).await?, "found {text}");
    let page = gateway.get("/messages?session_id=anna").await?.json();
    let messages = page["messages"].as_array().cloned().unwrap_or_default();
    assert_eq!(messages.len(), MESSAGES);
    for message in messages {
        assert_eq!(message["state"], "delivered");
        assert!(message["contents_erased_at"].is_string(), "{message}");
    }
    gateway.finish(&[&channel]).await
}

/// The first look of a recorder is at its start.
async fn contents_go_after_their_time_and_the_rest_stays(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (mut gateway, channel, sessions) = Plan::new(setup)?
        .env("ROUNDTRIP__STORE__CONTENT_RETENTION", "1s")
        .start_with_servers(repeating)
        .await?;
    let own = json!({"channel_id": "own", "channel_metadata": {
        "endpoint_url": channel.url(), "delivery": {"content_retention": "1h"}
    }});
    gateway.post("/channel", own).await?.expect(201)?;
    let [short, long] = [text(), text()];
    let id = say(&gateway, "c", "anna", &short).await?;
    let kept = say(&gateway, "own", "anna", &long).await?;
    for id in [&id, &kept] {
        gateway.until_state(id, "forwarded").await?;
    }
    // An answer without a token is of no channel.
    let alone = text();
    let body = json!({"session_id": "bert", "response_data": alone});
    gateway.post("/webhook-response", body).await?.expect(202)?;
    let is_forwarded = |page: &Value| page["turns"][0]["forward"]["state"] == "forwarded";
    gateway.until("/sessions/bert", is_forwarded).await?;
    while gateway.store_holds(&short).await? || gateway.store_holds(&alone).await? {
        gateway.restart(Role::Recorder).await?;
    }
    let message = gateway.until_state(&id, "forwarded").await?;
    assert!(message["contents_erased_at"].is_string(), "{message}");
    let message = gateway.until_state(&kept, "forwarded").await?;
    assert_eq!(message.get("contents_erased_at"), None);
    ensure!(gateway.store_holds(&long).await?, "lost {long}");
    gateway.finish(&[&channel, &sessions]).await
}
