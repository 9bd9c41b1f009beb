//! The audit at the end of each test: a secret in a log or in a refusal fails the test, for every
//! client.

use anyhow::ensure;
use harness::{
    gateway::{Plan, Setup, TestGateway},
    http::plain_client,
    scripted::{Reply, ScriptedServer},
    wait,
};
use reqwest::Method;
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
async fn found(gateway: TestGateway, place: &str) -> anyhow::Result<()> {
    let ended = gateway.finish_unaccounted("nothing was accepted").await;
    let error = ended.expect_err("the secret was found").to_string();
    ensure!(error.contains("has the secret"), "{error}");
    ensure!(error.starts_with(place), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_secret_in_a_log_fails_the_test() -> anyhow::Result<()> {
    let gateway = holding(LOGGED).await?;
    found(gateway, "all's log").await
}

#[tokio::test]
async fn a_secret_in_an_answer_that_refuses_fails_the_test() -> anyhow::Result<()> {
    let gateway = holding(QUOTED).await?;
    let path = format!("/channel/{QUOTED}");
    gateway.request(Method::GET, &path, &[], "").await?;
    found(gateway, "what refused").await
}

#[tokio::test]
async fn a_secret_in_an_answer_to_a_plain_client_fails_the_test() -> anyhow::Result<()> {
    let gateway = holding(QUOTED).await?;
    let url = gateway.url(&format!("/channel/{QUOTED}"));
    gateway.exchange(plain_client()?.get(url)).await?;
    found(gateway, "what refused").await
}

#[tokio::test]
async fn a_secret_over_a_raw_connection_fails_the_test() -> anyhow::Result<()> {
    let gateway = holding(QUOTED).await?;
    let mut raw = gateway.connect().await?;
    let head = "HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    raw.say(&format!("GET /channel/{QUOTED} {head}")).await?;
    raw.rest().await?;
    found(gateway, "what refused").await
}

#[tokio::test]
async fn a_secret_sent_to_a_channel_server_fails_the_test() -> anyhow::Result<()> {
    let channel = ScriptedServer::start(|_| Reply::answering("1")).await?;
    let plan = Plan::new(Setup::Embedded)?.env("TEST_SECRET", QUOTED);
    let gateway = plan.schedule("100ms").start().await?;
    gateway.register("c", &channel.url()).await?;
    let message = json!({
        "channel_id": "c",
        "session_id": "s",
        "message": 1,
        "response_url": gateway.url(&format!("/channel/{QUOTED}/pause")),
    });
    let sent = gateway
        .post("/channel/message", message.to_string())
        .await?;
    let id = sent.expect(202)?.json()["message_id"].clone();
    let path = format!("/channel/message/{}", id.as_str().unwrap_or_default());
    wait::until("the message to be dead", async || {
        let answer = gateway.get(&path).await.ok()?.json();
        (answer["state"] == "dead").then_some(())
    })
    .await?;
    let error = gateway
        .finish(&[&channel])
        .await
        .expect_err("the secret was found");
    assert!(error.to_string().starts_with("what refused"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_secret_printed_by_a_command_fails_the_test() -> anyhow::Result<()> {
    let gateway = holding(QUOTED).await?;
    gateway.command(&["keys", "revoke", QUOTED]).await?;
    found(gateway, "what refused").await
}
