//! What waits long waits in the store: it is counted, released in order, and not lost.

use std::time::Duration;

use harness::{
    gateway::{Accounted, Plan, Setup, attempts},
    scripted::{Received, Reply, ScriptedServer, failing_until},
    wait,
};
use roundtrip_model::{Clock, SystemClock};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use tokio_util::sync::CancellationToken;

on_both_setups! {
    a_resumed_channels_messages_arrive_in_the_order_of_their_acceptance,
    a_long_retry_waits_in_the_store_and_can_be_made_now,
    a_deleted_channels_waiting_messages_become_dead_letters,
    waiting_messages_outlast_a_killed_process,
    a_failing_channels_next_messages_go_to_the_store_at_once,
    of_many_paused_channels_each_is_resumed_by_itself,
    one_message_is_retried_now_and_the_others_wait,
    a_cancelled_message_is_not_delivered,
    a_replay_sends_a_cancelled_message,
    only_a_waiting_message_is_cancelled_or_retried,
}

fn ids(received: &[Received]) -> Vec<String> {
    received
        .iter()
        .map(|one| one.webhook_id().to_owned())
        .collect()
}

async fn a_resumed_channels_messages_arrive_in_the_order_of_their_acceptance(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    const MESSAGES: usize = 50;
    let (gateway, channel) = Plan::new(setup)?
        .start_with_channel(|_| Reply::ok())
        .await?;
    let delivery = json!({"channel_metadata": {
        "endpoint_url": channel.url(), "delivery": {"max_in_flight": 1, "paused": true}
    }});
    gateway.put("/channel/c", delivery).await?.expect(200)?;
    let mut sent = Vec::new();
    for _ in 0..MESSAGES {
        sent.push(gateway.send("c", "s").await?);
    }
    let summary = gateway.until_waiting("c", MESSAGES).await?;
    assert_eq!(summary["reasons"], json!({"channel_paused": MESSAGES}));

    gateway.post("/channel/c/resume", "").await?.expect(200)?;
    let taken = channel.taken_at_least(MESSAGES).await?;
    assert_eq!(ids(&taken), sent);
    gateway.until_waiting("c", 0).await?;
    gateway.finish(&[&channel]).await
}

async fn a_long_retry_waits_in_the_store_and_can_be_made_now(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let recovered = CancellationToken::new();
    let (gateway, channel) = Plan::new(setup)?
        .schedule("1h, 2h")
        .start_with_channel(failing_until(&recovered, Reply::status(503)))
        .await?;
    let id = gateway.send("c", "s").await?;
    let summary = gateway.until_waiting("c", 1).await?;
    assert_eq!(summary["reasons"], json!({"retry": 1}));
    let message = gateway.until_state(&id, "waiting").await?;
    assert_eq!(message["waiting"]["reason"], "retry");
    assert_eq!(message["waiting"]["until"], summary["next_due_at"]);

    // What fails again keeps its place in the schedule.
    let retried = gateway.post("/channel/c/retry", "").await?.expect(200)?;
    assert_eq!(retried.json(), json!({"retried": 1}));
    gateway
        .until_message(&id, |message| {
            attempts(message).len() == 2 && message["state"] == "waiting"
        })
        .await?;
    gateway.until_waiting("c", 1).await?;

    recovered.cancel();
    gateway.post("/channel/c/retry", "").await?.expect(200)?;
    let attempts = gateway.until_delivered(&id).await?;
    assert_eq!(attempts.len(), 3);
    gateway.finish(&[&channel]).await
}

async fn a_deleted_channels_waiting_messages_become_dead_letters(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    const MESSAGES: usize = 3;
    let (gateway, channel) = Plan::new(setup)?
        .start_with_channel(|_| Reply::ok())
        .await?;
    gateway.post("/channel/c/pause", "").await?.expect(200)?;
    gateway.send_many("c", MESSAGES).await?;
    // Also one that would be due later.
    let deliver_at = (SystemClock.now() + Duration::from_hours(1)).format(&Rfc3339)?;
    let scheduled = json!({
        "channel_id": "c", "session_id": "s", "message": "m", "deliver_at": deliver_at
    });
    gateway
        .post("/channel/message", scheduled)
        .await?
        .expect(202)?;
    gateway.until_waiting("c", MESSAGES + 1).await?;
    gateway.delete("/channel/c").await?.expect(204)?;
    for letter in gateway.until_dead("c", MESSAGES + 1).await? {
        assert_eq!(letter["reason"]["kind"], "unknown_channel", "{letter}");
    }
    gateway.finish(&[&channel]).await
}

async fn waiting_messages_outlast_a_killed_process(setup: Setup) -> anyhow::Result<Accounted> {
    const MESSAGES: usize = 20;
    let (mut gateway, channel) = Plan::new(setup)?
        .start_with_channel(|_| Reply::ok())
        .await?;
    gateway.post("/channel/c/pause", "").await?.expect(200)?;
    gateway.send_many("c", MESSAGES).await?;
    gateway.until_waiting("c", MESSAGES).await?;
    gateway.kill_and_restart_all().await?;
    gateway.until_waiting("c", MESSAGES).await?;
    gateway.post("/channel/c/resume", "").await?.expect(200)?;
    channel.taken_at_least(MESSAGES).await?;
    gateway.finish(&[&channel]).await
}

