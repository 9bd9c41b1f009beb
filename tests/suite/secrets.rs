//! The audit at the end of each test: a secret in a log or in a refusal fails the test, for every
//! client.

use anyhow::ensure;
use harness::{
    gateway::{Accounted, Plan, Setup, TestGateway},
    http::plain_client,
    scripted::Reply,
};
use serde_json::json;

/// The start of every log.
const LOGGED: &str = "ingress listens";

/// A text that the refusal quotes, as the request contained it.
const QUOTED: &str = "the-channels-id";

async fn holding(secret: &str) -> anyhow::Result<TestGateway> {
    let plan = Plan::new(Setup::Embedded)?.env("TEST_SECRET", secret);
    plan.start().await
}

/// Ends the test, which must fail because of the audit's finding there.
async fn end(gateway: TestGateway, place: &str) -> anyhow::Result<()> {
    let reason = "nothing was accepted";
    found(gateway.finish_unaccounted(reason).await, place)
}

fn found(ended: anyhow::Result<Accounted>, place: &str) -> anyhow::Result<()> {
    let error = ended.expect_err("the secret was found").to_string();
    ensure!(error.contains("has the secret"), "{error}");
    ensure!(error.starts_with(place), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_secret_in_a_log_fails_the_test() -> anyhow::Result<()> {
    let gateway = holding(LOGGED).await?;
    end(gateway, "all's log").await
}

#[tokio::test]
async fn a_secret_in_an_answer_that_refuses_fails_the_test() -> anyhow::Result<()> {
    let gateway = holding(QUOTED).await?;
    let path = format!("/channel/{QUOTED}");
    gateway.get(&path).await?;
    end(gateway, "what refused").await
}

#[tokio::test]
async fn a_secret_in_an_answer_to_a_plain_client_fails_the_test() -> anyhow::Result<()> {
    let gateway = holding(QUOTED).await?;
    let url = gateway.url(&format!("/channel/{QUOTED}"));
    gateway.exchange(plain_client()?.get(url)).await?;
    end(gateway, "what refused").await
}

#[tokio::test]
async fn a_secret_over_a_raw_connection_fails_the_test() -> anyhow::Result<()> {
    let gateway = holding(QUOTED).await?;
    let mut raw = gateway.connect().await?;
    let head = "HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    raw.write(&format!("GET /channel/{QUOTED} {head}")).await?;
    raw.rest().await?;
    end(gateway, "what refused").await
}

#[tokio::test]
async fn a_secret_sent_to_a_channel_server_fails_the_test() -> anyhow::Result<()> {
    let (gateway, channel) = Plan::new(Setup::Embedded)?
        .env("TEST_SECRET", QUOTED)
        .schedule("100ms")
        .start_with_channel(|_| Reply::answering("1"))
        .await?;
    let message = json!({
        "channel_id": "c",
        "session_id": "s",
        "message": 1,
        "response_url": gateway.url(&format!("/channel/{QUOTED}/pause")),
    });
    let sent = gateway.post("/channel/message", message).await?;
    let id = sent.expect(202)?.field("message_id")?;
    gateway.until_state(&id, "dead").await?;
    found(gateway.finish(&[&channel]).await, "what refused")
}

#[tokio::test]
async fn a_secret_printed_by_a_command_fails_the_test() -> anyhow::Result<()> {
    let gateway = holding(QUOTED).await?;
    gateway.command(&["keys", "revoke", QUOTED]).await?;
    end(gateway, "what refused").await
}
