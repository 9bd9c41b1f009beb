//! API keys: outside development every call needs one, and a key allows only the calls of its role.

use std::{
    net::TcpListener,
    path::Path,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, ensure};
use harness::{
    gateway::{Accounted, OPERATOR_KEY, Plan, Response, Role, Setup, TestGateway},
    process::gateway_binary,
    scripted::Reply,
    wait,
};
use reqwest::Method;
use roundtrip_ingress::Access;
use serde_json::{Value, json};

use crate::history::ids;

on_both_setups! {
    a_stranger_gets_in_nowhere,
    a_producer_sends_and_follows_its_own,
    an_idempotency_key_belongs_to_its_principal,
    a_key_sees_and_replays_nothing_of_other_channels,
    a_key_of_some_channels_replays_only_their_answers,
    a_revoked_key_stops_while_its_successor_works,
    the_command_line_makes_lists_and_revokes_keys,
    the_command_line_never_prints_a_given_key,
    the_command_line_revokes_all_keys_of_a_channel,
    a_key_over_its_rate_gets_429,
    an_ingress_without_any_key_does_not_start,
    development_needs_no_key_and_reports_a_wrong_one,
}

/// The endpoint of channels that get no messages.
const ENDPOINT: &str = "http://127.0.0.1/incoming";

/// Calls the API with this key.
async fn call(
    gateway: &TestGateway,
    key: &str,
    method: Method,
    path: &str,
    body: impl ToString,
) -> anyhow::Result<Response> {
    let call = gateway.request_with(Some(key), method, path, &[], body);
    call.await
}

async fn get(gateway: &TestGateway, key: &str, path: &str) -> anyhow::Result<Response> {
    call(gateway, key, Method::GET, path, "").await
}

async fn post(
    gateway: &TestGateway,
    key: &str,
    path: &str,
    body: impl ToString,
) -> anyhow::Result<Response> {
    call(gateway, key, Method::POST, path, body).await
}

/// Creates a key of this role, limited to these channels; returns its id and the key.
async fn make(
    gateway: &TestGateway,
    role: &str,
    channels: Value,
) -> anyhow::Result<(String, String)> {
    let body = json!({"name": "test", "role": role, "channels": channels});
    let made = gateway.post("/api-keys", body).await?.expect(201)?;
    Ok((made.field("key_id")?, made.field("key")?))
}

fn message(channel: &str) -> Value {
    json!({"channel_id": channel, "session_id": "s", "message": "m"})
}

/// An invalid key of the right form.
fn made_up() -> String {
    format!("rt_key_{:032x}_{}", 1, "A".repeat(43))
}

/// Waits until a call with this key gets a response that satisfies the condition.
async fn until(
    gateway: &TestGateway,
    key: &str,
    path: &str,
    is_so: impl Fn(&Response) -> bool,
) -> anyhow::Result<Response> {
    wait::until(format!("GET {path}"), async || {
        let response = get(gateway, key, path).await.ok()?;
        is_so(&response).then_some(response)
    })
    .await
}

/// Waits until a call with this key has this status.
async fn until_status(gateway: &TestGateway, key: &str, status: u16) -> anyhow::Result<Response> {
    until(gateway, key, "/messages", |response| {
        response.status == status
    })
    .await
}

