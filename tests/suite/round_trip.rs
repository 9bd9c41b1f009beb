//! The main job: a message goes out, its answer comes back.

use harness::{
    gateway::{Accounted, Plan, Setup},
    scripted::{Reply, ScriptedServer},
    wait,
};
use serde_json::json;

on_both_setups! {
    a_message_goes_out_and_its_answer_comes_back,
    a_delivery_is_exactly_the_three_fields,
    an_answer_may_come_long_after_its_message,
    the_development_default_makes_a_round_trip_by_itself,
}

/// Numbers beyond a double, an escape and a member order that must not change.
const MESSAGE: &str = r#"{"n":12345678901234567890.10,"b":"\u00e4","a":[1.0,null]}"#;
const RESPONSE: &str = r#"{"z":1.50e300,"text":"caf\u00e9","a":{"y":-0.0}}"#;

async fn a_message_goes_out_and_its_answer_comes_back(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::answering(RESPONSE)).await?;
    let sessions = ScriptedServer::start(|_| Reply::ok()).await?;
    let plan = Plan::new(setup)?.sessions_server(sessions.url());
    let gateway = plan.start().await?;
    gateway.register("slack-sim", &channel.url()).await?;
    gateway.send("slack-sim", "abc123").await?;
    let forwards = sessions.taken_at_least(1).await?;
    assert_eq!(
        forwards[0].body,
        format!(r#"{{"session_id":"abc123","response_data":{RESPONSE}}}"#)
    );
    assert!(forwards[0].webhook_id().starts_with("cb_"));
    gateway.finish(&[&channel, &sessions]).await
}

async fn a_delivery_is_exactly_the_three_fields(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let gateway = Plan::new(setup)?.start().await?;
    gateway.register("slack-sim", &channel.url()).await?;
    let url = "http://somewhere.example/else?x=1";
    let body = format!(
        r#"{{"response_url":"{url}","message":{MESSAGE},"session_id":"abc123","channel_id":"slack-sim"}}"#
    );
    let answer = gateway.post("/channel/message", body).await?.expect(202)?;
    let named = gateway.send("slack-sim", "without-a-url").await?;
    let deliveries = channel.taken_at_least(2).await?;
    let of = |id: &str| {
        deliveries
            .iter()
            .find(|delivery| delivery.webhook_id() == id)
    };
    let first = of(answer.json()["message_id"].as_str().unwrap_or_default());
    assert_eq!(
        first.map(|delivery| delivery.body.as_str()),
        Some(
            format!(r#"{{"session_id":"abc123","message":{MESSAGE},"response_url":"{url}"}}"#)
                .as_str()
        )
    );
    // The gateway's own URL, with the token that identifies the message.
    let own = of(&named).map(|delivery| delivery.field("response_url"));
    let own = own.unwrap_or_default();
    let (path, query) = own.split_once('?').unwrap_or_default();
    assert_eq!(path, gateway.url("/webhook-response"));
    assert!(query.starts_with("token=v2."), "{own}");
    gateway.finish(&[&channel]).await
}

async fn an_answer_may_come_long_after_its_message(setup: Setup) -> anyhow::Result<Accounted> {
    let sessions = ScriptedServer::start(|_| Reply::ok()).await?;
    let plan = Plan::new(setup)?.sessions_server(sessions.url());
    let gateway = plan.start().await?;
    let body = r#"{"session_id":"unknown-session","response_data":null}"#;
    let answer = gateway.post("/webhook-response", body).await?.expect(202)?;
    assert_eq!(answer.json(), json!({"success": true}));
    assert_eq!(sessions.taken_at_least(1).await?[0].body, body);
    gateway.finish(&[&sessions]).await
}

async fn the_development_default_makes_a_round_trip_by_itself(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let gateway = Plan::new(setup)?.start().await?;
    gateway.send("echo", "newcomer").await?;
    let response = wait::until("the answer in the development inbox", async || {
        let inbox = gateway.get("/dev/sessions/newcomer").await.ok()?.json();
        inbox["responses"].as_array()?.first().cloned()
    })
    .await?;
    assert_eq!(response["text"], "Received message: 'Hello, newcomer!'");
    let forwarder = match setup {
        Setup::Embedded => "all",
        Setup::Servers => "forwarder",
    };
    let log = gateway.log(forwarder)?;
    assert!(log.contains("SESSIONS_SERVER is not set: answers go to the inbox"));
    gateway
        .finish_unaccounted("the echo channel and the inbox are the gateway's own")
        .await
}
