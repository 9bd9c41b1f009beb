//! Promises to producers: a repeat is no second message, and one call takes many.

use futures::future::try_join_all;
use harness::{
    gateway::{Accounted, Plan, Response, Role, Setup, TestGateway},
    scripted::{Reply, ScriptedServer},
    wait,
};
use reqwest::Method;
use serde_json::{Value, json};

on_both_setups! {
    a_repeated_message_is_delivered_once,
    repeats_at_once_are_delivered_once,
    an_idempotency_key_is_refused_for_another_message,
    a_batch_is_delivered_and_each_invalid_message_is_reported,
    a_full_batch_of_lines_is_delivered,
    the_location_of_an_accepted_message_leads_to_its_timeline,
    the_log_lines_of_a_request_have_its_id,
}

const MESSAGE: &str = "/channel/message";
const BATCH: &str = "/channel/messages";

async fn started(setup: Setup) -> anyhow::Result<(TestGateway, ScriptedServer)> {
    let plan = Plan::new(setup)?;
    plan.start_with_channel(|_| Reply::ok()).await
}

fn message(session: &str) -> Value {
    json!({"channel_id": "c", "session_id": session, "message": "m"})
}

/// Sends a message of this session under an idempotency key.
async fn keyed(gateway: &TestGateway, key: &str, session: &str) -> anyhow::Result<Response> {
    let headers = [("idempotency-key", key)];
    let body = message(session);
    gateway.request(Method::POST, MESSAGE, &headers, body).await
}

/// Ends a test in which this many messages were sent, the first one more than once. The single
/// dispatcher works in order, so earlier messages have come when one more has.
async fn end_with(
    gateway: TestGateway,
    channel: &ScriptedServer,
    first: &Response,
    count: usize,
) -> anyhow::Result<Accounted> {
    gateway.send("c", "last").await?;
    gateway.all_taken(&[channel]).await?;
    let id = first.field("message_id")?;
    assert_eq!(channel.taken_of(&id).len(), 1);
    assert_eq!(channel.taken().len(), count + 1);
    gateway.finish(&[channel]).await
}

async fn a_repeated_message_is_delivered_once(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, channel) = started(setup).await?;
    let first = keyed(&gateway, "order 1", "s").await?.expect(202)?;
    let again = keyed(&gateway, "order 1", "s").await?.expect(202)?;
    assert_eq!(first.text, again.text);
    assert_eq!(first.header("idempotent-replayed"), "");
    assert_eq!(again.header("idempotent-replayed"), "true");
    end_with(gateway, &channel, &first, 1).await
}

async fn repeats_at_once_are_delivered_once(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, channel) = started(setup).await?;
    let answers = try_join_all((0..10).map(|_| keyed(&gateway, "k", "s"))).await?;
    for answer in &answers {
        assert_eq!((answer.status, &answer.text), (202, &answers[0].text));
    }
    end_with(gateway, &channel, &answers[0], 1).await
}

async fn an_idempotency_key_is_refused_for_another_message(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (gateway, channel) = started(setup).await?;
    let first = keyed(&gateway, "k", "s").await?.expect(202)?;
    for (key, session) in [("k", "other"), ("", "s")] {
        let refused = keyed(&gateway, key, session).await?.expect(422)?;
        assert_eq!(refused.header("content-type"), "application/problem+json");
        let problem = refused.json();
        assert_eq!(problem["errors"][0]["field"], "idempotency-key");
    }
    end_with(gateway, &channel, &first, 1).await
}

async fn a_batch_is_delivered_and_each_invalid_message_is_reported(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (gateway, channel) = started(setup).await?;
    let unknown = json!({"channel_id": "unknown", "session_id": "s", "message": "m"});
    let batch = json!([message("a"), {"channel_id": "c"}, unknown, message("b")]);
    let answer = gateway.post(BATCH, batch).await?.expect(200)?.json();
    assert_eq!([&answer["accepted"], &answer["rejected"]], [2, 2]);
    let results = &answer["results"];
    assert_eq!(results[0]["session_id"], "a");
    assert_eq!(results[1]["status"], 422);
    assert_eq!(results[1]["errors"][0]["field"], "session_id");
    assert_eq!(results[2]["status"], 404);
    assert_eq!(results[3]["session_id"], "b");
    gateway.all_taken(&[&channel]).await?;
    let taken = channel.taken().into_iter();
    let mut sessions: Vec<_> = taken.map(|taken| taken.field("session_id")).collect();
    sessions.sort_unstable();
    assert_eq!(sessions, ["a", "b"]);
    gateway.finish(&[&channel]).await
}

