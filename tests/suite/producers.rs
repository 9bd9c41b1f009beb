//! Promises to producers: a repeat is no second message, and one call takes many.

use futures::future::try_join_all;
use harness::{
    gateway::{Accounted, Answer, Plan, Setup, TestGateway},
    proxy::Proxy,
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

fn message(session: &str) -> Value {
    json!({"channel_id": "c", "session_id": session, "message": "m"})
}

async fn keyed(gateway: &TestGateway, key: &str, body: &Value) -> anyhow::Result<Answer> {
    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", key),
    ];
    let path = "/channel/message";
    let body = body.to_string();
    gateway.request(Method::POST, path, &headers, body).await
}

/// How many times a message came to the server.
fn came(channel: &ScriptedServer, answer: &Answer) -> usize {
    let id = answer.json()["message_id"].clone();
    let taken = channel.taken();
    taken
        .iter()
        .filter(|taken| id == *taken.webhook_id())
        .count()
}

/// Sends one more and waits for it. The single dispatcher works in order, so earlier messages have
/// come by then.
async fn after_all_others(gateway: &TestGateway, channel: &ScriptedServer) -> anyhow::Result<()> {
    gateway.send("c", "last").await?;
    gateway.all_taken(&[channel]).await
}

async fn a_repeated_message_is_delivered_once(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let gateway = Plan::new(setup)?.start().await?;
    gateway.register("c", &channel.url()).await?;
    let first = keyed(&gateway, "order 1", &message("s"))
        .await?
        .expect(202)?;
    let again = keyed(&gateway, "order 1", &message("s"))
        .await?
        .expect(202)?;
    assert_eq!(first.text, again.text);
    assert_eq!(first.header("idempotent-replayed"), "");
    assert_eq!(again.header("idempotent-replayed"), "true");
    after_all_others(&gateway, &channel).await?;
    assert_eq!(came(&channel, &first), 1);
    assert_eq!(channel.taken().len(), 2);
    gateway.finish(&[&channel]).await
}

async fn repeats_at_once_are_delivered_once(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let gateway = Plan::new(setup)?.start().await?;
    gateway.register("c", &channel.url()).await?;
    let body = message("s");
    let answers = try_join_all((0..10).map(|_| keyed(&gateway, "k", &body))).await?;
    for answer in &answers {
        assert_eq!((answer.status, &answer.text), (202, &answers[0].text));
    }
    after_all_others(&gateway, &channel).await?;
    assert_eq!(came(&channel, &answers[0]), 1);
    assert_eq!(channel.taken().len(), 2);
    gateway.finish(&[&channel]).await
}

async fn an_idempotency_key_is_refused_for_another_message(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let gateway = Plan::new(setup)?.start().await?;
    gateway.register("c", &channel.url()).await?;
    keyed(&gateway, "k", &message("s")).await?.expect(202)?;
    for (key, body) in [("k", message("other")), ("", message("s"))] {
        let refused = keyed(&gateway, key, &body).await?.expect(422)?;
        assert_eq!(refused.header("content-type"), "application/problem+json");
        let problem = refused.json();
        assert_eq!(problem["errors"][0]["field"], "idempotency-key");
    }
    after_all_others(&gateway, &channel).await?;
    assert_eq!(channel.taken().len(), 2);
    gateway.finish(&[&channel]).await
}

async fn a_batch_is_delivered_and_each_invalid_message_is_reported(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let gateway = Plan::new(setup)?.start().await?;
    gateway.register("c", &channel.url()).await?;
    let unknown = json!({"channel_id": "unknown", "session_id": "s", "message": "m"});
    let batch = json!([message("a"), {"channel_id": "c"}, unknown, message("b")]);
    let answer = gateway.post("/channel/messages", batch.to_string()).await?;
    let answer = answer.expect(200)?.json();
    assert_eq!(
        (&answer["accepted"], &answer["rejected"]),
        (&2.into(), &2.into())
    );
    let results = &answer["results"];
    assert_eq!(results[0]["session_id"], "a");
    assert_eq!(results[1]["status"], 422);
    assert_eq!(results[1]["errors"][0]["field"], "session_id");
    assert_eq!(results[2]["status"], 404);
    assert_eq!(results[3]["session_id"], "b");
    gateway.all_taken(&[&channel]).await?;
    let mut came: Vec<_> = channel
        .taken()
        .iter()
        .map(|taken| taken.field("session_id"))
        .collect();
    came.sort_unstable();
    assert_eq!(came, ["a", "b"]);
    gateway.finish(&[&channel]).await
}

