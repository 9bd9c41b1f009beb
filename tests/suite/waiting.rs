//! What waits long waits in the store: it is counted, released in order, and not lost.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use harness::{
    gateway::{Accounted, Plan, Setup, TestGateway},
    scripted::{Received, Reply},
};
use serde_json::{Value, json};

on_both_setups! {
    a_resumed_channels_messages_arrive_in_the_order_of_their_acceptance,
    a_long_retry_waits_in_the_store_and_can_be_made_now,
    a_deleted_channels_waiting_messages_become_dead_letters,
    waiting_messages_outlast_a_killed_process,
}

const WAITING: &str = "/channel/c/waiting";

/// Waits until this many messages wait for the channel `c`, and returns the summary.
async fn until_waiting(gateway: &TestGateway, count: usize) -> anyhow::Result<Value> {
    gateway
        .until(WAITING, |summary| summary["count"] == count)
        .await
}

fn ids(received: &[Received]) -> Vec<String> {
    received.iter().map(|one| one.webhook_id().to_owned()).collect()
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
    let summary = until_waiting(&gateway, MESSAGES).await?;
    assert_eq!(summary["reasons"], json!({"channel_paused": MESSAGES}));

    gateway.post("/channel/c/resume", "").await?.expect(200)?;
    let taken = channel.taken_at_least(MESSAGES).await?;
    assert_eq!(ids(&taken), sent);
    until_waiting(&gateway, 0).await?;
    gateway.finish(&[&channel]).await
}

async fn a_long_retry_waits_in_the_store_and_can_be_made_now(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let fails = Arc::new(AtomicBool::new(true));
    let failing = Arc::clone(&fails);
    let (gateway, channel) = Plan::new(setup)?
        .schedule("1h, 2h")
        .start_with_channel(move |_| {
            if failing.load(Ordering::Acquire) {
                Reply::status(503)
            } else {
                Reply::ok()
            }
        })
        .await?;
    let id = gateway.send("c", "s").await?;
    let summary = until_waiting(&gateway, 1).await?;
    assert_eq!(summary["reasons"], json!({"retry": 1}));

    // What fails again keeps its place in the schedule.
    let retried = gateway.post("/channel/c/retry", "").await?.expect(200)?;
    assert_eq!(retried.json(), json!({"retried": 1}));
    gateway
        .until_message(&id, |message| {
            harness::gateway::attempts(message).len() == 2
        })
        .await?;
    until_waiting(&gateway, 1).await?;

    fails.store(false, Ordering::Release);
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
    until_waiting(&gateway, MESSAGES).await?;
    gateway.delete("/channel/c").await?.expect(204)?;
    for letter in gateway.until_dead("c", MESSAGES).await? {
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
    until_waiting(&gateway, MESSAGES).await?;
    gateway.kill_and_restart_all().await?;
    until_waiting(&gateway, MESSAGES).await?;
    gateway.post("/channel/c/resume", "").await?.expect(200)?;
    channel.taken_at_least(MESSAGES).await?;
    gateway.finish(&[&channel]).await
}
