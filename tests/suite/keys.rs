//! API keys: outside development every call needs one, and a key allows only the calls of its role.

use anyhow::{Context, ensure};
use harness::{
    gateway::{Accounted, Answer, OPERATOR_KEY, Plan, Setup, TestGateway},
    scripted::{Reply, ScriptedServer},
    wait,
};
use reqwest::Method;
use roundtrip_ingress::Access;
use serde_json::{Value, json};

on_both_setups! {
    a_stranger_gets_in_nowhere,
    a_producer_sends_and_follows_its_own,
    an_idempotency_key_belongs_to_its_principal,
    a_key_sees_and_replays_nothing_of_other_channels,
    a_revoked_key_stops_while_its_successor_works,
    the_command_line_makes_lists_and_revokes_keys,
    the_command_line_never_prints_a_given_key,
    the_command_line_revokes_all_keys_of_a_channel,
    a_key_over_its_rate_gets_429,
    an_ingress_without_any_key_does_not_start,
    development_needs_no_key_and_reports_a_wrong_one,
}

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

/// The endpoint of channels that get no messages.
const ENDPOINT: &str = "http://127.0.0.1/incoming";

async fn ask(
    gateway: &TestGateway,
    key: &str,
    method: Method,
    path: &str,
    body: impl Into<String>,
) -> anyhow::Result<Answer> {
    gateway
        .request_with(Some(key), method, path, &JSON, body)
        .await
}

/// Creates a key of this role, limited to these channels; returns its id and the key.
async fn make(
    gateway: &TestGateway,
    role: &str,
    channels: Value,
) -> anyhow::Result<(String, String)> {
    let body = json!({"name": "test", "role": role, "channels": channels});
    let made = gateway.post("/api-keys", body.to_string()).await?;
    let made = made.expect(201)?.json();
    let text = |field: &str| made[field].as_str().unwrap_or_default().to_owned();
    Ok((text("key_id"), text("key")))
}

fn message(channel: &str) -> String {
    json!({"channel_id": channel, "session_id": "s", "message": "m"}).to_string()
}

/// Waits until a call with this key gets an answer that satisfies the condition.
async fn until_answered(
    gateway: &TestGateway,
    key: &str,
    path: &str,
    is_so: impl Fn(&Answer) -> bool,
) -> anyhow::Result<Answer> {
    wait::until(format!("GET {path}"), async || {
        let answer = ask(gateway, key, Method::GET, path, "").await.ok()?;
        is_so(&answer).then_some(answer)
    })
    .await
}

async fn a_stranger_gets_in_nowhere(setup: Setup) -> anyhow::Result<Accounted> {
    let mut gateway = Plan::new(setup)?.production().start().await?;
    gateway.register("c", ENDPOINT).await?;
    let (_, good) = make(&gateway, "operator", Value::Null).await?;
    let wrong = format!("{}AAAA", &good[..good.len() - 4]);
    let made_up = format!("rt_key_{:032x}_{}", 1, "A".repeat(43));
    let calls: Vec<_> = roundtrip_ingress::calls()
        .into_iter()
        .filter(|(.., access)| *access != Access::Open)
        .collect();
    ensure!(calls.len() > 15, "few calls: {calls:?}");
    for (method, path, _) in calls {
        let path = path.replace("{channel_id}", "c").replace(['{', '}'], "");
        for key in [None, Some(&*wrong), Some(&*made_up), Some("wrong")] {
            let body = message("c");
            let answer = gateway.request_with(key, method.clone(), &path, &JSON, body);
            let answer = answer.await?.expect(401)?;
            assert_eq!(answer.header("www-authenticate"), "Bearer");
            assert_eq!(answer.json()["type"], "urn:roundtrip:problem:no-valid-key");
        }
    }
    let name = gateway.having("ingress");
    let log = wait::until("the log to tell of strangers", async || {
        let log = gateway.log(&name).ok()?;
        log.contains("calls without a valid API key").then_some(log)
    })
    .await?;
    for key in [&good, &wrong, &made_up, OPERATOR_KEY] {
        let secret = &key[key.len() - 20..];
        assert!(!log.contains(secret), "a key is in the log");
    }
    assert_eq!(gateway.enqueued().await?, 0);
    gateway.finish(&[]).await
}

