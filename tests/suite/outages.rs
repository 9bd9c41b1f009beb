//! The broker or the store is unavailable: no accepted message is lost.

use std::time::Duration;

use anyhow::Context;
use harness::{
    gateway::{Answer, Plan, Setup, TestGateway},
    proxy::Proxy,
    scripted::{Reply, ScriptedServer},
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

async fn try_to_send(gateway: &TestGateway) -> anyhow::Result<Answer> {
    let body = json!({"channel_id": "c", "session_id": "s", "message": "m"});
    let answer = gateway.post("/channel/message", body.to_string());
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
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let plan = Plan::new(Setup::Servers)?;
    let (url, proxy) = plan.test_namespace()?.broker_by_proxy().await?;
    let gateway = plan.env("BROKER_URL", url).start().await?;
    gateway.register("c", &channel.url()).await?;
    for number in 0..MESSAGES {
        gateway.send("c", &format!("before-{number}")).await?;
    }

    break_it(&proxy);
    for _ in 0..MESSAGES {
        let refused = try_to_send(&gateway).await?.expect(503)?;
        assert_eq!(refused.header("content-type"), "application/problem+json");
        assert!(refused.header("retry-after").parse::<u64>().is_ok());
    }

    proxy.resume();
    wait::until("the gateway to accept messages again", async || {
        let answer = try_to_send(&gateway).await.ok()?;
        (answer.status == 202).then_some(())
    })
    .await?;
    for number in 0..MESSAGES {
        gateway.send("c", &format!("after-{number}")).await?;
    }
    gateway.all_taken(&[&channel]).await?;
    gateway.finish(&[&channel]).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_unavailable_known_channels_are_served() -> anyhow::Result<()> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let plan = Plan::new(Setup::Servers)?;
    let (url, proxy) = plan.test_namespace()?.store_by_proxy().await?;
    let gateway = plan
        .env("STORE_URL", url)
        // Each message reads the store again.
        .env("ROUNDTRIP__STORE__CACHE_TTL", "1ms")
        .start()
        .await?;
    gateway.register("c", &channel.url()).await?;
    gateway.send("c", "before").await?;
    channel.taken_at_least(1).await?;

    proxy.refuse();
    for number in 0..3 {
        gateway.send("c", &format!("during-{number}")).await?;
    }
    gateway.all_taken(&[&channel]).await?;
    let refused = gateway.get("/channel/unknown").await?.expect(503)?;
    assert!(refused.header("retry-after").parse::<u64>().is_ok());

    proxy.resume();
    gateway.finish(&[&channel]).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_unavailable_messages_wait_without_counting_attempts()
-> anyhow::Result<()> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let plan = Plan::new(Setup::Servers)?;
    let (url, proxy) = plan.test_namespace()?.store_by_proxy().await?;
    let mut gateway = plan
        .env("STORE_URL", url)
        .env("ROUNDTRIP__STORE__TIMEOUT", "500ms")
        .env("ROUNDTRIP__DISPATCHER__PARK", "200ms")
        .env("ROUNDTRIP__LOG__LEVEL", "info,roundtrip_delivery=debug")
        // The second failed attempt would be the last.
        .schedule("100ms")
        .start()
        .await?;
    gateway.register("c", &channel.url()).await?;
    // The ingress has the channel in its cache; the new dispatcher does not.
    gateway.stop("dispatcher-0").await?;
    gateway.send("c", "s").await?;

    proxy.refuse();
    gateway.process("dispatcher-0")?.restart().await?;
    wait::until("the message to be snoozed three times", async || {
        let log = gateway.log("dispatcher-0").ok()?;
        (log.matches("delivery.snoozed").count() >= 3).then_some(())
    })
    .await?;
    assert_eq!(channel.received().len(), 0);
    let log = gateway.log("dispatcher-0")?;
    let said = log
        .lines()
        .filter(|line| line.contains(" INFO ") && line.contains("delivery.snoozed "));
    assert!(log.contains("reason=\"store_unavailable\""), "{log}");
    assert!(said.count() <= 1, "{log}");

    proxy.resume();
    gateway.all_taken(&[&channel]).await?;
    gateway.finish(&[&channel]).await.map(drop)
}
