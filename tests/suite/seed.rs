//! The client's specification, with its exact bodies.

use harness::{
    gateway::{Accounted, Plan, Setup},
    scripted::{Reply, ScriptedServer},
};
use serde_json::{Value, json};

on_both_setups! {
    the_seeds_channel_calls_work,
    the_seeds_message_and_callback_work,
}

const CREATE: &str = r#"{
    "channel_id": "slack-sim",
    "channel_name": "Slack Simulated Channel",
    "channel_description": "Sends to Slack",
    "channel_tags": ["slack"],
    "channel_metadata": {"endpoint_url": "http://localhost:5001/incoming"}
  }"#;
const UPDATE: &str = r#"{"channel_description": "Updated"}"#;
const QUERY: &str = r#"{"channel_tags": {"$in": ["slack"]}}"#;
const MESSAGE: &str = r#"{
    "channel_id": "slack-sim",
    "session_id": "abc123",
    "message": "Hello, Slack!",
    "response_url": "http://localhost:8000/webhook-response"
  }"#;
const CALLBACK: &str = r#"{
  "session_id": "abc123",
  "response_data": {
    "text": "Message received and handled",
    "platform": "Slack",
    "timestamp": "2025-05-27T21:10:00Z"
  }
}"#;

async fn the_seeds_channel_calls_work(setup: Setup) -> anyhow::Result<Accounted> {
    let gateway = Plan::new(setup)?.start().await?;
    let mut channel: Value = serde_json::from_str(CREATE)?;

    let created = gateway.post("/channel", CREATE).await?.expect(201)?;
    // The one field beyond the client's specification, shown only here.
    let mut created = created.json();
    let secret = created
        .as_object_mut()
        .and_then(|created| created.remove("signing_secret"));
    assert!(secret.is_some_and(|secret| secret.to_string().starts_with("\"whsec_")));
    assert_eq!(created, channel);
    let again = gateway.post("/channel", CREATE).await?.expect(409)?;
    assert_eq!(again.header("content-type"), "application/problem+json");

    let read = gateway.get("/channel/slack-sim").await?.expect(200)?;
    assert_eq!(read.json(), channel);

    let updated = gateway.put("/channel/slack-sim", UPDATE).await?;
    let updated = updated.expect(200)?;
    channel["channel_description"] = json!("Updated");
    assert_eq!(updated.json(), channel);

    let found = gateway.post("/channels", QUERY).await?.expect(200)?.json();
    assert_eq!(found["channels"], json!([channel]));

    let path = "/channel/slack-sim";
    gateway.delete(path).await?.expect(204)?;
    gateway.delete(path).await?.expect(404)?;
    gateway.get(path).await?.expect(404)?;
    let found = gateway.post("/channels", QUERY).await?.expect(200)?.json();
    assert_eq!(found["channels"], json!([]));
    gateway.finish(&[]).await
}

async fn the_seeds_message_and_callback_work(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let sessions = ScriptedServer::start(|_| Reply::ok()).await?;
    let plan = Plan::new(setup)?.sessions_server(sessions.url());
    let gateway = plan.start().await?;
    gateway.post("/channel", CREATE).await?.expect(201)?;
    let metadata = json!({"channel_metadata": {"endpoint_url": channel.url()}});
    let updated = gateway.put("/channel/slack-sim", metadata).await?;
    updated.expect(200)?;

    let accepted = gateway.post("/channel/message", MESSAGE).await?;
    let accepted = accepted.expect(202)?;
    let id = accepted.field("message_id")?;
    assert_eq!(
        accepted.json(),
        json!({"success": true, "message_id": id, "session_id": "abc123", "status": "queued"})
    );
    let deliveries = channel.taken_at_least(1).await?;
    assert_eq!(deliveries[0].webhook_id(), id);
    let body: Value = serde_json::from_str(&deliveries[0].body)?;
    assert_eq!(
        body,
        json!({
            "session_id": "abc123",
            "message": "Hello, Slack!",
            "response_url": "http://localhost:8000/webhook-response",
        })
    );

    let answer = gateway.post("/webhook-response", CALLBACK).await?;
    assert_eq!(answer.expect(202)?.json(), json!({"success": true}));
    let forwards = sessions.taken_at_least(1).await?;
    let forward: Value = serde_json::from_str(&forwards[0].body)?;
    assert_eq!(forward, serde_json::from_str::<Value>(CALLBACK)?);
    gateway.finish(&[&channel, &sessions]).await
}