async fn a_producer_sends_and_follows_its_own(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let gateway = Plan::new(setup)?.production().start().await?;
    for id in ["own", "other"] {
        gateway.register(id, &channel.url()).await?;
    }
    let (_, key) = make(&gateway, "producer", json!(["own"])).await?;
    let sent = ask(
        &gateway,
        &key,
        Method::POST,
        "/channel/message",
        message("own"),
    )
    .await?;
    let sent = sent.expect(202)?.json();
    let refused = ask(
        &gateway,
        &key,
        Method::POST,
        "/channel/message",
        message("other"),
    )
    .await?;
    refused.expect(403)?;
    let batch = format!("[{},{}]", message("other"), message("own"));
    let batch = ask(&gateway, &key, Method::POST, "/channel/messages", batch).await?;
    let batch = batch.expect(200)?.json();
    assert_eq!(batch["results"][0]["status"], 403);
    assert_eq!(batch["accepted"], 1);

    let id = sent["message_id"].as_str().context("an id")?;
    let path = format!("/channel/message/{id}");
    until_answered(&gateway, &key, &path, |answer| {
        answer.json()["state"] == "delivered"
    })
    .await?;
    let others = gateway.send("other", "s").await?;
    let path = format!("/channel/message/{others}");
    until_answered(&gateway, OPERATOR_KEY, &path, |answer| answer.status == 200).await?;
    let hidden = ask(&gateway, &key, Method::GET, &path, "").await?;
    assert_eq!(
        hidden.expect(404)?.json()["type"],
        "urn:roundtrip:problem:unknown-message"
    );
    for (method, path) in [
        (Method::GET, "/messages"),
        (Method::POST, "/channels"),
        (Method::DELETE, "/channel/own"),
        (Method::GET, "/api-keys"),
    ] {
        let refused = ask(&gateway, &key, method, path, "{}").await?.expect(403)?;
        let detail = refused.json()["detail"].to_string();
        assert!(
            detail.contains("operator") && detail.contains("producer"),
            "{detail}"
        );
    }
    gateway.finish(&[&channel]).await
}

async fn an_idempotency_key_belongs_to_its_principal(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let gateway = Plan::new(setup)?.production().start().await?;
    gateway.register("c", &channel.url()).await?;
    let (_, first) = make(&gateway, "producer", Value::Null).await?;
    let (_, second) = make(&gateway, "producer", Value::Null).await?;
    let headers = [JSON[0], ("idempotency-key", "order-4711")];
    let send = async |key: &str, said: &str| {
        let body = json!({"channel_id": "c", "session_id": "s", "message": said});
        let (method, path) = (Method::POST, "/channel/message");
        let sent = gateway.request_with(Some(key), method, path, &headers, body.to_string());
        let sent = sent.await?.expect(202)?;
        anyhow::Ok((
            sent.json()["message_id"].clone(),
            sent.header("idempotent-replayed").to_owned(),
        ))
    };
    let (of_first, _) = send(&first, "one").await?;
    // Another key gets no replayed answer, and no hint that the idempotency key is in use.
    for said in ["one", "two"] {
        let key = if said == "one" { &second } else { OPERATOR_KEY };
        let (id, replayed) = send(key, said).await?;
        assert_ne!(id, of_first);
        assert_eq!(replayed, "");
    }
    assert_eq!(send(&first, "one").await?, (of_first, "true".to_owned()));
    channel.taken_at_least(3).await?;
    gateway.finish(&[&channel]).await
}

/// The channel ids of the items under this field.
fn channels(answer: &Answer, field: &str) -> Vec<String> {
    let mut ids: Vec<String> = answer.json()[field]
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| one["channel_id"].as_str().unwrap_or_default().to_owned())
        .collect();
    ids.sort();
    ids
}

