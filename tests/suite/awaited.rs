//! Producers that wait for the answer.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, ensure};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use futures::{
    StreamExt, TryStreamExt,
    future::{join, join_all, try_join_all},
    stream,
};
use harness::{
    gateway::{Accounted, Plan, Response, Role, Setup, TestGateway},
    http::plain_client,
    scripted::{Received, Reply, ScriptedServer},
    test_namespace::TestNamespace,
    wait,
};
use reqwest::{Method, RequestBuilder, header::CONTENT_TYPE};
use serde_json::{Value, json};

on_both_setups! {
    a_producer_that_waits_gets_the_answer,
    a_wait_without_an_answer_ends_with_202,
    a_repeated_message_gets_the_answer_of_the_first,
    a_stopping_ingress_ends_its_waits,
    a_long_poll_returns_with_the_answer,
    a_long_poll_returns_when_the_message_is_dead,
    a_token_that_names_another_mailbox_is_refused,
    a_key_that_is_revoked_during_a_wait_gets_no_answer,
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

async fn a_key_that_is_revoked_during_a_wait_gets_no_answer(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (gateway, channel, sessions) = plan(setup)?.start_with_servers(|_| Reply::ok()).await?;
    let key = json!({"name": "p", "role": "producer"});
    let key = gateway.post("/api-keys", key).await?.expect(201)?;
    let authorization = format!("Bearer {}", key.field("key")?);
    let headers = [LONG, ("authorization", authorization.as_str())];
    let answered = async {
        let path = channel.taken_at_least(1).await?[0].response_path()?;
        let revoked = format!("/api-keys/{}", key.field("key_id")?);
        gateway.delete(&revoked).await?.expect(200)?;
        let body = format!(r#"{{"session_id":"s","response_data":{ANSWER}}}"#);
        gateway.post(&path, body).await?.expect(202)
    };
    let (sent, answered) = join(send(&gateway, &headers), answered).await;
    answered?;
    assert_eq!(sent?.expect(202)?.json()["status"], "queued");
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

/// The message's id is the first part of what a token names, and ends with the mailbox.
async fn a_token_that_names_another_mailbox_is_refused(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, channel, sessions) = plan(setup)?.start_with_servers(|_| Reply::ok()).await?;
    let forging = async {
        let path = channel.taken_at_least(1).await?[0].response_path()?;
        let mut parts: Vec<_> = path.split('.').map(str::to_owned).collect();
        let what = parts.get_mut(2).context("a token")?;
        let mut bytes = BASE64_URL_SAFE_NO_PAD.decode(&what)?;
        bytes[15] ^= 1;
        *what = BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let answer = format!(r#"{{"session_id":"s","response_data":{ANSWER}}}"#);
        gateway.post(&parts.join("."), &answer).await?.expect(401)?;
        gateway.post(&path, &answer).await?.expect(202)
    };
    let (answered, forged) = join(send(&gateway, &[LONG]), forging).await;
    forged?;
    answered?.expect(200)?;
    gateway.finish(&[&channel, &sessions]).await
}

/// How long many waits may take on a busy machine.
const MANY_WAITS: Duration = Duration::from_mins(4);

/// A gateway, and one more ingress on its servers.
struct TwoIngresses {
    servers: TestNamespace,
    first: TestGateway,
    second: TestGateway,
    urls: [String; 2],
    client: reqwest::Client,
    channel: ScriptedServer,
    sessions: ScriptedServer,
}

impl TwoIngresses {
    async fn start() -> anyhow::Result<Self> {
        let servers = TestNamespace::fresh()?;
        let plan = || -> anyhow::Result<Plan> {
            let plan = Plan::on(servers.engines(), &servers.name)?;
            Ok(plan.env("ROUNDTRIP__INGRESS__MAX_WAIT", "10m"))
        };
        let (first, channel, sessions) = plan()?.start_with_servers(|_| Reply::ok()).await?;
        // The dispatcher gives a token only to its own public URL.
        let second = plan()?.env("ROUNDTRIP__PUBLIC_URL", first.url(""));
        let second = second.start_ingress().await?;
        Ok(Self {
            urls: [&first, &second].map(|gateway| gateway.url("/channel/message")),
            servers,
            first,
            second,
            client: plain_client()?,
            channel,
            sessions,
        })
    }

    async fn finish(mut self) -> anyhow::Result<()> {
        if self.second.process(Role::Ingress)?.is_started() {
            self.second.stop(Role::Ingress).await?;
        }
        let _ = self.first.finish(&[&self.channel, &self.sessions]).await?;
        let reason = "its answers went to the sessions server of the first";
        let _ = self.second.finish_unaccounted(reason).await?;
        self.servers.remove().await
    }
}

/// A message in a session of its own, for whose answer the producer waits.
fn numbered(client: &reqwest::Client, urls: &[String; 2], number: usize) -> RequestBuilder {
    let message = json!({"channel_id": "c", "session_id": number.to_string(), "message": 1});
    let request = client.post(&urls[number % 2]).timeout(MANY_WAITS);
    let request = request
        .header(LONG.0, LONG.1)
        .header(CONTENT_TYPE, "application/json");
    request.body(message.to_string())
}

/// The deliveries of this many messages, each with its number.
async fn deliveries(
    channel: &ScriptedServer,
    count: usize,
) -> anyhow::Result<Vec<(usize, Received)>> {
    let taken = wait::until_within(MANY_WAITS, format!("{count} deliveries"), async || {
        Some(channel.taken()).filter(|taken| taken.len() >= count)
    });
    let numbered = |delivery: Received| Ok((delivery.field("session_id").parse()?, delivery));
    taken.await?.into_iter().map(numbered).collect()
}

/// Answers this delivery with its number.
async fn answer(to: &TestGateway, (number, delivery): &(usize, Received)) -> anyhow::Result<()> {
    let body = json!({"session_id": number.to_string(), "response_data": number});
    let posted = to.post(&delivery.response_path()?, body).await?;
    posted.expect(202).map(drop)
}

fn check_answered(number: usize, response: anyhow::Result<Response>) -> anyhow::Result<()> {
    let response = response?.expect(200)?;
    let answer = &response.json()["answer"]["response_data"];
    ensure!(answer == number, "{number}: {}", response.text);
    Ok(())
}

/// Half of them at each of two processes. Each answer is posted to the other process.
#[tokio::test(flavor = "multi_thread")]
async fn each_of_a_thousand_waits_gets_its_own_answer() -> anyhow::Result<()> {
    const WAITS: usize = 1_000;
    let two = TwoIngresses::start().await?;
    let waits = (0..WAITS).map(async |number| {
        let request = numbered(&two.client, &two.urls, number);
        check_answered(number, two.first.exchange(request).await)
    });
    let answers = async {
        let deliveries = deliveries(&two.channel, WAITS).await?;
        try_join_all(deliveries.iter().map(async |delivery| {
            let other = if delivery.0.is_multiple_of(2) {
                &two.second
            } else {
                &two.first
            };
            answer(other, delivery).await
        }))
        .await
    };
    let (waited, answered) = join(try_join_all(waits), answers).await;
    answered?;
    waited?;
    two.finish().await
}

/// One of two processes is killed after a quarter of the answers, and the other one gets the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_ingress_breaks_only_its_own_waits() -> anyhow::Result<()> {
    const WAITS: usize = 200;
    const POLLS_AT_ONCE: usize = 16;
    let mut two = TwoIngresses::start().await?;
    let waits = (0..WAITS).map(async |number| {
        let request = numbered(&two.client, &two.urls, number);
        two.first.exchange(request).await
    });
    let answers = async {
        let deliveries = deliveries(&two.channel, WAITS).await?;
        let (early, late) = deliveries.split_at(WAITS / 4);
        try_join_all(early.iter().map(|delivery| answer(&two.first, delivery))).await?;
        two.second.process(Role::Ingress)?.kill().await?;
        try_join_all(late.iter().map(|delivery| answer(&two.first, delivery))).await?;
        let late = late.iter().map(|(number, _)| *number).collect();
        anyhow::Ok((late, deliveries))
    };
    let (waited, answered) = join(join_all(waits), answers).await;
    let (late, deliveries): (BTreeSet<usize>, _) = answered?;
    for (number, response) in waited.into_iter().enumerate() {
        if number.is_multiple_of(2) {
            check_answered(number, response)?;
        } else if let Err(broken) = response {
            let broken = broken.downcast::<reqwest::Error>()?;
            ensure!(!broken.is_timeout(), "{number}: {broken}");
        } else {
            ensure!(!late.contains(&number), "{number} has a response");
            check_answered(number, response)?;
        }
    }
    let polls = stream::iter(&deliveries).map(async |(number, delivery)| {
        let message = polled(&two.first, delivery.webhook_id()).await?;
        let answer = &message["answers"][0]["response_data"];
        ensure!(answer == number, "{message}");
        Ok(())
    });
    polls
        .buffer_unordered(POLLS_AT_ONCE)
        .try_collect::<()>()
        .await?;
    two.finish().await
}
