//! Signatures: the official Standard Webhooks libraries accept what the gateway sends and refuse
//! what was altered. A secret is shown once.

use std::{fs, os::unix::fs::PermissionsExt};

use anyhow::Context;
use bson::doc;
use harness::{
    gateway::{Accounted, Plan, Setup, TestGateway},
    scripted::{Received, Reply, ScriptedServer},
    verifier::{Check, Library, believed},
    wait,
};
use reqwest::Method;
use serde_json::{Value, json};

on_both_setups! {
    deliveries_and_forwards_are_believed_and_tampered_ones_are_not,
    during_a_rotation_both_secrets_sign,
    a_secret_outlives_a_restart,
    each_try_is_signed_for_itself,
    a_secret_is_shown_once_and_kept_sealed,
    a_rotation_that_cannot_be_is_named,
}

const SESSIONS_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OLD_SESSIONS_SECRET: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
/// A secret of no channel.
const STRANGERS_SECRET: &str = "whsec_c3RyYW5nZXJzIHNlY3JldCBvZiAzMiBieXRlcyEhISE=";
/// Numbers beyond a double, and an escape: the signature covers the exact text.
const RESPONSE: &str = r#"{"n":12345678901234567890.10,"text":"caf\u00e9 ü"}"#;
/// Every role soon sees a rotation.
const CACHE_TTL: (&str, &str) = ("ROUNDTRIP__STORE__CACHE_TTL", "20ms");

fn plan(setup: Setup) -> anyhow::Result<Plan> {
    Ok(Plan::new(setup)?.env(CACHE_TTL.0, CACHE_TTL.1))
}

/// Registers a channel and returns its secret.
async fn register(
    gateway: &TestGateway,
    id: &str,
    channel: &ScriptedServer,
) -> anyhow::Result<String> {
    let body = json!({"channel_id": id, "channel_metadata": {"endpoint_url": channel.url()}});
    let created = gateway
        .post("/channel", body.to_string())
        .await?
        .expect(201)?;
    secret(&created.json())
}

async fn rotate(gateway: &TestGateway, id: &str, body: &str) -> anyhow::Result<String> {
    let path = format!("/channel/{id}/secret/rotate");
    let rotated = gateway.post(&path, body).await?.expect(200)?.json();
    assert_eq!(rotated["channel_id"], id);
    secret(&rotated)
}

fn secret(answer: &Value) -> anyhow::Result<String> {
    let secret = answer["signing_secret"].as_str().context("no secret")?;
    anyhow::ensure!(secret.starts_with("whsec_"), "{secret}");
    Ok(secret.to_owned())
}

fn signatures(received: &Received) -> usize {
    let header = received.headers.get("webhook-signature");
    header
        .and_then(|header| header.to_str().ok())
        .map_or(0, |header| header.split(' ').count())
}

/// Sends until a delivery has this many signatures, and returns it.
async fn delivery_with(
    gateway: &TestGateway,
    channel: &ScriptedServer,
    count: usize,
) -> anyhow::Result<Received> {
    wait::until(format!("a delivery with {count} signatures"), async || {
        let id = gateway.send("c", "again").await.ok()?;
        let delivered = wait::until("the delivery", async || {
            let taken = channel.taken();
            taken.into_iter().find(|taken| taken.webhook_id() == id)
        });
        delivered
            .await
            .ok()
            .filter(|delivery| signatures(delivery) == count)
    })
    .await
}

/// Both libraries must give these results.
async fn expect(checks: &[(Check, bool)]) -> anyhow::Result<()> {
    let (requests, expected): (Vec<_>, Vec<_>) = checks.iter().cloned().unzip();
    for library in Library::ALL {
        let said = believed(library, &requests).await?;
        assert_eq!(said, expected, "{library:?}: {requests:?}");
    }
    Ok(())
}