/// Runs `roundtrip keys` with these arguments, and returns what it printed.
async fn keys(gateway: &TestGateway, arguments: &str) -> anyhow::Result<String> {
    let output = run_keys(gateway, arguments).await?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

async fn run_keys(gateway: &TestGateway, arguments: &str) -> anyhow::Result<Output> {
    let arguments: Vec<&str> = ["keys"].into_iter().chain(arguments.split(' ')).collect();
    gateway.command(&arguments).await
}

async fn a_stranger_gets_in_nowhere(setup: Setup) -> anyhow::Result<Accounted> {
    let mut gateway = Plan::new(setup)?.production().start().await?;
    gateway.register("c", ENDPOINT).await?;
    let (_, good) = make(&gateway, "operator", Value::Null).await?;
    let wrong = format!("{}AAAA", &good[..good.len() - 4]);
    let made_up = made_up();
    let calls: Vec<_> = roundtrip_ingress::calls()
        .into_iter()
        // A call that a signature opens too is not a keyless caller's to make either, but says so in
        // its own words.
        .filter(|(.., access)| !matches!(access, Access::Open | Access::SignedOr(_)))
        .collect();
    ensure!(calls.len() > 15, "few calls: {calls:?}");
    for (method, path, _) in calls {
        let path = path.replace("{channel_id}", "c").replace(['{', '}'], "");
        for key in [None, Some(&*wrong), Some(&*made_up), Some("wrong")] {
            let refused = gateway.request_with(key, method.clone(), &path, &[], message("c"));
            let refused = refused.await?.expect(401)?;
            assert_eq!(refused.header("www-authenticate"), "Bearer");
            assert_eq!(refused.field("type")?, "urn:roundtrip:problem:no-valid-key");
        }
    }
    let words = ["calls without a valid API key"];
    gateway.until_logged(Role::Ingress, &words, 1).await?;
    let log = gateway.log(Role::Ingress)?;
    for key in [&good, &wrong, &made_up, OPERATOR_KEY] {
        let secret = &key[key.len() - 20..];
        assert!(!log.contains(secret), "a key is in the log");
    }
    assert_eq!(gateway.enqueued().await?, 0);
    gateway.finish(&[]).await
}

async fn a_producer_sends_and_follows_its_own(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, channel) = Plan::new(setup)?
        .production()
        .start_with_channel(|_| Reply::ok())
        .await?;
    gateway.register("other", &channel.url()).await?;
    let (_, key) = make(&gateway, "producer", json!(["c"])).await?;
    let path = "/channel/message";
    let sent = post(&gateway, &key, path, message("c"))
        .await?
        .expect(202)?;
    let refused = post(&gateway, &key, path, message("other")).await?;
    refused.expect(403)?;
    let batch = json!([message("other"), message("c")]);
    let batch = post(&gateway, &key, "/channel/messages", batch).await?;
    let batch = batch.expect(200)?.json();
    assert_eq!(batch["results"][0]["status"], 403);
    assert_eq!(batch["accepted"], 1);

    let path = format!("/channel/message/{}", sent.field("message_id")?);
    let is_delivered = |response: &Response| response.json()["state"] == "delivered";
    until(&gateway, &key, &path, is_delivered).await?;
    let others = gateway.send("other", "s").await?;
    gateway.until_message(&others, |_| true).await?;
    let hidden = get(&gateway, &key, &format!("/channel/message/{others}")).await?;
    let hidden = hidden.expect(404)?.field("type")?;
    assert_eq!(hidden, "urn:roundtrip:problem:unknown-message");
    for (method, path) in [
        (Method::GET, "/messages"),
        (Method::POST, "/channels"),
        (Method::DELETE, "/channel/c"),
        (Method::GET, "/api-keys"),
    ] {
        let refused = call(&gateway, &key, method, path, "{}")
            .await?
            .expect(403)?;
        let detail = refused.field("detail")?;
        let named = detail.contains("operator") && detail.contains("producer");
        assert!(named, "{detail}");
    }
    gateway.finish(&[&channel]).await
}

