//! Callbacks: only the holder of a token can answer, and a repeated answer differs from a new one.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};
use harness::{
    gateway::{Accounted, CALLBACK_SECRET, Plan, Role, Setup, TestGateway},
    scripted::{Reply, forward_body},
    wait,
};
use roundtrip_model::{Clock, MessageId, SystemClock, TokenKeys, token::Claims};
use serde_json::Value;

on_both_setups! {
    a_thousand_forged_answers_are_refused_and_none_is_enqueued,
    the_answer_of_a_token_holder_arrives,
    a_bad_token_is_refused_even_with_open_callbacks,
    tokens_of_every_configured_secret_are_accepted,
    a_repeated_answer_is_accepted_once,
    a_repeated_answer_keeps_its_id_across_a_restart,
    an_answer_over_a_deliverys_limit_is_refused,
    a_channel_over_its_answer_rate_gets_429,
    the_token_of_a_deleted_channel_is_worth_nothing,
    readiness_warns_of_answers_with_tokens_of_another_key,
    a_token_is_in_no_log_no_timeline_and_no_dead_letter,
}

const CALLBACK_AUTH: &str = "ROUNDTRIP__CALLBACK_AUTH";
const ANSWER: &str = r#"{"session_id":"abc123","response_data":{"text":"hi"}}"#;
/// An answer of another session than the token's.
const OTHER_SESSION: &str = r#"{"session_id":"other","response_data":1}"#;
const OTHER_SECRET: &str = "another-secret-that-was-never-given-to-anyone";
/// No server listens here: the port is reserved.
const NOWHERE: &str = "http://127.0.0.1:1/";
const HOUR: Duration = Duration::from_hours(1);
const FORGED: usize = 1_000;
/// How many are in progress at once.
const AT_ONCE: usize = 16;

fn signed(setup: Setup) -> anyhow::Result<Plan> {
    Ok(Plan::new(setup)?.env(CALLBACK_AUTH, "signed"))
}

/// The ingress alone, with a channel `c` that gets no messages.
async fn ingress(plan: Plan) -> anyhow::Result<TestGateway> {
    let gateway = plan.start_ingress().await?;
    gateway.register("c", NOWHERE).await?;
    Ok(gateway)
}

/// Ends a test whose answers stay in the queue.
async fn end(gateway: TestGateway) -> anyhow::Result<Accounted> {
    let reason = "nothing but the ingress ran";
    gateway.finish_unaccounted(reason).await
}

/// A token for the session `abc123`, made with this secret, that expires an hour after `since`.
fn token(secret: &str, since: time::Duration) -> anyhow::Result<String> {
    let keys = TokenKeys::new([secret.as_bytes()])?;
    let claims = Claims {
        message_id: MessageId::generate(),
        channel_id: "c".parse()?,
        replay_count: 0,
    };
    let ends_at = SystemClock.now() + since + HOUR;
    Ok(keys.sign(&claims, &"abc123".parse()?, None, ends_at))
}

fn with(token: &str) -> String {
    format!("/webhook-response?token={token}")
}

/// The path of an answer to a new delivery.
fn good_path() -> anyhow::Result<String> {
    Ok(with(&token(CALLBACK_SECRET, time::Duration::ZERO)?))
}

/// Calls that must be refused.
fn forgeries() -> anyhow::Result<Vec<(String, &'static str)>> {
    let now = time::Duration::ZERO;
    let good = token(CALLBACK_SECRET, now)?;
    let (what, mac) = good.rsplit_once('.').context("a token")?;
    let other = token(CALLBACK_SECRET, now)?;
    let (_, other_mac) = other.rsplit_once('.').context("a token")?;
    let expired = token(CALLBACK_SECRET, -2 * time::Duration::HOUR)?;
    Ok(vec![
        ("/webhook-response".to_owned(), ANSWER),
        ("/webhook-response?tokens=x".to_owned(), ANSWER),
        (with(""), ANSWER),
        (with("nonsense"), ANSWER),
        (with(&good.replacen("v2", "v1", 1)), ANSWER),
        (with(what), ANSWER),
        (with(&format!("{what}.")), ANSWER),
        (with(&format!("{what}.{other_mac}")), ANSWER),
        (with(&format!("{what}.{mac}A")), ANSWER),
        (with(&token(OTHER_SECRET, now)?), ANSWER),
        (with(&expired), ANSWER),
        (with(&good), OTHER_SESSION),
        // The token comes first: an invalid body is not read.
        (with("nonsense"), "{"),
    ])
}

