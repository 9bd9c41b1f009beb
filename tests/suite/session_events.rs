//! Clients that follow a session.

use anyhow::Context;
use harness::{
    gateway::{Accounted, Plan, Role, Setup, TestGateway},
    scripted::{Received, Reply, ScriptedServer},
    wait,
};
use reqwest::Method;
use serde_json::{Value, json};

on_both_setups! {
    a_client_gets_answers_inbound_messages_and_ends,
    a_client_that_continues_misses_nothing_over_a_restart,
    an_answer_stored_late_reaches_a_client_that_continues,
    a_stopping_ingress_ends_the_response,
    a_client_with_a_revoked_key_gets_no_further_events,
    too_many_clients_are_refused,
    a_wrong_event_id_is_refused,
}

const PATH: &str = "/sessions/s/events";

/// One event as it is sent.
#[derive(Debug, Clone)]
struct Sent {
    id: String,
    name: String,
    data: Value,
}

/// The events in a response. Comments and the lengths of chunks are left out.
fn events(text: &str) -> anyhow::Result<Vec<Sent>> {
    let blocks = text.split("\n\n").filter(|block| block.contains("data: "));
    let read = |block: &str| {
        let field = |name: &str| {
            let lines = block.lines();
            let value = lines.filter_map(|line| line.strip_prefix(name)).next_back();
            value.map(ToOwned::to_owned).context(block.to_owned())
        };
        Ok(Sent {
            id: field("id: ")?,
            name: field("event: ")?,
            data: serde_json::from_str(&field("data: ")?)?,
        })
    };
    blocks.map(read).collect()
}

/// The events that are stored after this one.
async fn stored(gateway: &TestGateway, after: Option<&str>) -> anyhow::Result<Vec<Sent>> {
    let headers: Vec<_> = after.iter().map(|id| ("last-event-id", *id)).collect();
    let path = format!("{PATH}?wait=0");
    let response = gateway.request(Method::GET, &path, &headers, "").await?;
    let response = response.expect(200)?;
    assert_eq!(response.header("content-type"), "text/event-stream");
    events(&response.text)
}

/// Waits until so many events are stored.
async fn until_stored(gateway: &TestGateway, count: usize) -> anyhow::Result<Vec<Sent>> {
    wait::until("the events", async || {
        let events = stored(gateway, None).await.ok()?;
        (events.len() >= count).then_some(events)
    })
    .await
}

/// A request of a client that goes on reading.
fn head(authorization: &str) -> String {
    format!("GET {PATH} HTTP/1.1\r\nHost: localhost\r\n{authorization}\r\n")
}

fn answering(request: &Received) -> Reply {
    // The line break stands between two tokens, and the escaped one in a text.
    Reply::answering(format!(
        "{{\"to\":\r\n{}, \"n\": \"a\\nb\"}}",
        json!(request.field("message"))
    ))
}

async fn a_client_gets_answers_inbound_messages_and_ends(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (gateway, channel, sessions) = Plan::new(setup)?.start_with_servers(answering).await?;
    let refusing = ScriptedServer::start(|_: &Received| Reply::status(400)).await?;
    gateway.register("refusing", &refusing.url()).await?;
    let mut client = gateway.connect().await?;
    client.write(&head("")).await?;
    client.until("text/event-stream").await?;
    let answered = gateway.send("c", "s").await?;
    let answer = client.until("\n\n").await?;
    let [answer] = &*events(&answer)? else {
        anyhow::bail!("{answer}");
    };
    assert_eq!(answer.name, "answer");
    assert_eq!(answer.data["message_id"], answered);
    assert_eq!(answer.data["channel_id"], "c");
    assert_eq!(answer.data["response_data"]["n"], "a\nb");
    let forwarded = sessions.taken_at_least(1).await?[0].webhook_id().to_owned();
    assert_eq!(answer.data["callback_id"], forwarded);
    let dead = gateway.send("refusing", "s").await?;
    let ended = client.until("\n\n").await?;
    let [ended] = &*events(&ended)? else {
        anyhow::bail!("{ended}");
    };
    assert_eq!(
        (&*ended.name, &ended.data["state"]),
        ("ended", &json!("dead"))
    );
    assert_eq!(ended.data["message_id"], dead);
    let said = json!({"session_id": "s", "data": {"text": "Hello"}});
    let key = json!({"name": "c", "role": "channel", "channels": ["c"]});
    let key = gateway.post("/api-keys", key).await?.expect(201)?;
    let key = format!("Bearer {}", key.field("key")?);
    let headers = [("webhook-id", "first"), ("authorization", &key)];
    let inbound = gateway
        .request(Method::POST, "/channel/c/inbound", &headers, said)
        .await?;
    let inbound = inbound.expect(202)?.field("message_id")?;
    let heard = client.until("\n\n").await?;
    let [heard] = &*events(&heard)? else {
        anyhow::bail!("{heard}");
    };
    assert_eq!(
        (&*heard.name, &heard.data["data"]),
        ("inbound", &json!({"text": "Hello"}))
    );
    assert_eq!(heard.data["message_id"], inbound);
    drop(client);
    gateway.finish(&[&channel, &sessions, &refusing]).await
}