async fn a_full_batch_of_lines_is_delivered(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let gateway = Plan::new(setup)?.start().await?;
    gateway.register("c", &channel.url()).await?;
    let lines: Vec<_> = (0..1000)
        .map(|number| message(&format!("s{number}")).to_string())
        .collect();
    let ndjson = [("content-type", "application/x-ndjson")];
    let path = "/channel/messages";
    let answer = gateway
        .request(Method::POST, path, &ndjson, lines.join("\n"))
        .await?;
    let answer = answer.expect(200)?.json();
    assert_eq!(
        (&answer["accepted"], &answer["rejected"]),
        (&1000.into(), &0.into())
    );
    gateway.all_taken(&[&channel]).await?;
    assert_eq!(channel.taken().len(), 1000);
    gateway.finish(&[&channel]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_store_a_key_cannot_be_kept_and_other_messages_go_on() -> anyhow::Result<()> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let plan = Plan::new(Setup::Servers)?;
    let (url, proxy) = plan.test_namespace()?.store_by_proxy().await?;
    let gateway = plan
        .env("STORE_URL", url)
        .env("ROUNDTRIP__STORE__TIMEOUT", "500ms")
        .start()
        .await?;
    gateway.register("c", &channel.url()).await?;
    gateway.send("c", "before").await?;
    channel.taken_at_least(1).await?;

    proxy.refuse();
    let refused = keyed(&gateway, "k", &message("keyed")).await?.expect(503)?;
    assert!(refused.header("retry-after").parse::<u64>().is_ok());
    gateway.send("c", "unkeyed").await?;

    proxy.resume();
    wait::until("the key to be taken", async || {
        let answer = keyed(&gateway, "k", &message("keyed")).await.ok()?;
        (answer.status == 202).then_some(())
    })
    .await?;
    gateway.all_taken(&[&channel]).await?;
    assert_eq!(channel.taken().len(), 3);
    gateway.finish(&[&channel]).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_broker_no_key_is_remembered() -> anyhow::Result<()> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let plan = Plan::new(Setup::Servers)?;
    let (url, proxy) = plan.test_namespace()?.broker_by_proxy().await?;
    let gateway = plan.env("BROKER_URL", url).start().await?;
    gateway.register("c", &channel.url()).await?;

    Proxy::refuse(&proxy);
    // The first publish finds the connection lost; from then on the broker is known to be
    // unavailable.
    wait::until("the broker to be reported as unavailable", async || {
        let answer = keyed(&gateway, "first", &message("first")).await.ok()?;
        answer.text.contains("broker-unavailable").then_some(())
    })
    .await?;
    let refused = keyed(&gateway, "k", &message("one")).await?.expect(503)?;
    assert!(refused.header("retry-after").parse::<u64>().is_ok());

    proxy.resume();
    // The same key for another message: 422 if the first one had been remembered.
    let taken = wait::until("the broker to be back", async || {
        let answer = keyed(&gateway, "k", &message("other")).await.ok()?;
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
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let gateway = Plan::new(setup)?.start().await?;
    gateway.register("c", &channel.url()).await?;
    let sent = keyed(&gateway, "order 1", &message("s")).await?;
    let sent = sent.expect(202)?;
    let again = keyed(&gateway, "order 1", &message("s")).await?;
    let location = sent.header("location");
    assert_eq!(again.expect(202)?.header("location"), location);
    let timeline = wait::until("the message's timeline", async || {
        let answer = gateway.get(location).await.ok()?;
        (answer.status == 200).then(|| answer.json())
    });
    assert_eq!(timeline.await?["message_id"], sent.json()["message_id"]);
    gateway.all_taken(&[&channel]).await?;
    gateway.finish(&[&channel]).await
}

async fn the_log_lines_of_a_request_have_its_id(setup: Setup) -> anyhow::Result<Accounted> {
    let gateway = Plan::new(setup)?.start().await?;
    let headers = [
        ("content-type", "application/json"),
        ("x-request-id", "from-the-client"),
    ];
    let path = "/dead-letters/replay";
    let asked = gateway.request(Method::POST, path, &headers, "{}").await?;
    let asked = asked.expect(202)?;
    assert_eq!(asked.header("x-request-id"), "from-the-client");
    let id = asked.json()["replay_id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert_eq!(asked.header("location"), format!("/replays/{id}"));
    let log = gateway.log(&gateway.having("ingress"))?;
    let line = log
        .lines()
        .find(|line| line.contains(&id) && line.contains("asked_for"));
    let line = line.unwrap_or_default();
    let named = "request{request_id=from-the-client}:";
    assert!(line.contains(named), "{line}");
    gateway.finish(&[]).await
}
