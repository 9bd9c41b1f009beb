//! The main job: a message goes out, its answer comes back.

use harness::{
    gateway::{Accounted, Plan, Role, Setup},
    scripted::{Reply, ScriptedServer, forward_body},
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
    let (gateway, channel, sessions) = Plan::new(setup)?
        .start_with_servers(|_| Reply::answering(RESPONSE))
        .await?;
    let id = gateway.send("c", "abc123").await?;
    let forwards = sessions.taken_at_least(1).await?;
    assert_eq!(forwards[0].body, forward_body("abc123", &id, RESPONSE));
    assert!(forwards[0].webhook_id().starts_with("cb_"));
    gateway.finish(&[&channel, &sessions]).await
}

async fn a_delivery_is_exactly_the_three_fields(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, channel) = Plan::new(setup)?
        .start_with_channel(|_| Reply::ok())
        .await?;
    let url = "http://somewhere.example/else?x=1";
    let body = format!(
        r#"{{"response_url":"{url}","message":{MESSAGE},"session_id":"abc123","channel_id":"c"}}"#
    );
    let accepted = gateway.post("/channel/message", body).await?.expect(202)?;
    let without_url = gateway.send("c", "without-a-url").await?;
    channel.taken_at_least(2).await?;
    let first = channel.taken_of(&accepted.field("message_id")?);
    let expected =
        format!(r#"{{"session_id":"abc123","message":{MESSAGE},"response_url":"{url}"}}"#);
    assert_eq!(first[0].body, expected);
    // The gateway's own URL, with the token that identifies the message.
    let own = channel.taken_of(&without_url)[0].field("response_url");
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
    let responses = gateway.until_in_inbox("newcomer", 1).await?;
    assert_eq!(responses[0]["text"], "Received message: 'Hello, newcomer!'");
    let warning = "SESSIONS_SERVER is not set: answers go to the inbox";
    assert_eq!(gateway.logged(Role::Forwarder, &[warning]), 1);
    let reason = "the echo channel and the inbox are the gateway's own";
    gateway.finish_unaccounted(reason).await
}