async fn a_client_that_continues_misses_nothing_over_a_restart(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (mut gateway, channel, sessions) = Plan::new(setup)?.start_with_servers(answering).await?;
    let first = gateway.send("c", "s").await?;
    let seen = until_stored(&gateway, 1).await?;
    gateway.kill_and_restart_all().await?;
    let second = gateway.send("c", "s").await?;
    until_stored(&gateway, 2).await?;
    let last = &seen.last().context("an event")?.id;
    let later = stored(&gateway, Some(last)).await?;
    assert!(
        later.iter().any(|event| event.data["message_id"] == second),
        "{later:?}"
    );
    let all = stored(&gateway, None).await?;
    let ids: Vec<_> = all.iter().map(|event| &event.data["message_id"]).collect();
    assert_eq!(ids, [&json!(first), &json!(second)]);
    gateway.finish(&[&channel, &sessions]).await
}

/// The first of two answers is still in the journal when the second one is stored.
async fn an_answer_stored_late_reaches_a_client_that_continues(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (mut gateway, channel, sessions) = Plan::new(setup)?.start_with_servers(answering).await?;
    gateway.send("c", "s").await?;
    let last = until_stored(&gateway, 1).await?.remove(0).id;
    if gateway.roles().contains(&Role::Recorder) {
        gateway.stop(Role::Recorder).await?;
    }
    let late = gateway.send("c", "s").await?;
    sessions.taken_at_least(2).await?;
    gateway.start_all().await?;
    wait::until("the late answer", async || {
        let later = stored(&gateway, Some(&last)).await.ok()?;
        let found = later.iter().any(|event| event.data["message_id"] == late);
        found.then_some(())
    })
    .await?;
    gateway.finish(&[&channel, &sessions]).await
}

async fn a_stopping_ingress_ends_the_response(setup: Setup) -> anyhow::Result<Accounted> {
    let (mut gateway, channel, sessions) = Plan::new(setup)?.start_with_servers(answering).await?;
    let mut client = gateway.connect().await?;
    client.write(&head("")).await?;
    client.until("text/event-stream").await?;
    gateway.stop(Role::Ingress).await?;
    // The last chunk is empty, so the response is whole.
    let rest = client.rest().await?;
    assert!(rest.ends_with("0\r\n\r\n"), "{rest}");
    gateway.start_all().await?;
    gateway.finish(&[&channel, &sessions]).await
}

async fn a_client_with_a_revoked_key_gets_no_further_events(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (gateway, channel, sessions) = Plan::new(setup)?.start_with_servers(answering).await?;
    let key = json!({"name": "follower", "role": "viewer"});
    let key = gateway.post("/api-keys", key).await?.expect(201)?;
    let mut client = gateway.connect().await?;
    let authorization = format!("Authorization: Bearer {}\r\n", key.field("key")?);
    client.write(&head(&authorization)).await?;
    client.until("text/event-stream").await?;
    let path = format!("/api-keys/{}", key.field("key_id")?);
    gateway.delete(&path).await?.expect(200)?;
    // The last chunk is empty.
    client.until("0\r\n\r\n").await?;
    gateway.finish(&[&channel, &sessions]).await
}

async fn too_many_clients_are_refused(setup: Setup) -> anyhow::Result<Accounted> {
    let plan = Plan::new(setup)?.env("ROUNDTRIP__INGRESS__MAX_FOLLOWERS", "1");
    let (gateway, channel, sessions) = plan.start_with_servers(answering).await?;
    let mut client = gateway.connect().await?;
    client.write(&head("")).await?;
    client.until("text/event-stream").await?;
    let refused = gateway.get(PATH).await?.expect_retry_after(503)?;
    assert!(
        refused.text.contains("too-many-followers"),
        "{}",
        refused.text
    );
    drop(client);
    gateway.finish(&[&channel, &sessions]).await
}

async fn a_wrong_event_id_is_refused(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, channel, sessions) = Plan::new(setup)?.start_with_servers(answering).await?;
    let headers = [("last-event-id", "not an id")];
    let refused = gateway.request(Method::GET, PATH, &headers, "").await?;
    let refused = refused.expect(422)?;
    assert!(refused.text.contains("Last-Event-ID"), "{}", refused.text);
    for (parameters, named) in [("last_event_id=1", "last_event_id"), ("wait=soon", "wait")] {
        let refused = gateway
            .get(&format!("{PATH}?{parameters}"))
            .await?
            .expect(422)?;
        assert!(refused.text.contains(named), "{}", refused.text);
    }
    gateway.finish(&[&channel, &sessions]).await
}