/// The request unchanged, and with each signed part altered.
fn with_a_tampered_copy(secret: &str, received: &Received) -> Vec<(Check, bool)> {
    let check = || Check::new(secret, received);
    let text = |name: &str| {
        let value = received.headers.get(name);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let later = text("webhook-timestamp").parse::<i64>().unwrap_or_default() + 1;
    let (version, signature) = text("webhook-signature").split_at(3);
    // Changes the first character, whatever it is.
    let another = if signature.starts_with('+') { '/' } else { '+' };
    let turned: String = std::iter::once(another)
        .chain(signature.chars().skip(1))
        .collect();
    vec![
        (check(), true),
        (check().body(&format!("{} ", received.body)), false),
        (check().body(&received.body.replacen('a', "b", 1)), false),
        (
            check().header("webhook-id", format!("{}0", received.webhook_id())),
            false,
        ),
        (
            check().header("webhook-timestamp", later.to_string()),
            false,
        ),
        (check().header("webhook-timestamp", "1614265330"), false),
        (
            check().header("webhook-signature", format!("{version}{turned}")),
            false,
        ),
        (check().header("webhook-signature", "v1,"), false),
        (Check::new(STRANGERS_SECRET, received), false),
    ]
}

async fn deliveries_and_forwards_are_believed_and_tampered_ones_are_not(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::answering(RESPONSE)).await?;
    let sessions = ScriptedServer::start(|_| Reply::ok()).await?;
    let gateway = plan(setup)?
        .sessions_server(sessions.url())
        .env("SESSIONS_SECRET", SESSIONS_SECRET)
        .start()
        .await?;
    let secret = register(&gateway, "c", &channel).await?;
    gateway.send("c", "abc123").await?;
    let forward = &sessions.taken_at_least(1).await?[0];
    let delivery = &channel.taken_at_least(1).await?[0];
    let mut checks = with_a_tampered_copy(&secret, delivery);
    checks.extend(with_a_tampered_copy(SESSIONS_SECRET, forward));
    checks.push((Check::new(SESSIONS_SECRET, delivery), false));
    checks.push((Check::new(&secret, forward), false));
    expect(&checks).await?;
    gateway.finish(&[&channel, &sessions]).await
}

async fn during_a_rotation_both_secrets_sign(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let sessions = ScriptedServer::start(|_| Reply::ok()).await?;
    let both = format!("{SESSIONS_SECRET},{OLD_SESSIONS_SECRET}");
    let gateway = plan(setup)?
        .sessions_server(sessions.url())
        .env("SESSIONS_SECRET", both)
        .start()
        .await?;
    let answer = r#"{"session_id":"s","response_data":1}"#;
    gateway
        .post("/webhook-response", answer)
        .await?
        .expect(202)?;
    let forward = &sessions.taken_at_least(1).await?[0];
    let first = register(&gateway, "c", &channel).await?;
    let second = rotate(&gateway, "c", "").await?;
    let during = delivery_with(&gateway, &channel, 2).await?;
    let mut checks = Vec::new();
    for (secret, received) in [
        (SESSIONS_SECRET, forward),
        (OLD_SESSIONS_SECRET, forward),
        (&first, &during),
        (&second, &during),
    ] {
        checks.push((Check::new(secret, received), true));
        checks.push((Check::new(secret, received).body("{}"), false));
        checks.push((
            Check::new(secret, received).header("webhook-id", "msg_0"),
            false,
        ));
        checks.push((Check::new(STRANGERS_SECRET, received), false));
    }
    // Without an overlap the old secrets end at once.
    let third = rotate(&gateway, "c", r#"{"overlap": "0s"}"#).await?;
    let after = delivery_with(&gateway, &channel, 1).await?;
    checks.push((Check::new(&third, &after), true));
    checks.push((Check::new(&second, &after), false));
    checks.push((Check::new(&first, &after), false));
    expect(&checks).await?;
    gateway.finish(&[&channel, &sessions]).await
}

async fn a_secret_outlives_a_restart(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let mut gateway = plan(setup)?.start().await?;
    let secret = register(&gateway, "c", &channel).await?;
    for name in gateway.names() {
        gateway.stop(&name).await?;
    }
    for name in gateway.names() {
        gateway.process(&name)?.restart().await?;
    }
    let delivery = delivery_with(&gateway, &channel, 1).await?;
    expect(&[(Check::new(&secret, &delivery), true)]).await?;
    gateway.finish(&[&channel]).await
}

async fn each_try_is_signed_for_itself(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|received| match received.attempt {
        1 => Reply::status(500),
        _ => Reply::ok(),
    })
    .await?;
    // More than a second even when a fifth shorter: timestamps have whole seconds.
    let gateway = plan(setup)?.schedule("1500ms").start().await?;
    let secret = register(&gateway, "c", &channel).await?;
    gateway.send("c", "abc123").await?;
    channel.taken_at_least(1).await?;
    let attempts = channel.received();
    assert_eq!(attempts[0].webhook_id(), attempts[1].webhook_id());
    let timestamp = |received: &Received| received.headers.get("webhook-timestamp").cloned();
    assert_ne!(timestamp(&attempts[0]), timestamp(&attempts[1]));
    let checks: Vec<_> = attempts
        .iter()
        .map(|received| (Check::new(&secret, received), true))
        .collect();
    expect(&checks).await?;
    gateway.finish(&[&channel]).await
}

