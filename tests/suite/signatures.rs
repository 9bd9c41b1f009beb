//! Signatures: the official Standard Webhooks libraries accept what the gateway sends and refuse
//! what was altered. A secret is shown once.

use std::{fs, os::unix::fs::PermissionsExt};

use anyhow::Context;
use bson::doc;
use harness::{
    gateway::{Accounted, Plan, Setup, TestGateway},
    scripted::{Received, Reply, ScriptedServer, failing_once},
    verifier::{Check, Library, verified},
    wait,
};
use serde_json::json;

on_both_setups! {
    deliveries_and_forwards_are_believed_and_tampered_ones_are_not,
    during_a_rotation_both_secrets_sign,
    a_secret_outlives_a_restart,
    each_attempt_is_signed_for_itself,
    a_secret_is_shown_once_and_kept_sealed,
    a_rotation_that_cannot_be_is_named,
}

const SESSIONS_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OLD_SESSIONS_SECRET: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const ROTATE: &str = "/channel/c/secret/rotate";
/// A secret of no channel.
const STRANGERS_SECRET: &str = "whsec_c3RyYW5nZXJzIHNlY3JldCBvZiAzMiBieXRlcyEhISE=";
/// Numbers beyond a double, and an escape: the signature covers the exact text.
const RESPONSE: &str = r#"{"n":12345678901234567890.10,"text":"caf\u00e9 ü"}"#;

/// Every role soon sees a rotation.
fn plan(setup: Setup) -> anyhow::Result<Plan> {
    Ok(Plan::new(setup)?.env("ROUNDTRIP__STORE__CACHE_TTL", "20ms"))
}

/// Registers the channel `c` and returns its secret.
async fn register(gateway: &TestGateway, channel: &ScriptedServer) -> anyhow::Result<String> {
    gateway.register("c", &channel.url()).await
}

/// Rotates the secret of the channel `c` and returns the new one.
async fn rotate(gateway: &TestGateway, body: &str) -> anyhow::Result<String> {
    let rotated = gateway.post(ROTATE, body).await?.expect(200)?;
    assert_eq!(rotated.field("channel_id")?, "c");
    let secret = rotated.field("signing_secret")?;
    anyhow::ensure!(secret.starts_with("whsec_"), "{secret}");
    Ok(secret)
}

fn signatures(received: &Received) -> usize {
    let header = received.header("webhook-signature");
    header.split(' ').filter(|one| !one.is_empty()).count()
}

/// Sends until a delivery has this many signatures, and returns it.
async fn delivery_with(
    gateway: &TestGateway,
    channel: &ScriptedServer,
    count: usize,
) -> anyhow::Result<Received> {
    wait::until(format!("a delivery with {count} signatures"), async || {
        let id = gateway.send("c", "again").await.ok()?;
        let delivered = wait::until("the delivery", async || channel.taken_of(&id).pop());
        let delivery = delivered.await.ok()?;
        (signatures(&delivery) == count).then_some(delivery)
    })
    .await
}

/// Both libraries must give these results.
async fn expect(checks: &[(Check, bool)]) -> anyhow::Result<()> {
    let (requests, expected): (Vec<_>, Vec<_>) = checks.iter().cloned().unzip();
    for library in Library::ALL {
        let found = verified(library, &requests).await?;
        assert_eq!(found, expected, "{library:?}: {requests:?}");
    }
    Ok(())
}