/// The ingress knows from the store that the channel cannot take its messages.
async fn a_failing_channels_next_messages_go_to_the_store_at_once(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let recovered = CancellationToken::new();
    let failing = Reply::status(429).header("retry-after", "15");
    let (gateway, channel) = Plan::new(setup)?
        .env("ROUNDTRIP__STORE__CACHE_TTL", "100ms")
        .start_with_channel(failing_until(&recovered, failing))
        .await?;
    gateway.send("c", "s").await?;
    wait::until("a message that waits behind earlier ones", async || {
        let id = gateway.send("c", "s").await.ok()?;
        let waits = |message: &Value| message["waiting"].is_object();
        let message = gateway.until_message(&id, waits).await.ok()?;
        (message["waiting"]["reason"] == "earlier_messages").then_some(())
    })
    .await?;
    recovered.cancel();
    gateway.until_waiting("c", 0).await?;
    gateway.finish(&[&channel]).await
}

async fn of_many_paused_channels_each_is_resumed_by_itself(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    const CHANNELS: usize = 12;
    const MESSAGES: usize = 5;
    let server = ScriptedServer::start(|_| Reply::ok()).await?;
    let gateway = Plan::new(setup)?.start().await?;
    let ids: Vec<_> = (0..CHANNELS).map(|number| format!("c{number}")).collect();
    for id in &ids {
        gateway.register(id, &server.url()).await?;
        let path = format!("/channel/{id}/pause");
        gateway.post(&path, "").await?.expect(200)?;
        for _ in 0..MESSAGES {
            gateway.send(id, id).await?;
        }
    }
    for id in &ids {
        gateway.until_waiting(id, MESSAGES).await?;
    }
    for (resumed, id) in (1..).zip(&ids) {
        let path = format!("/channel/{id}/resume");
        gateway.post(&path, "").await?.expect(200)?;
        gateway.until_waiting(id, 0).await?;
        let taken = server.taken_at_least(resumed * MESSAGES).await?;
        let is_resumed = |one: &Received| ids[..resumed].contains(&one.field("session_id"));
        assert!(taken.iter().all(is_resumed), "after {id}");
    }
    gateway.finish(&[&server]).await
}

async fn one_message_is_retried_now_and_the_others_wait(setup: Setup) -> anyhow::Result<Accounted> {
    let recovered = CancellationToken::new();
    let (gateway, channel) = Plan::new(setup)?
        .schedule("1h")
        .start_with_channel(failing_until(&recovered, Reply::status(503)))
        .await?;
    let first = gateway.send("c", "s").await?;
    let second = gateway.send("c", "s").await?;
    gateway.until_waiting("c", 2).await?;
    recovered.cancel();
    let path = format!("/channel/message/{second}/retry");
    let retried = gateway.post(&path, "").await?.expect(200)?;
    assert_eq!(retried.json(), json!({"retried": 1}));
    gateway.until_delivered(&second).await?;
    let summary = gateway.until_waiting("c", 1).await?;
    assert_eq!(summary["reasons"], json!({"retry": 1}));
    let path = format!("/channel/message/{first}/retry");
    gateway.post(&path, "").await?.expect(200)?;
    gateway.until_delivered(&first).await?;
    gateway.finish(&[&channel]).await
}

async fn a_cancelled_message_is_not_delivered(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, channel) = Plan::new(setup)?
        .start_with_channel(|_| Reply::ok())
        .await?;
    gateway.post("/channel/c/pause", "").await?.expect(200)?;
    let cancelled = gateway.send("c", "s").await?;
    let kept = gateway.send("c", "s").await?;
    gateway.until_waiting("c", 2).await?;
    let path = format!("/channel/message/{cancelled}/cancel");
    let response = gateway.post(&path, "").await?.expect(200)?;
    assert_eq!(
        response.json(),
        json!({"message_id": cancelled, "state": "cancelled"})
    );
    gateway.until_state(&cancelled, "cancelled").await?;
    gateway.post(&path, "").await?.expect(409)?;
    gateway.post("/channel/c/resume", "").await?.expect(200)?;
    gateway.until_delivered(&kept).await?;
    gateway.until_waiting("c", 0).await?;
    assert_eq!(ids(&channel.taken()), [kept]);
    gateway.finish(&[&channel]).await
}

async fn a_replay_sends_a_cancelled_message(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, channel) = Plan::new(setup)?
        .start_with_channel(|_| Reply::ok())
        .await?;
    gateway.post("/channel/c/pause", "").await?.expect(200)?;
    let id = gateway.send("c", "s").await?;
    gateway.until_waiting("c", 1).await?;
    let path = format!("/channel/message/{id}/cancel");
    gateway.post(&path, "").await?.expect(200)?;
    gateway.until_state(&id, "cancelled").await?;
    gateway.post("/channel/c/resume", "").await?.expect(200)?;
    let filter = json!({"state": "cancelled", "channel_id": "c"});
    gateway
        .post("/messages/replay", filter)
        .await?
        .expect(202)?;
    gateway.until_delivered(&id).await?;
    assert_eq!(ids(&channel.taken()), [id]);
    gateway.finish(&[&channel]).await
}

async fn only_a_waiting_message_is_cancelled_or_retried(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, channel) = Plan::new(setup)?
        .start_with_channel(|_| Reply::ok())
        .await?;
    let id = gateway.send("c", "s").await?;
    gateway.until_delivered(&id).await?;
    for action in ["cancel", "retry"] {
        let path = format!("/channel/message/{id}/{action}");
        let refused = gateway.post(&path, "").await?.expect(409)?;
        assert_eq!(refused.json()["type"], "urn:roundtrip:problem:not-waiting");
        let unknown = format!("/channel/message/msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f/{action}");
        gateway.post(&unknown, "").await?.expect(404)?;
    }
    gateway.until_state(&id, "delivered").await?;
    gateway.finish(&[&channel]).await
}