async fn a_secret_is_shown_once_and_kept_sealed(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let mut gateway = plan(setup)?
        .env("ROUNDTRIP__LOG__LEVEL", "debug")
        .start()
        .await?;
    let secrets = [
        register(&gateway, "c", &channel).await?,
        rotate(&gateway, "c", "{}").await?,
    ];
    delivery_with(&gateway, &channel, 2).await?;
    let again = json!({"channel_id": "c", "channel_metadata": {"endpoint_url": channel.url()}});
    let json = [("content-type", "application/json")];
    let change = r#"{"channel_description": "Updated"}"#;
    let mut shown = vec![
        gateway.get("/channel/c").await?.expect(200)?.text,
        gateway.post("/channels", "{}").await?.expect(200)?.text,
        gateway
            .request(Method::PUT, "/channel/c", &json, change)
            .await?
            .expect(200)?
            .text,
        gateway
            .post("/channel", again.to_string())
            .await?
            .expect(409)?
            .text,
        gateway
            .post("/channel/c/pause", "")
            .await?
            .expect(200)?
            .text,
        gateway
            .post("/channel/c/resume", "")
            .await?
            .expect(200)?
            .text,
        gateway.get("/messages").await?.expect(200)?.text,
    ];
    for name in gateway.names() {
        gateway.stop(&name).await?;
        shown.push(gateway.log(&name)?);
    }
    if setup == Setup::Embedded {
        let file = fs::read(gateway.folder().join("store.db"))?;
        shown.push(String::from_utf8_lossy(&file).into_owned());
        let key = fs::metadata(gateway.folder().join("encryption.key"))?;
        assert_eq!(key.permissions().mode() & 0o777, 0o600);
    } else {
        let client =
            mongodb::Client::with_uri_str(gateway.test_namespace()?.store.as_str()).await?;
        let database = client.database(&gateway.test_namespace()?.name);
        let kept = database.collection::<bson::Document>("channel_secrets");
        let kept = kept.find_one(doc! { "_id": "c" }).await?;
        shown.push(kept.context("nothing is kept")?.to_string());
    }
    for secret in &secrets {
        let base64 = secret.trim_start_matches("whsec_");
        for text in &shown {
            assert!(!text.contains(base64) && !text.contains("whsec_"), "{text}");
        }
    }
    gateway.finish(&[&channel]).await
}

async fn a_rotation_that_cannot_be_is_named(setup: Setup) -> anyhow::Result<Accounted> {
    let gateway = plan(setup)?.ingress_only().start().await?;
    gateway.register("c", "http://127.0.0.1:9/").await?;
    for (path, body, status, field) in [
        (
            "/channel/c/secret/rotate",
            r#"{"overlap": "31days"}"#,
            422,
            Some("overlap"),
        ),
        (
            "/channel/c/secret/rotate",
            r#"{"overlap": "soon"}"#,
            422,
            Some("overlap"),
        ),
        (
            "/channel/c/secret/rotate",
            r#"{"secret": "whsec_x"}"#,
            422,
            Some("secret"),
        ),
        ("/channel/c/secret/rotate", "{", 400, None),
        ("/channel/unknown/secret/rotate", "", 404, None),
    ] {
        let answer = gateway.post(path, body).await?.expect(status)?.json();
        assert_eq!(
            answer["errors"][0]["field"].as_str(),
            field,
            "{body}: {answer}"
        );
    }
    gateway.finish(&[]).await
}

/// A channel written directly into MongoDB has no secret until a rotation makes one.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_another_client_wrote_goes_unsigned_until_a_secret_is_made()
-> anyhow::Result<()> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let gateway = plan(Setup::Servers)?.start().await?;
    let channels = gateway.test_namespace()?.channels().await?;
    let document = doc! {
        "channel_id": "c", "channel_name": "", "channel_description": "", "channel_tags": [],
        "channel_metadata": {"endpoint_url": channel.url()},
    };
    channels.insert_one(document).await?;
    delivery_with(&gateway, &channel, 0).await?;
    let secret = rotate(&gateway, "c", "").await?;
    let signed = delivery_with(&gateway, &channel, 1).await?;
    expect(&[(Check::new(&secret, &signed), true)]).await?;
    gateway.finish(&[&channel]).await.map(drop)
}