/// The request unchanged, and with each signed part altered.
fn with_a_tampered_copy(secret: &str, received: &Received) -> Vec<(Check, bool)> {
    let check = || Check::new(secret, received);
    let timestamp = received.header("webhook-timestamp");
    let later = timestamp.parse::<i64>().unwrap_or_default() + 1;
    let (version, signature) = received.header("webhook-signature").split_at(3);
    // Changes the first character, whatever it is.
    let another = if signature.starts_with('+') { '/' } else { '+' };
    let turned: String = std::iter::once(another)
        .chain(signature.chars().skip(1))
        .collect();
    let with = |name: &str, value: String| (check().header(name, value), false);
    vec![
        (check(), true),
        (check().body(&format!("{} ", received.body)), false),
        (check().body(&received.body.replacen('a', "b", 1)), false),
        with("webhook-id", format!("{}0", received.webhook_id())),
        with("webhook-timestamp", later.to_string()),
        with("webhook-timestamp", "1614265330".to_owned()),
        with("webhook-signature", format!("{version}{turned}")),
        with("webhook-signature", "v1,".to_owned()),
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
    let secret = register(&gateway, &channel).await?;
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
    let posted = gateway.post("/webhook-response", answer).await?;
    posted.expect(202)?;
    let forward = &sessions.taken_at_least(1).await?[0];
    let first = register(&gateway, &channel).await?;
    let second = rotate(&gateway, "").await?;
    let during = delivery_with(&gateway, &channel, 2).await?;
    let mut checks = Vec::new();
    for (secret, received) in [
        (SESSIONS_SECRET, forward),
        (OLD_SESSIONS_SECRET, forward),
        (&first, &during),
        (&second, &during),
    ] {
        let check = || Check::new(secret, received);
        checks.extend([
            (check(), true),
            (check().body("{}"), false),
            (check().header("webhook-id", "msg_0"), false),
            (Check::new(STRANGERS_SECRET, received), false),
        ]);
    }
    // Without an overlap the old secrets end at once.
    let third = rotate(&gateway, r#"{"overlap": "0s"}"#).await?;
    let after = delivery_with(&gateway, &channel, 1).await?;
    for (secret, expected) in [(third, true), (second, false), (first, false)] {
        checks.push((Check::new(&secret, &after), expected));
    }
    expect(&checks).await?;
    gateway.finish(&[&channel, &sessions]).await
}

async fn a_secret_outlives_a_restart(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let mut gateway = plan(setup)?.start().await?;
    let secret = register(&gateway, &channel).await?;
    for role in gateway.roles() {
        gateway.restart(role).await?;
    }
    let delivery = delivery_with(&gateway, &channel, 1).await?;
    expect(&[(Check::new(&secret, &delivery), true)]).await?;
    gateway.finish(&[&channel]).await
}

async fn each_attempt_is_signed_for_itself(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(failing_once(Reply::status(500))).await?;
    // More than a second even when a fifth shorter: timestamps have whole seconds.
    let gateway = plan(setup)?.schedule("1500ms").start().await?;
    let secret = register(&gateway, &channel).await?;
    gateway.send("c", "abc123").await?;
    channel.taken_at_least(1).await?;
    let attempts = channel.received();
    assert_eq!(attempts[0].webhook_id(), attempts[1].webhook_id());
    let [first, second] = [0, 1].map(|number| attempts[number].header("webhook-timestamp"));
    assert_ne!(first, second);
    let checks = attempts
        .iter()
        .map(|received| Check::new(&secret, received));
    expect(&checks.map(|check| (check, true)).collect::<Vec<_>>()).await?;
    gateway.finish(&[&channel]).await
}

async fn a_secret_is_shown_once_and_kept_sealed(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let mut gateway = plan(setup)?
        .env("ROUNDTRIP__LOG__LEVEL", "debug")
        .start()
        .await?;
    let secrets = [
        register(&gateway, &channel).await?,
        rotate(&gateway, "{}").await?,
    ];
    delivery_with(&gateway, &channel, 2).await?;
    let again = json!({"channel_id": "c", "channel_metadata": {"endpoint_url": channel.url()}});
    let change = r#"{"channel_description": "Updated"}"#;
    let mut shown = Vec::new();
    for (status, response) in [
        (200, gateway.get("/channel/c").await?),
        (200, gateway.post("/channels", "{}").await?),
        (200, gateway.put("/channel/c", change).await?),
        (409, gateway.post("/channel", again).await?),
        (200, gateway.post("/channel/c/pause", "").await?),
        (200, gateway.post("/channel/c/resume", "").await?),
        (200, gateway.get("/messages").await?),
    ] {
        shown.push(response.expect(status)?.text);
    }
    for role in gateway.roles() {
        gateway.stop(role).await?;
        shown.push(gateway.log(role)?);
    }
    if setup == Setup::Embedded {
        let file = fs::read(gateway.folder().join("store.db"))?;
        shown.push(String::from_utf8_lossy(&file).into_owned());
        let key = fs::metadata(gateway.folder().join("encryption.key"))?;
        assert_eq!(key.permissions().mode() & 0o777, 0o600);
    } else {
        let kept = gateway
            .test_namespace()?
            .collection("channel_secrets")
            .await?;
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
    let gateway = plan(setup)?.start_ingress().await?;
    gateway.register("c", "http://127.0.0.1:9/").await?;
    let unknown = "/channel/unknown/secret/rotate";
    for (path, body, status, field) in [
        (ROTATE, r#"{"overlap": "31days"}"#, 422, Some("overlap")),
        (ROTATE, r#"{"overlap": "soon"}"#, 422, Some("overlap")),
        (ROTATE, r#"{"secret": "whsec_x"}"#, 422, Some("secret")),
        (ROTATE, "{", 400, None),
        (unknown, "", 404, None),
    ] {
        let answer = gateway.post(path, body).await?.expect(status)?.json();
        let named = answer["errors"][0]["field"].as_str();
        assert_eq!(named, field, "{body}: {answer}");
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
    let secret = rotate(&gateway, "").await?;
    let signed = delivery_with(&gateway, &channel, 1).await?;
    expect(&[(Check::new(&secret, &signed), true)]).await?;
    gateway.finish(&[&channel]).await.map(drop)
}
