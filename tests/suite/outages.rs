//! The broker or the store is unavailable: no accepted message is lost.

use std::time::Duration;

use anyhow::Context;
use harness::{
    gateway::{Plan, Response, Role, Setup, TestGateway},
    proxy::Proxy,
    scripted::Reply,
    wait,
};
use rstest::rstest;
use serde_json::json;
use tokio::time::timeout;

/// The promise is 2 s. A busy machine gets more, but less than the detection of a stalled
/// connection takes.
const REFUSAL_LIMIT: Duration = Duration::from_secs(8);

/// The messages sent before the outage, and again during it.
const MESSAGES: usize = 20;

async fn try_to_send(gateway: &TestGateway) -> anyhow::Result<Response> {
    let body = json!({"channel_id": "c", "session_id": "s", "message": "m"});
    let answer = gateway.post("/channel/message", body);
    timeout(REFUSAL_LIMIT, answer)
        .await
        .context("no answer within the limit")?
}

#[rstest]
#[case::refuses_connections(Proxy::refuse)]
#[case::swallows_everything(Proxy::stall)]
#[tokio::test(flavor = "multi_thread")]
async fn while_the_broker_is_unavailable_messages_are_refused_and_none_is_lost(
    #[case] break_it: fn(&Proxy),
) -> anyhow::Result<()> {
    let (plan, proxy) = Plan::new(Setup::Servers)?.broker_by_proxy().await?;
    let (gateway, channel) = plan.start_with_channel(|_| Reply::ok()).await?;
    gateway.send_many("c", MESSAGES).await?;

    break_it(&proxy);
    for _ in 0..MESSAGES {
        try_to_send(&gateway).await?.expect_retry_after(503)?;
    }

    proxy.resume();
    wait::until("the gateway to accept messages again", async || {
        let answer = try_to_send(&gateway).await.ok()?;
        (answer.status == 202).then_some(())
    })
    .await?;
    gateway.send_many("c", MESSAGES).await?;
    gateway.all_taken(&[&channel]).await?;
    gateway.finish(&[&channel]).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_unavailable_known_channels_are_served() -> anyhow::Result<()> {
    let (plan, proxy) = Plan::new(Setup::Servers)?.store_by_proxy().await?;
    // Each message reads the store again.
    let plan = plan.env("ROUNDTRIP__STORE__CACHE_TTL", "1ms");
    let (gateway, channel) = plan.start_with_channel(|_| Reply::ok()).await?;
    gateway.send("c", "before").await?;
    channel.taken_at_least(1).await?;

    proxy.refuse();
    gateway.send_many("c", 3).await?;
    gateway.all_taken(&[&channel]).await?;
    let unknown = gateway.get("/channel/unknown").await?;
    unknown.expect_retry_after(503)?;

    proxy.resume();
    gateway.finish(&[&channel]).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_unavailable_messages_wait_without_counting_attempts()
-> anyhow::Result<()> {
    let (plan, proxy) = Plan::new(Setup::Servers)?.store_by_proxy().await?;
    let plan = plan
        .env("ROUNDTRIP__STORE__TIMEOUT", "500ms")
        .env("ROUNDTRIP__DISPATCHER__PARK", "200ms")
        .env("ROUNDTRIP__LOG__LEVEL", "info,roundtrip_delivery=debug")
        // The second failed attempt would be the last.
        .schedule("100ms");
    let (mut gateway, channel) = plan.start_with_channel(|_| Reply::ok()).await?;
    // The ingress has the channel in its cache; the new dispatcher does not.
    gateway.stop(Role::Dispatcher).await?;
    gateway.send("c", "s").await?;

    proxy.refuse();
    gateway.process(Role::Dispatcher)?.restart().await?;
    let snoozed = ["delivery.snoozed", "reason=\"store_unavailable\""];
    gateway.until_logged(Role::Dispatcher, &snoozed, 3).await?;
    assert_eq!(channel.received().len(), 0);
    let reported = gateway.logged(Role::Dispatcher, &[" INFO ", "delivery.snoozed "]);
    assert!(reported <= 1, "{reported}");

    proxy.resume();
    gateway.all_taken(&[&channel]).await?;
    gateway.finish(&[&channel]).await.map(drop)
}