async fn an_idempotency_key_belongs_to_its_principal(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, channel) = Plan::new(setup)?
        .production()
        .start_with_channel(|_| Reply::ok())
        .await?;
    let (_, first) = make(&gateway, "producer", Value::Null).await?;
    let (_, second) = make(&gateway, "producer", Value::Null).await?;
    let send = async |key: &str, text: &str| {
        let headers = [("idempotency-key", "order-4711")];
        let body = json!({"channel_id": "c", "session_id": "s", "message": text});
        let (method, path) = (Method::POST, "/channel/message");
        let sent = gateway.request_with(Some(key), method, path, &headers, body);
        let sent = sent.await?.expect(202)?;
        let replayed = sent.header("idempotent-replayed").to_owned();
        anyhow::Ok((sent.field("message_id")?, replayed))
    };
    let (of_first, _) = send(&first, "one").await?;
    // Another key gets no replayed response, and no hint that the idempotency key is in use.
    for (key, text) in [(&*second, "one"), (OPERATOR_KEY, "two")] {
        let (id, replayed) = send(key, text).await?;
        assert_ne!(id, of_first);
        assert_eq!(replayed, "");
    }
    assert_eq!(send(&first, "one").await?, (of_first, "true".to_owned()));
    channel.taken_at_least(3).await?;
    gateway.finish(&[&channel]).await
}

/// The channel ids of the items under this field, sorted.
fn channels(response: &Response, field: &str) -> Vec<String> {
    let mut ids = ids(&response.json(), field, "channel_id");
    ids.sort();
    ids
}