async fn a_key_sees_and_replays_nothing_of_other_channels(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::status(400)).await?;
    let gateway = Plan::new(setup)?.production().start().await?;
    for id in ["a", "b", "c"] {
        gateway.register(id, &channel.url()).await?;
        gateway.send(id, "s").await?;
    }
    let all = ["a", "b", "c"];
    until_answered(&gateway, OPERATOR_KEY, "/dead-letters", |answer| {
        channels(answer, "dead_letters") == all
    })
    .await?;
    let (_, viewer) = make(&gateway, "viewer", json!(["a", "b"])).await?;
    let (_, operator) = make(&gateway, "operator", json!(["b"])).await?;
    for (key, seen) in [(&viewer, &["a", "b"][..]), (&operator, &["b"])] {
        for (method, path, field) in [
            (Method::GET, "/dead-letters", "dead_letters"),
            (Method::GET, "/dead-letters?session_id=s", "dead_letters"),
            (Method::GET, "/messages?state=dead", "messages"),
            (Method::POST, "/channels", "channels"),
        ] {
            let answer = ask(&gateway, key, method, path, "{}").await?.expect(200)?;
            assert_eq!(channels(&answer, field), seen, "{path}");
        }
    }

    let asked = ask(
        &gateway,
        &operator,
        Method::POST,
        "/dead-letters/replay",
        "{}",
    )
    .await?;
    let asked = asked.expect(202)?.json();
    assert_eq!(asked["matched"], 1, "{asked}");
    let path = format!(
        "/replays/{}",
        asked["replay_id"].as_str().unwrap_or_default()
    );
    let done = |answer: &Answer| answer.json()["status"] == "done";
    let replayed = until_answered(&gateway, &operator, &path, done).await?;
    assert_eq!(replayed.json()["progress"]["replayed"], 1);
    // It failed again.
    until_answered(&gateway, OPERATOR_KEY, "/dead-letters", |answer| {
        channels(answer, "dead_letters") == all
            && answer.text.matches(r#""replay_count":1"#).count() == 1
    })
    .await?;
    let purge = "/dead-letters?session_id=s";
    let purged = ask(&gateway, &operator, Method::DELETE, purge, "").await?;
    assert_eq!(purged.expect(200)?.json()["purged"], 1);
    let left = gateway.get("/dead-letters").await?.expect(200)?;
    assert_eq!(channels(&left, "dead_letters"), ["a", "c"]);
    gateway.finish_unaccounted("a dead letter was purged").await
}

async fn a_revoked_key_stops_while_its_successor_works(setup: Setup) -> anyhow::Result<Accounted> {
    let gateway = Plan::new(setup)?.production().start().await?;
    let (first_id, first) = make(&gateway, "viewer", Value::Null).await?;
    let (_, second) = make(&gateway, "viewer", Value::Null).await?;
    for key in [&first, &second] {
        let answer = ask(&gateway, key, Method::GET, "/messages", "").await?;
        answer.expect(200)?;
    }
    // Another process revokes it, without a notice to the gateway.
    let revoked = gateway.command(&["keys", "revoke", &first_id]).await?;
    ensure!(revoked.status.success(), "{revoked:?}");
    wait::until("the first key to end", async || {
        let answer = ask(&gateway, &second, Method::GET, "/messages", "")
            .await
            .ok()?;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let answer = ask(&gateway, &first, Method::GET, "/messages", "")
            .await
            .ok()?;
        (answer.status == 401).then_some(())
    })
    .await?;
    gateway.finish(&[]).await
}

async fn the_command_line_makes_lists_and_revokes_keys(setup: Setup) -> anyhow::Result<Accounted> {
    let gateway = Plan::new(setup)?.production().start().await?;
    gateway.register("c", ENDPOINT).await?;
    let create = [
        "keys",
        "create",
        "--name",
        "the shop",
        "--role",
        "viewer",
        "--channel",
        "c",
        "--channel",
        "d",
        "--expires-in",
        "90days",
        "--rate",
        "1000",
    ];
    let created = gateway.command(&create).await?;
    ensure!(created.status.success(), "{created:?}");
    let key = String::from_utf8(created.stdout)?;
    let key = key.trim();
    // At once: an unknown key triggers a read.
    let answer = ask(&gateway, key, Method::GET, "/channel/c", "").await?;
    answer.expect(200)?;

    let listed = gateway.command(&["keys", "list"]).await?;
    let listed = String::from_utf8(listed.stdout)?;
    let row = listed.lines().find(|line| line.ends_with("the shop"));
    let row = row.with_context(|| listed.clone())?;
    let id = row.split(' ').next().unwrap_or_default();
    assert!(key.starts_with(&format!("rt_{id}_")), "{row}");
    assert!(row.contains("viewer") && row.contains("c,d"), "{row}");
    let secret = key.rsplit_once(id).map_or(key, |(_, secret)| secret);
    assert!(!listed.contains(&secret[1..]), "{listed}");

    let revoked = gateway.command(&["keys", "revoke", id]).await?;
    ensure!(revoked.status.success(), "{revoked:?}");
    let refused = |answer: &Answer| answer.status == 401;
    until_answered(&gateway, key, "/channel/c", refused).await?;
    let listed = gateway.command(&["keys", "list"]).await?;
    assert!(String::from_utf8(listed.stdout)?.contains("revoked"));

    let unknown = format!("key_{:032x}", 1);
    for (arguments, code) in [
        (&["keys", "revoke", &unknown][..], 1),
        (&["keys", "revoke", "unknown"], 64),
        (&["keys", "create", "--name", "n"], 64),
        (&["keys", "create", "--name", "n", "--role", "admin"], 64),
        (&["keys", "create", "--name", "", "--role", "viewer"], 64),
        (
            &[
                "keys", "create", "--name", "n", "--role", "viewer", "--rate", "0",
            ],
            64,
        ),
    ] {
        let refused = gateway.command(arguments).await?;
        assert_eq!(
            refused.status.code(),
            Some(code),
            "{arguments:?}: {refused:?}"
        );
        assert!(refused.stdout.is_empty() && !refused.stderr.is_empty());
    }
    gateway.finish(&[]).await
}