/// The problem of a refused answer, without the id of its request.
async fn refused(gateway: &TestGateway, path: &str, body: &str) -> anyhow::Result<String> {
    let mut problem = gateway.post(path, body).await?.expect(401)?.json();
    problem["request_id"].take();
    Ok(problem.to_string())
}

/// The refusals that the gateway's log counts.
fn counted(gateway: &TestGateway) -> Option<usize> {
    let log = gateway.log(Role::Ingress).ok()?;
    let lines = log.lines();
    let counts = lines
        .filter(|line| line.contains("callbacks.refused"))
        .flat_map(str::split_whitespace)
        .filter_map(|word| word.split_once('=')?.1.parse::<usize>().ok());
    Some(counts.sum())
}

async fn a_thousand_forged_answers_are_refused_and_none_is_enqueued(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let mut gateway = ingress(signed(setup)?).await?;
    let forgeries = forgeries()?;
    let calls = forgeries.iter().cycle().take(FORGED);
    let answers: BTreeSet<String> = stream::iter(calls)
        .map(|(path, body)| refused(&gateway, path, body))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    // All refusals are equal, so an attacker learns nothing from them.
    assert_eq!(answers.len(), 1, "{answers:?}");
    wait::until("all of them in the log's counts", async || {
        counted(&gateway).filter(|count| *count == FORGED)
    })
    .await?;
    assert_eq!(gateway.enqueued().await?, 0);
    gateway.finish(&[]).await
}

async fn the_answer_of_a_token_holder_arrives(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, channel, sessions) = signed(setup)?
        .start_with_servers(|_| Reply::answering("1"))
        .await?;
    let id = gateway.send("c", "abc123").await?;
    let forwards = sessions.taken_at_least(1).await?;
    assert_eq!(forwards[0].body, forward_body("abc123", &id, "1"));
    gateway.finish(&[&channel, &sessions]).await
}

async fn a_bad_token_is_refused_even_with_open_callbacks(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let open = Plan::new(setup)?.env(CALLBACK_AUTH, "open");
    let mut gateway = ingress(open).await?;
    let mut forgeries = forgeries()?;
    // Without a token it is the plain call of the client's specification.
    forgeries.retain(|(path, _)| path.contains("?token="));
    assert_eq!(forgeries.len(), 11);
    for (path, body) in forgeries {
        refused(&gateway, &path, body).await?;
    }
    let bare = gateway.post("/webhook-response", ANSWER).await?;
    bare.expect(202)?;
    // The valid one alone.
    assert_eq!(gateway.enqueued().await?, 1);
    end(gateway).await
}

async fn tokens_of_every_configured_secret_are_accepted(setup: Setup) -> anyhow::Result<Accounted> {
    let secrets = format!("{OTHER_SECRET},{CALLBACK_SECRET}");
    let plan = signed(setup)?.env("CALLBACK_SECRET", secrets);
    let mut gateway = ingress(plan).await?;
    let now = time::Duration::ZERO;
    for secret in [OTHER_SECRET, CALLBACK_SECRET] {
        let path = with(&token(secret, now)?);
        gateway.post(&path, ANSWER).await?.expect(202)?;
    }
    let unknown = with(&token(&OTHER_SECRET.to_uppercase(), now)?);
    refused(&gateway, &unknown, ANSWER).await?;
    assert_eq!(gateway.enqueued().await?, 2);
    end(gateway).await
}