async fn a_key_sees_and_replays_nothing_of_other_channels(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (gateway, channel) = Plan::new(setup)?
        .production()
        .start_with_channel(|_| Reply::status(400))
        .await?;
    for id in ["a", "b"] {
        gateway.register(id, &channel.url()).await?;
    }
    let all = ["a", "b", "c"];
    for id in all {
        gateway.send(id, "s").await?;
    }
    let list = "/dead-letters";
    let is_all = |response: &Response| channels(response, "dead_letters") == all;
    until(&gateway, OPERATOR_KEY, list, is_all).await?;
    let (_, viewer) = make(&gateway, "viewer", json!(["a", "b"])).await?;
    let (_, operator) = make(&gateway, "operator", json!(["b"])).await?;
    for (key, seen) in [(&viewer, &["a", "b"][..]), (&operator, &["b"])] {
        for (method, path, field) in [
            (Method::GET, list, "dead_letters"),
            (Method::GET, "/dead-letters?session_id=s", "dead_letters"),
            (Method::GET, "/messages?state=dead", "messages"),
            (Method::POST, "/channels", "channels"),
        ] {
            let listed = call(&gateway, key, method, path, "{}").await?.expect(200)?;
            assert_eq!(channels(&listed, field), seen, "{path}");
        }
    }

    let replay = post(&gateway, &operator, "/dead-letters/replay", "{}").await?;
    let replay = replay.expect(202)?;
    assert_eq!(replay.json()["matched"], 1, "{}", replay.text);
    let path = format!("/replays/{}", replay.field("replay_id")?);
    let is_done = |response: &Response| response.json()["status"] == "done";
    let replayed = until(&gateway, &operator, &path, is_done).await?;
    assert_eq!(replayed.json()["progress"]["replayed"], 1);
    // It failed again.
    until(&gateway, OPERATOR_KEY, list, |response| {
        is_all(response) && response.text.matches(r#""replay_count":1"#).count() == 1
    })
    .await?;
    let purge = "/dead-letters?session_id=s";
    let purged = call(&gateway, &operator, Method::DELETE, purge, "").await?;
    assert_eq!(purged.expect(200)?.json()["purged"], 1);
    let left = gateway.get(list).await?.expect(200)?;
    assert_eq!(channels(&left, "dead_letters"), ["a", "c"]);
    gateway.finish_unaccounted("a dead letter was purged").await
}

/// An answer without a token is of no channel.
async fn a_key_of_some_channels_replays_only_their_answers(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    const ANSWERS: &str = "/answers/replay";
    let plan = Plan::new(setup)?.production();
    let plan = plan.env("ROUNDTRIP__CALLBACK_AUTH", "open");
    let (gateway, channel, sessions) = plan.start_with_servers(|_| Reply::answering("1")).await?;
    gateway.register("other", &channel.url()).await?;
    for id in ["c", "other"] {
        let id = gateway.send(id, "s").await?;
        // The state can be in the store before the entries and the answer are.
        let is_stored = |message: &Value| message["answers"][0]["forward"]["state"] == "forwarded";
        gateway.until_message(&id, is_stored).await?;
    }
    let bare = json!({"session_id": "s", "response_data": 2});
    gateway.post("/webhook-response", bare).await?.expect(202)?;
    gateway
        .until("/sessions/s", |page| {
            let turns = page["turns"].as_array().into_iter().flatten();
            let mut forwards = turns.filter_map(|turn| turn["forward"]["state"].as_str());
            forwards.any(|state| state == "forwarded")
        })
        .await?;
    let (_, viewer) = make(&gateway, "viewer", Value::Null).await?;
    let (_, limited) = make(&gateway, "operator", json!(["c"])).await?;
    let of_session = json!({"session_id": "s"});
    post(&gateway, &viewer, ANSWERS, &of_session)
        .await?
        .expect(403)?;
    let of_other = json!({"channel_id": "other"});
    post(&gateway, &limited, ANSWERS, of_other)
        .await?
        .expect(403)?;
    let seen = get(&gateway, &limited, "/sessions/s").await?.expect(200)?;
    assert!(!seen.text.contains("\"response_data\":2"), "{}", seen.text);

    let before = sessions.taken_at_least(3).await?;
    let replay = post(&gateway, &limited, ANSWERS, &of_session).await?;
    let replay = replay.expect(202)?;
    assert_eq!(replay.json()["matched"], 1, "{}", replay.text);
    let path = format!("/replays/{}", replay.field("replay_id")?);
    let is_done = |response: &Response| response.json()["status"] == "done";
    until(&gateway, &limited, &path, is_done).await?;
    let taken = sessions.taken_at_least(4).await?;
    assert_eq!(taken[3].field("channel_id"), "c");
    assert!(
        before
            .iter()
            .any(|first| first.webhook_id() == taken[3].webhook_id())
    );
    let all = post(&gateway, OPERATOR_KEY, ANSWERS, &of_session).await?;
    assert_eq!(all.expect(202)?.json()["matched"], 3);
    sessions.taken_at_least(7).await?;
    gateway.finish(&[&channel, &sessions]).await
}

async fn a_revoked_key_stops_while_its_successor_works(setup: Setup) -> anyhow::Result<Accounted> {
    let gateway = Plan::new(setup)?.production().start().await?;
    let (first_id, first) = make(&gateway, "viewer", Value::Null).await?;
    let (_, second) = make(&gateway, "viewer", Value::Null).await?;
    for key in [&first, &second] {
        get(&gateway, key, "/messages").await?.expect(200)?;
    }
    // Another process revokes it, without a notice to the gateway.
    keys(&gateway, &format!("revoke {first_id}")).await?;
    wait::until("the first key to end", async || {
        let served = get(&gateway, &second, "/messages").await.ok()?;
        assert_eq!(served.status, 200, "{}", served.text);
        let refused = get(&gateway, &first, "/messages").await.ok()?;
        (refused.status == 401).then_some(())
    })
    .await?;
    gateway.finish(&[]).await
}

async fn the_command_line_makes_lists_and_revokes_keys(setup: Setup) -> anyhow::Result<Accounted> {
    let gateway = Plan::new(setup)?.production().start().await?;
    gateway.register("c", ENDPOINT).await?;
    let create = "create --name shop --role viewer --channel c --channel d --expires-in 90days \
                  --rate 1000";
    let key = keys(&gateway, create).await?;
    // At once: an unknown key triggers a read.
    get(&gateway, &key, "/channel/c").await?.expect(200)?;

    let listed = keys(&gateway, "list").await?;
    let row = listed.lines().find(|line| line.ends_with("shop"));
    let row = row.with_context(|| listed.clone())?;
    let id = row.split(' ').next().unwrap_or_default();
    assert!(key.starts_with(&format!("rt_{id}_")), "{row}");
    assert!(row.contains("viewer") && row.contains("c,d"), "{row}");
    let secret = key.rsplit_once(id).map_or(&*key, |(_, secret)| secret);
    assert!(!listed.contains(&secret[1..]), "{listed}");

    keys(&gateway, &format!("revoke {id}")).await?;
    until_status(&gateway, &key, 401).await?;
    assert!(keys(&gateway, "list").await?.contains("revoked"));

    let unknown = format!("revoke key_{:032x}", 1);
    for (arguments, code) in [
        (&*unknown, 1),
        ("revoke unknown", 2),
        ("create --name n", 2),
        ("create --name n --role admin", 2),
        ("create --name= --role viewer", 2),
        ("create --name n --role viewer --rate 0", 2),
    ] {
        let refused = run_keys(&gateway, arguments).await?;
        let ended = refused.status.code();
        assert_eq!(ended, Some(code), "{arguments}: {refused:?}");
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
        let is_silent = !printed.is_empty() && !printed.contains(secret);
        assert!(is_silent, "{printed}");
        if arguments.len() == 3 {
            // Names the key, and says what was expected.
            let is_clear = printed.contains(&id) && printed.contains("whole key");
            assert!(is_clear, "{printed}");
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
        let made = make(&gateway, "viewer", channels).await?;
        if ends { &mut ended } else { &mut left }.push(made);
    }
    let revoke = "revoke --channel a --channel b";
    let printed = keys(&gateway, revoke).await?;
    let ids: Vec<&str> = ended.iter().map(|(id, _)| &**id).collect();
    assert_eq!(printed.lines().collect::<Vec<_>>(), ids);
    for (_, key) in &ended {
        until_status(&gateway, key, 401).await?;
    }
    for (_, key) in &left {
        get(&gateway, key, "/messages").await?.expect(200)?;
    }
    assert_eq!(keys(&gateway, revoke).await?, "");
    gateway.finish(&[]).await
}

async fn a_key_over_its_rate_gets_429(setup: Setup) -> anyhow::Result<Accounted> {
    let gateway = Plan::new(setup)?.production().start().await?;
    let body = json!({"name": "slow", "role": "viewer", "rate_per_second": 1});
    let made = gateway.post("/api-keys", body).await?.expect(201)?;
    let key = made.field("key")?;
    let limited = until_status(&gateway, &key, 429).await?;
    for (header, expected) in [
        ("retry-after", "1"),
        ("ratelimit", r#""requests-per-key";r=0;t=1"#),
        ("ratelimit-policy", r#""requests-per-key";q=1;w=1"#),
        ("content-type", "application/problem+json"),
    ] {
        assert_eq!(limited.header(header), expected, "{header}");
    }
    gateway.get("/messages").await?.expect(200)?;
    until_status(&gateway, &key, 200).await?;
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
    let key = keys(&gateway, "create --name first --role operator").await?;
    gateway.start_all().await?;
    get(&gateway, &key, "/messages").await?.expect(200)?;
    gateway.finish(&[]).await
}

async fn development_needs_no_key_and_reports_a_wrong_one(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let gateway = Plan::new(setup)?.start().await?;
    gateway.get("/messages").await?.expect(200)?;
    get(&gateway, "wrong", "/messages").await?.expect(401)?;
    let (_, viewer) = make(&gateway, "viewer", Value::Null).await?;
    let refused = call(&gateway, &viewer, Method::DELETE, "/channel/echo", "").await?;
    refused.expect(403)?;
    gateway.finish(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_unavailable_known_keys_are_served() -> anyhow::Result<()> {
    let plan = Plan::new(Setup::Servers)?.production();
    let (plan, proxy) = plan.store_by_proxy().await?;
    let (gateway, channel) = plan.start_with_channel(|_| Reply::ok()).await?;
    let (_, key) = make(&gateway, "producer", Value::Null).await?;
    let send = async |key: &str| post(&gateway, key, "/channel/message", message("c")).await;
    let until_sent = async |key: &str, status: u16| {
        wait::until(format!("an unknown key to get {status}"), async || {
            let response = send(key).await.ok()?;
            assert!(response.status != 202, "{}", response.text);
            (response.status == status).then_some(response)
        })
        .await
    };
    send(&key).await?.expect(202)?;

    proxy.refuse();
    let unknown = until_sent(&made_up(), 503).await?;
    unknown.expect_retry_after(503)?;
    send(&key).await?.expect(202)?;
    send(OPERATOR_KEY).await?.expect(202)?;
    send("wrong").await?.expect(401)?;

    proxy.resume();
    until_sent(&made_up(), 401).await?;
    gateway.all_taken(&[&channel]).await?;
    gateway.finish(&[&channel]).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_is_ready_only_after_it_has_read_the_keys() -> anyhow::Result<()> {
    let plan = Plan::new(Setup::Servers)?.env("OPERATOR_KEY", "");
    let (plan, proxy) = plan.production().store_by_proxy().await?;
    let mut gateway = plan.prepare().await?;
    let key = keys(&gateway, "create --name first --role viewer").await?;
    proxy.refuse();
    gateway.launch_all()?;
    wait::until("the ingress to say why it is not ready", async || {
        let (status, readiness) = gateway.ready(Role::Ingress).await.ok()?;
        (readiness["broker"] == "ready" && status == 503 && readiness["ingress"].is_string())
            .then_some(())
    })
    .await?;
    get(&gateway, &key, "/messages").await?.expect(503)?;
    let stranger = gateway.request_with(None, Method::GET, "/messages", &[], "");
    stranger.await?.expect(401)?;
    proxy.resume();
    gateway.process(Role::Ingress)?.ready().await?;
    until_status(&gateway, &key, 200).await?;
    gateway.finish(&[]).await.map(drop)
}

/// A new database builds its indexes in the background; a command waits for them.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_on_mongodb_ends_what_it_began() -> anyhow::Result<()> {
    const RUNS: usize = 20;
    for _ in 0..RUNS {
        let gateway = Plan::new(Setup::Servers)?.prepare().await?;
        let listed = run_keys(&gateway, "list").await?;
        let stderr = String::from_utf8_lossy(&listed.stderr);
        ensure!(listed.status.success(), "{stderr}");
        assert_eq!(stderr, "");
        let ended = gateway.finish_unaccounted("nothing was started");
        ended.await.map(drop)?;
    }
    Ok(())
}

/// Runs the program in this folder with `closed` as an output that the reader has closed.
fn with_closed(
    folder: &Path,
    arguments: &str,
    closed: fn(&mut Command, Stdio),
) -> anyhow::Result<Output> {
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let mut command = Command::new(gateway_binary()?);
    command
        .args(arguments.split(' '))
        .current_dir(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    closed(&mut command, writer.into());
    Ok(command.spawn()?.wait_with_output()?)
}

#[test]
fn a_command_whose_output_is_closed_does_not_panic() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    for arguments in ["config", "rabbitmq-policies"] {
        let done = with_closed(folder.path(), arguments, |command, closed| {
            command.stdout(closed);
        })?;
        assert!(done.status.success(), "{arguments}: {}", done.status);
        assert_eq!(String::from_utf8_lossy(&done.stderr), "", "{arguments}");
    }
    let create = "keys create --name first --role operator";
    let done = with_closed(folder.path(), create, |command, closed| {
        command.stderr(closed);
    })?;
    assert!(done.status.success(), "{}", done.status);
    assert_eq!(String::from_utf8_lossy(&done.stdout).lines().count(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_mongodb_that_fails_ends_with_one_line() -> anyhow::Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let plan = Plan::new(Setup::Servers)?;
    let plan = plan.env(
        "ROUNDTRIP__OPERATIONS__LISTEN",
        taken.local_addr()?.to_string(),
    );
    let gateway = plan.prepare().await?;
    let refused = gateway.refused_start().await?;
    let printed = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success(), "{printed}");
    assert!(printed.contains("operations"), "{printed}");
    assert!(!printed.contains("panicked"), "{printed}");
    gateway
        .finish_unaccounted("nothing was started")
        .await
        .map(drop)
}