async fn a_full_batch_of_lines_is_delivered(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, channel) = started(setup).await?;
    let lines = (0..1000).map(|number| message(&format!("s{number}")).to_string());
    let lines = lines.collect::<Vec<_>>().join("\n");
    let ndjson = [("content-type", "application/x-ndjson")];
    let answer = gateway.request(Method::POST, BATCH, &ndjson, lines).await?;
    let answer = answer.expect(200)?.json();
    assert_eq!([&answer["accepted"], &answer["rejected"]], [1000, 0]);
    gateway.all_taken(&[&channel]).await?;
    assert_eq!(channel.taken().len(), 1000);
    gateway.finish(&[&channel]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_store_a_key_cannot_be_kept_and_other_messages_go_on() -> anyhow::Result<()> {
    let (plan, proxy) = Plan::new(Setup::Servers)?.store_by_proxy().await?;
    let plan = plan.env("ROUNDTRIP__STORE__TIMEOUT", "500ms");
    let (gateway, channel) = plan.start_with_channel(|_| Reply::ok()).await?;
    gateway.send("c", "before").await?;
    channel.taken_at_least(1).await?;

    proxy.refuse();
    keyed(&gateway, "k", "keyed")
        .await?
        .expect_retry_after(503)?;
    gateway.send("c", "unkeyed").await?;

    proxy.resume();
    wait::until("the key to be taken", async || {
        let answer = keyed(&gateway, "k", "keyed").await.ok()?;
        (answer.status == 202).then_some(())
    })
    .await?;
    gateway.all_taken(&[&channel]).await?;
    assert_eq!(channel.taken().len(), 3);
    gateway.finish(&[&channel]).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_broker_no_key_is_remembered() -> anyhow::Result<()> {
    let (plan, proxy) = Plan::new(Setup::Servers)?.broker_by_proxy().await?;
    let (gateway, channel) = plan.start_with_channel(|_| Reply::ok()).await?;

    proxy.refuse();
    // The first publish finds the connection lost; from then on the broker is known to be
    // unavailable.
    wait::until("the broker to be reported as unavailable", async || {
        let answer = keyed(&gateway, "first", "first").await.ok()?;
        answer.text.contains("broker-unavailable").then_some(())
    })
    .await?;
    keyed(&gateway, "k", "one").await?.expect_retry_after(503)?;

    proxy.resume();
    // The same key for another message: 422 if the first one had been remembered.
    let taken = wait::until("the broker to be back", async || {
        let answer = keyed(&gateway, "k", "other").await.ok()?;
        (answer.status != 503).then_some(answer)
    })
    .await?;
    assert_eq!(taken.expect(202)?.header("idempotent-replayed"), "");
    gateway.all_taken(&[&channel]).await?;
    gateway.finish(&[&channel]).await.map(drop)
}

async fn the_location_of_an_accepted_message_leads_to_its_timeline(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (gateway, channel) = started(setup).await?;
    let sent = keyed(&gateway, "order 1", "s").await?.expect(202)?;
    let again = keyed(&gateway, "order 1", "s").await?.expect(202)?;
    let location = sent.header("location");
    assert_eq!(again.header("location"), location);
    let timeline = gateway.until(location, |_| true).await?;
    assert_eq!(timeline["message_id"], sent.field("message_id")?);
    gateway.all_taken(&[&channel]).await?;
    gateway.finish(&[&channel]).await
}

async fn the_log_lines_of_a_request_have_its_id(setup: Setup) -> anyhow::Result<Accounted> {
    let gateway = Plan::new(setup)?.start().await?;
    let headers = [("x-request-id", "from-the-client")];
    let path = "/dead-letters/replay";
    let asked = gateway.request(Method::POST, path, &headers, "{}").await?;
    let asked = asked.expect(202)?;
    assert_eq!(asked.header("x-request-id"), "from-the-client");
    let id = asked.field("replay_id")?;
    assert_eq!(asked.header("location"), format!("/replays/{id}"));
    let words = [
        &*id,
        "replay.created",
        "request{request_id=from-the-client}:",
    ];
    assert_eq!(gateway.logged(Role::Ingress, &words), 1);
    gateway.finish(&[]).await
}