/// An answer in the session `abc123` with this text.
fn saying(text: &str) -> String {
    format!(r#"{{"session_id":"abc123","response_data":"{text}"}}"#)
}

async fn a_repeated_answer_is_accepted_once(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, channel, sessions) = signed(setup)?.start_with_servers(|_| Reply::ok()).await?;
    let id = gateway.send("c", "abc123").await?;
    let path = channel.taken_at_least(1).await?[0].response_path()?;
    let (same, another) = (saying("same"), saying("another"));
    let at_once = stream::iter(0..50).map(|_| gateway.post(&path, &same));
    let answers: Vec<_> = at_once.buffer_unordered(AT_ONCE).try_collect().await?;
    for answer in answers {
        answer.expect(202)?;
    }
    gateway.post(&path, &another).await?.expect(202)?;
    sessions.taken_at_least(2).await?;
    let both_are_forwarded = |message: &Value| {
        let forwarded = message["timeline"].as_array().into_iter().flatten();
        let forwarded = forwarded.filter(|entry| entry["type"] == "forward_attempted");
        message["state"] == "forwarded" && forwarded.count() == 2
    };
    gateway.until_message(&id, both_are_forwarded).await?;
    let forwards = sessions.taken();
    let bodies: Vec<_> = forwards.iter().map(|forward| &*forward.body).collect();
    let expected = [r#""same""#, r#""another""#].map(|data| forward_body("abc123", &id, data));
    assert_eq!(bodies, expected);
    gateway.finish(&[&channel, &sessions]).await
}

async fn a_repeated_answer_keeps_its_id_across_a_restart(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (mut gateway, channel, sessions) =
        signed(setup)?.start_with_servers(|_| Reply::ok()).await?;
    let id = gateway.send("c", "abc123").await?;
    let path = channel.taken_at_least(1).await?[0].response_path()?;
    gateway.post(&path, saying("same")).await?.expect(202)?;
    sessions.taken_at_least(1).await?;
    gateway.restart(Role::Ingress).await?;
    for text in ["same", "another"] {
        gateway.post(&path, saying(text)).await?.expect(202)?;
    }
    let forwards = sessions.taken_at_least(3).await?;
    let ids = |data: &str| -> BTreeSet<String> {
        let body = forward_body("abc123", &id, data);
        let of = forwards.iter().filter(|forward| forward.body == body);
        of.map(|forward| forward.webhook_id().to_owned()).collect()
    };
    let (same, other) = (ids(r#""same""#), ids(r#""another""#));
    assert_eq!((same.len(), other.len()), (1, 1), "{forwards:?}");
    assert_ne!(same, other);
    gateway.finish(&[&channel, &sessions]).await
}

async fn an_answer_over_a_deliverys_limit_is_refused(setup: Setup) -> anyhow::Result<Accounted> {
    let plan = signed(setup)?.env("ROUNDTRIP__INGRESS__MAX_ANSWERS_PER_DELIVERY", "3");
    let mut gateway = ingress(plan).await?;
    let path = good_path()?;
    for text in ["1", "2", "3"] {
        gateway.post(&path, saying(text)).await?.expect(202)?;
    }
    let refused = gateway.post(&path, saying("4")).await?.expect(409)?;
    let kind = refused.field("type")?;
    assert!(kind.ends_with("too-many-answers"), "{kind}");
    // A repeat does not count as a further answer.
    gateway.post(&path, saying("2")).await?.expect(202)?;
    gateway
        .post(&good_path()?, saying("1"))
        .await?
        .expect(202)?;
    assert_eq!(gateway.enqueued().await?, 4);
    end(gateway).await
}

async fn a_channel_over_its_answer_rate_gets_429(setup: Setup) -> anyhow::Result<Accounted> {
    let plan = signed(setup)?.env("ROUNDTRIP__INGRESS__ANSWER_RATE_PER_CHANNEL", "1");
    let gateway = ingress(plan).await?;
    let refused = wait::until("a 429", async || {
        let answer = gateway.post(&good_path().ok()?, ANSWER).await.ok()?;
        (answer.status == 429).then_some(answer)
    })
    .await?;
    assert_eq!(refused.header("retry-after"), "1");
    end(gateway).await
}

async fn the_token_of_a_deleted_channel_is_worth_nothing(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let gateway = ingress(signed(setup)?).await?;
    let path = good_path()?;
    gateway.post(&path, saying("before")).await?.expect(202)?;
    gateway.delete("/channel/c").await?.expect(204)?;
    // The process that deleted it knows at once; others cache the channel a little longer.
    let problem = refused(&gateway, &path, &saying("after")).await?;
    assert!(
        problem.contains("the channel of this delivery was deleted"),
        "{problem}"
    );
    end(gateway).await
}

/// As when each role starts in a folder of its own and creates its own `callback.key`.
async fn readiness_warns_of_answers_with_tokens_of_another_key(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let mut gateway = ingress(signed(setup)?).await?;
    let (_, readiness) = gateway.ready(Role::Ingress).await?;
    assert!(
        !readiness.to_string().contains("CALLBACK_SECRET"),
        "{readiness}"
    );
    for refused_token in [
        "nonsense".to_owned(),
        token(OTHER_SECRET, time::Duration::ZERO)?,
    ] {
        refused(&gateway, &with(&refused_token), ANSWER).await?;
    }
    let (status, readiness) = gateway.ready(Role::Ingress).await?;
    assert_eq!(status, 200, "{readiness}");
    let warnings = readiness["warnings"].to_string();
    assert!(warnings.contains("1 answers were refused"), "{readiness}");
    assert!(warnings.contains("same CALLBACK_SECRET"), "{readiness}");
    gateway
        .until_logged(
            Role::Ingress,
            &["callbacks.refused", "unknown_key=1", "remedy"],
            1,
        )
        .await?;
    end(gateway).await
}

/// Another process, or another client of the database, may delete the channel.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_was_deleted_elsewhere_soon_answers_nothing() -> anyhow::Result<()> {
    let gateway = ingress(signed(Setup::Servers)?).await?;
    let path = good_path()?;
    gateway.post(&path, ANSWER).await?.expect(202)?;
    let channels = gateway.test_namespace()?.channels().await?;
    channels.delete_one(bson::doc! {"channel_id": "c"}).await?;
    wait::until("a refusal", async || {
        let answer = gateway.post(&path, ANSWER).await.ok()?;
        (answer.status == 401).then_some(())
    })
    .await?;
    end(gateway).await.map(drop)
}

async fn a_token_is_in_no_log_no_timeline_and_no_dead_letter(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    // The server's reply quotes the URL that it was given.
    let (mut gateway, channel) = signed(setup)?
        .env("ROUNDTRIP__LOG__LEVEL", "debug")
        .start_with_channel(|received| {
            Reply::status(400).body(format!("401 for {}", received.field("response_url")))
        })
        .await?;
    let id = gateway.send("c", "abc123").await?;
    let path = channel.received_at_least(1).await?[0].response_path()?;
    let (_, token) = path.split_once("token=").context("no token")?;
    refused(&gateway, &path, OTHER_SESSION).await?;
    gateway.until_dead("c", 1).await?;
    let dead = gateway.get("/dead-letters").await?.text;
    assert!(dead.contains("401 for"), "{dead}");
    let timeline = gateway.get(&format!("/channel/message/{id}")).await?.text;
    let mut texts = vec![dead, timeline];
    for role in gateway.roles() {
        gateway.stop(role).await?;
        texts.push(gateway.log(role)?);
    }
    for text in texts {
        let line = text.lines().find(|line| line.contains(token));
        assert_eq!(line, None);
    }
    gateway.finish(&[&channel]).await
}