async fn the_command_line_never_prints_a_given_key(setup: Setup) -> anyhow::Result<Accounted> {
    let gateway = Plan::new(setup)?.production().start().await?;
    let (id, key) = make(&gateway, "viewer", Value::Null).await?;
    let secret = key.rsplit_once(&id).context("an id in the key")?.1;
    for arguments in [
        &["keys", "revoke", &key][..],
        &["keys", "revoke", "--channel", &format!("{key}!")],
        &["keys", "create", "--name", "n", "--role", &key],
        &[&key],
        &["--config", &key, "keys", "list"],
    ] {
        let refused = gateway.command(arguments).await?;
        assert!(!refused.status.success(), "{refused:?}");
        let printed = String::from_utf8_lossy(&refused.stderr);
        assert!(
            !printed.is_empty() && !printed.contains(secret),
            "{printed}"
        );
        if arguments.len() == 3 {
            // Names the key, and says what was expected.
            assert!(
                printed.contains(&id) && printed.contains("whole key"),
                "{printed}"
            );
        }
    }
    gateway.finish(&[]).await
}

/// The keys that an operator of these channels may have made, and no others.
async fn the_command_line_revokes_all_keys_of_a_channel(setup: Setup) -> anyhow::Result<Accounted> {
    let gateway = Plan::new(setup)?.production().start().await?;
    let mut ended = Vec::new();
    let mut left = Vec::new();
    for (channels, ends) in [
        (json!(["a"]), true),
        (json!(["b"]), true),
        (json!(["a", "b"]), true),
        (json!(["a", "c"]), false),
        (json!(["c"]), false),
        (Value::Null, false),
    ] {
        let (id, key) = make(&gateway, "viewer", channels).await?;
        if ends { &mut ended } else { &mut left }.push((id, key));
    }
    let revoke = ["keys", "revoke", "--channel", "a", "--channel", "b"];
    let revoked = gateway.command(&revoke).await?;
    ensure!(revoked.status.success(), "{revoked:?}");
    let printed = String::from_utf8(revoked.stdout)?;
    let ids: Vec<&str> = ended.iter().map(|(id, _)| &**id).collect();
    assert_eq!(printed.lines().collect::<Vec<_>>(), ids);
    for (_, key) in &ended {
        let refused = |answer: &Answer| answer.status == 401;
        until_answered(&gateway, key, "/messages", refused).await?;
    }
    for (_, key) in &left {
        let answer = ask(&gateway, key, Method::GET, "/messages", "").await?;
        answer.expect(200)?;
    }
    let again = gateway.command(&revoke).await?;
    ensure!(
        again.status.success() && again.stdout.is_empty(),
        "{again:?}"
    );
    gateway.finish(&[]).await
}

