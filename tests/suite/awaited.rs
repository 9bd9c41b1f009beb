//! Producers that wait for the answer.

use futures::future::join;
use harness::{
    gateway::{Accounted, Plan, Response, Role, Setup, TestGateway},
    scripted::{Reply, ScriptedServer},
};
use reqwest::Method;
use serde_json::{Value, json};

on_both_setups! {
    a_producer_that_waits_gets_the_answer,
    a_wait_without_an_answer_ends_with_202,
    a_repeated_message_gets_the_answer_of_the_first,
    a_stopping_ingress_ends_its_waits,
    a_long_poll_returns_with_the_answer,
    a_long_poll_returns_when_the_message_is_dead,
}

/// Longer than the harness waits for a response.
const LONG: (&str, &str) = ("prefer", "wait=600");

const ANSWER: &str = r#"{"text":"caf\u00e9","n":1.50e300}"#;

fn plan(setup: Setup) -> anyhow::Result<Plan> {
    Ok(Plan::new(setup)?.env("ROUNDTRIP__INGRESS__MAX_WAIT", "10m"))
}

async fn send(gateway: &TestGateway, headers: &[(&str, &str)]) -> anyhow::Result<Response> {
    let message = json!({"channel_id": "c", "session_id": "s", "message": "Hello"});
    gateway
        .request(Method::POST, "/channel/message", headers, message)
        .await
}

async fn a_producer_that_waits_gets_the_answer(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, channel, sessions) = plan(setup)?
        .start_with_servers(|_| Reply::answering(ANSWER))
        .await?;
    let answered = send(&gateway, &[LONG]).await?.expect(200)?;
    assert_eq!(answered.header("preference-applied"), "wait");
    let id = answered.field("message_id")?;
    assert_eq!(
        answered.header("location"),
        format!("/channel/message/{id}")
    );
    assert_eq!(answered.json()["status"], "answered");
    assert_eq!(
        answered.json()["answer"]["callback_id"],
        forwarded(&sessions).await?
    );
    // Byte for byte.
    let answer = format!(r#""response_data":{ANSWER}"#);
    assert!(answered.text.contains(&answer), "{}", answered.text);
    gateway.finish(&[&channel, &sessions]).await
}

/// The id of the first answer that this sessions server took.
async fn forwarded(sessions: &ScriptedServer) -> anyhow::Result<String> {
    Ok(sessions.taken_at_least(1).await?[0].webhook_id().to_owned())
}

async fn a_wait_without_an_answer_ends_with_202(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, channel, sessions) = Plan::new(setup)?
        .env("ROUNDTRIP__INGRESS__MAX_WAIT", "100ms")
        .start_with_servers(|_| Reply::ok())
        .await?;
    let queued = send(&gateway, &[LONG]).await?.expect(202)?;
    assert_eq!(queued.header("preference-applied"), "");
    assert_eq!(queued.json()["status"], "queued");
    gateway.finish(&[&channel, &sessions]).await
}

async fn a_repeated_message_gets_the_answer_of_the_first(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (gateway, channel, sessions) = plan(setup)?
        .start_with_servers(|_| Reply::answering(ANSWER))
        .await?;
    let key = ("idempotency-key", "a key");
    let first = send(&gateway, &[key]).await?.expect(202)?;
    let repeated = send(&gateway, &[key, LONG]).await?.expect(200)?;
    assert_eq!(repeated.header("idempotent-replayed"), "true");
    assert_eq!(repeated.field("message_id")?, first.field("message_id")?);
    assert_eq!(
        repeated.json()["answer"]["callback_id"],
        forwarded(&sessions).await?
    );
    assert_eq!(channel.taken_at_least(1).await?.len(), 1);
    gateway.finish(&[&channel, &sessions]).await
}

async fn a_stopping_ingress_ends_its_waits(setup: Setup) -> anyhow::Result<Accounted> {
    let (mut gateway, channel, sessions) = plan(setup)?.start_with_servers(|_| Reply::ok()).await?;
    let message = json!({"channel_id": "c", "session_id": "s", "message": "Hello"}).to_string();
    let mut producer = gateway.connect().await?;
    let head = format!(
        "POST /channel/message HTTP/1.1\r\nHost: localhost\r\nPrefer: wait=600\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        message.len()
    );
    producer.write(&(head + &message)).await?;
    channel.taken_at_least(1).await?;
    gateway.stop(Role::Ingress).await?;
    let response = producer.rest().await?;
    assert!(response.starts_with("HTTP/1.1 202"), "{response}");
    gateway.start_all().await?;
    gateway.finish(&[&channel, &sessions]).await
}

/// The message after a long poll.
async fn polled(gateway: &TestGateway, id: &str) -> anyhow::Result<Value> {
    let path = format!("/channel/message/{id}?wait=600");
    Ok(gateway.get(&path).await?.expect(200)?.json())
}

async fn a_long_poll_returns_with_the_answer(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, channel, sessions) = plan(setup)?.start_with_servers(|_| Reply::ok()).await?;
    let id = gateway.send("c", "s").await?;
    let path = channel.taken_at_least(1).await?[0].response_path()?;
    gateway.until_state(&id, "delivered").await?;
    let answer = async {
        let body = format!(r#"{{"session_id":"s","response_data":{ANSWER}}}"#);
        gateway.post(&path, body).await?.expect(202)
    };
    let (message, answered) = join(polled(&gateway, &id), answer).await;
    answered?;
    let message = message?;
    let data: Value = serde_json::from_str(ANSWER)?;
    assert_eq!(message["answers"][0]["response_data"], data, "{message}");
    // It has ended, so it is not awaited again.
    let again = polled(&gateway, &id).await?;
    assert_eq!(again["answers"][0]["response_data"], data, "{again}");
    gateway.finish(&[&channel, &sessions]).await
}

async fn a_long_poll_returns_when_the_message_is_dead(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, channel, sessions) = plan(setup)?
        .start_with_servers(|_| Reply::status(400))
        .await?;
    let id = gateway.send("c", "s").await?;
    assert_eq!(polled(&gateway, &id).await?["state"], "dead");
    gateway.finish(&[&channel, &sessions]).await
}