async fn a_key_over_its_rate_gets_429(setup: Setup) -> anyhow::Result<Accounted> {
    let gateway = Plan::new(setup)?.production().start().await?;
    let body = json!({"name": "slow", "role": "viewer", "rate_per_second": 1});
    let made = gateway.post("/api-keys", body.to_string()).await?;
    let made = made.expect(201)?.json();
    let key = made["key"].as_str().context("a key")?;
    let limited = |answer: &Answer| answer.status == 429;
    let limited = until_answered(&gateway, key, "/messages", limited).await?;
    assert_eq!(limited.header("retry-after"), "1");
    assert_eq!(limited.header("ratelimit"), r#""requests-per-key";r=0;t=1"#);
    let policy = limited.header("ratelimit-policy");
    assert_eq!(policy, r#""requests-per-key";q=1;w=1"#);
    assert_eq!(limited.header("content-type"), "application/problem+json");
    gateway.get("/messages").await?.expect(200)?;
    let served = |answer: &Answer| answer.status == 200;
    until_answered(&gateway, key, "/messages", served).await?;
    gateway.finish(&[]).await
}

async fn an_ingress_without_any_key_does_not_start(setup: Setup) -> anyhow::Result<Accounted> {
    // Set but empty means not set.
    let without = Plan::new(setup)?.env("OPERATOR_KEY", "").production();
    let mut gateway = without.prepare().await?;
    let refused = gateway.refused_start().await?;
    let printed = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(64), "{printed}");
    assert!(printed.contains("roundtrip keys create"), "{printed}");
    assert_eq!(printed.lines().count(), 1, "{printed}");
    let created = ["keys", "create", "--name", "first", "--role", "operator"];
    let created = gateway.command(&created).await?;
    ensure!(created.status.success(), "{created:?}");
    gateway.start_all().await?;
    let key = String::from_utf8(created.stdout)?;
    let answer = ask(&gateway, key.trim(), Method::GET, "/messages", "").await?;
    answer.expect(200)?;
    gateway.finish(&[]).await
}

async fn development_needs_no_key_and_reports_a_wrong_one(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let gateway = Plan::new(setup)?.start().await?;
    gateway.get("/messages").await?.expect(200)?;
    let wrong = ask(&gateway, "wrong", Method::GET, "/messages", "").await?;
    wrong.expect(401)?;
    let (_, viewer) = make(&gateway, "viewer", Value::Null).await?;
    let refused = ask(&gateway, &viewer, Method::DELETE, "/channel/echo", "").await?;
    refused.expect(403)?;
    gateway.finish(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_unavailable_known_keys_are_served() -> anyhow::Result<()> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let plan = Plan::new(Setup::Servers)?.production();
    let (url, proxy) = plan.test_namespace()?.store_by_proxy().await?;
    let gateway = plan.env("STORE_URL", url).start().await?;
    gateway.register("c", &channel.url()).await?;
    let (_, key) = make(&gateway, "producer", Value::Null).await?;
    let send = async |key: &str| {
        ask(
            &gateway,
            key,
            Method::POST,
            "/channel/message",
            message("c"),
        )
        .await
    };
    send(&key).await?.expect(202)?;

    proxy.refuse();
    let made_up = format!("rt_key_{:032x}_{}", 1, "A".repeat(43));
    let unknown = wait::until("an unknown key to be doubtful", async || {
        let answer = send(&made_up).await.ok()?;
        assert!(answer.status != 202, "{}", answer.text);
        (answer.status == 503).then_some(answer)
    })
    .await?;
    assert!(unknown.header("retry-after").parse::<u64>().is_ok());
    send(&key).await?.expect(202)?;
    send(OPERATOR_KEY).await?.expect(202)?;
    send("wrong").await?.expect(401)?;

    proxy.resume();
    wait::until("an unknown key to be refused", async || {
        let answer = send(&made_up).await.ok()?;
        (answer.status == 401).then_some(())
    })
    .await?;
    gateway.all_taken(&[&channel]).await?;
    gateway.finish(&[&channel]).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_is_ready_only_after_it_has_read_the_keys() -> anyhow::Result<()> {
    let plan = Plan::new(Setup::Servers)?.env("OPERATOR_KEY", "");
    let (url, proxy) = plan.test_namespace()?.store_by_proxy().await?;
    let plan = plan.production().env("STORE_URL", url);
    let mut gateway = plan.prepare().await?;
    let first = ["keys", "create", "--name", "first", "--role", "viewer"];
    let first = gateway.command(&first).await?;
    ensure!(first.status.success(), "{first:?}");
    let key = String::from_utf8(first.stdout)?.trim().to_owned();
    proxy.refuse();
    gateway.launch_all()?;
    let ingress = gateway.having("ingress");
    wait::until("the ingress to say why it is not ready", async || {
        let (status, body) = gateway.process(&ingress).ok()?.readiness().await.ok()?;
        let readiness: Value = serde_json::from_slice(&body).ok()?;
        (readiness["broker"] == "ready" && status == 503 && readiness["ingress"].is_string())
            .then_some(())
    })
    .await?;
    let doubtful = ask(&gateway, &key, Method::GET, "/messages", "").await?;
    doubtful.expect(503)?;
    let stranger = gateway.request_with(None, Method::GET, "/messages", &[], "");
    stranger.await?.expect(401)?;
    proxy.resume();
    gateway.process(&ingress)?.ready().await?;
    until_answered(&gateway, &key, "/messages", |answer| answer.status == 200).await?;
    gateway.finish(&[]).await.map(drop)
}

/// A new database builds its indexes in the background; a command waits for them.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_with_a_closed_output_does_not_panic() -> anyhow::Result<()> {
    const RUNS: usize = 20;
    for _ in 0..RUNS {
        let gateway = Plan::new(Setup::Servers)?.prepare().await?;
        let listed = gateway.command(&["keys", "list"]).await?;
        let stderr = String::from_utf8_lossy(&listed.stderr);
        ensure!(listed.status.success(), "{stderr}");
        assert_eq!(stderr, "");
        gateway
            .finish_unaccounted("nothing was started")
            .await
            .map(drop)?;
    }
    Ok(())
}
