//! What a user of a channel's platform says first.

use anyhow::ensure;
use harness::{
    child::root,
    gateway::{Accounted, Plan, Response, Role, Setup, TestGateway, events},
    scripted::{Reply, ScriptedServer, failing_once},
};
use reqwest::Method;
use roundtrip_model::{Clock, Signer, SigningSecret, SystemClock};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};
use tokio::process::Command;

on_both_setups! {
    a_signed_inbound_message_reaches_the_sessions_server,
    a_bare_forward_of_it_has_the_two_fields_of_the_specification,
    a_wrong_an_old_or_a_missing_signature_is_refused_alike,
    a_repeat_is_forwarded_once,
    both_secrets_of_a_rotation_are_accepted,
    a_channel_key_posts_for_its_channels_and_does_nothing_else,
    a_paused_channel_accepts_inbound_messages,
    a_session_shows_it_between_messages_and_keeps_the_beginning_of_a_long_one,
    a_dead_inbound_message_is_replayed_as_a_dead_letter_only,
    a_flood_of_one_channel_is_refused,
}

/// The bytes of a number and of an escape are kept.
const DATA: &str = r#"{"text":"caf\u00e9","n":1.50e300}"#;
const PATH: &str = "/channel/c/inbound";
const STRANGERS_SECRET: &str = "whsec_c3RyYW5nZXJzIHNlY3JldCBvZiAzMiBieXRlcyEhISE=";

fn body(data: &str) -> String {
    format!(r#"{{"session_id":"abc123","data":{data}}}"#)
}

/// The headers of a request that was signed at this time.
fn signed(
    secret: &str,
    id: &str,
    at: OffsetDateTime,
    body: &str,
) -> anyhow::Result<[(&'static str, String); 3]> {
    let secret: SigningSecret = secret.parse()?;
    Ok([
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", at.unix_timestamp().to_string()),
        (
            "webhook-signature",
            Signer::new(&secret, []).sign(id, at, body.as_bytes()),
        ),
    ])
}

async fn post(
    gateway: &TestGateway,
    path: &str,
    headers: &[(&'static str, String)],
    body: &str,
) -> anyhow::Result<Response> {
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let posted = gateway.request_with(None, Method::POST, path, &headers, body);
    posted.await
}

/// Posts as the channel `c` does now, with this `webhook-id`.
async fn say(
    gateway: &TestGateway,
    secret: &str,
    id: &str,
    data: &str,
) -> anyhow::Result<Response> {
    let body = body(data);
    let headers = signed(secret, id, SystemClock.now(), &body)?;
    post(gateway, PATH, &headers, &body).await
}

/// A gateway with the channel `c`, whose secret is returned, and a sessions server.
async fn start(plan: Plan) -> anyhow::Result<(TestGateway, String, ScriptedServer)> {
    let sessions = ScriptedServer::start(|_| Reply::ok()).await?;
    let gateway = plan.sessions_server(sessions.url()).start().await?;
    let secret = gateway.register("c", "http://127.0.0.1/").await?;
    Ok((gateway, secret, sessions))
}

async fn a_signed_inbound_message_reaches_the_sessions_server(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (gateway, secret, sessions) = start(Plan::new(setup)?.production()).await?;
    let accepted = say(&gateway, &secret, "evt-1", DATA).await?.expect(202)?;
    let id = accepted.field("message_id")?;
    let expected =
        json!({"success": true, "message_id": id, "session_id": "abc123", "status": "queued"});
    assert_eq!(accepted.json(), expected);
    let forward = &sessions.taken_at_least(1).await?[0];
    assert_eq!(forward.webhook_id(), id);
    assert_eq!(forward.header("roundtrip-kind"), "inbound");
    assert_eq!(forward.header("roundtrip-channel-id"), "c");
    assert!(!forward.headers.contains_key("roundtrip-message-id"));
    let expected = format!(r#"{{"session_id":"abc123","channel_id":"c","response_data":{DATA}}}"#);
    assert_eq!(forward.body, expected);
    let message = gateway
        .until_message(&id, |message| {
            message["state"] == "forwarded" && events(message).len() == 2
        })
        .await?;
    assert_eq!(events(&message), ["received", "attempted"]);
    let listed = gateway.get("/messages?kind=inbound").await?.expect(200)?;
    let listed = &listed.json()["messages"][0];
    assert_eq!(
        (&listed["message_id"], &listed["kind"]),
        (&json!(id), &json!("inbound"))
    );
    gateway.finish(&[&sessions]).await
}

async fn a_bare_forward_of_it_has_the_two_fields_of_the_specification(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let plan = Plan::new(setup)?.env("ROUNDTRIP__FORWARDER__BODY", "bare");
    let (gateway, secret, sessions) = start(plan).await?;
    say(&gateway, &secret, "evt-1", DATA).await?.expect(202)?;
    let forward = &sessions.taken_at_least(1).await?[0];
    let expected = format!(r#"{{"session_id":"abc123","response_data":{DATA}}}"#);
    assert_eq!(forward.body, expected);
    assert_eq!(forward.header("roundtrip-kind"), "inbound");
    gateway.finish(&[&sessions]).await
}

async fn a_wrong_an_old_or_a_missing_signature_is_refused_alike(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let mut gateway = Plan::new(setup)?.production().start().await?;
    let secret = gateway.register("c", "http://127.0.0.1/").await?;
    let of_another = gateway.register("d", "http://127.0.0.1/").await?;
    let (now, body) = (SystemClock.now(), body(DATA));
    let good = signed(&secret, "evt-1", now, &body)?;
    let with = |name: &str, value: &str| {
        let mut headers = good.clone();
        for header in headers.iter_mut().filter(|header| header.0 == name) {
            value.clone_into(&mut header.1);
        }
        headers.to_vec()
    };
    let later = (now + Duration::SECOND).unix_timestamp().to_string();
    let cases = [
        ("no headers", PATH, vec![]),
        ("no id", PATH, good[1..].to_vec()),
        ("no time", PATH, vec![good[0].clone(), good[2].clone()]),
        ("no signature", PATH, good[..2].to_vec()),
        ("an empty signature", PATH, with("webhook-signature", "")),
        ("another id", PATH, with("webhook-id", "evt-2")),
        ("another time", PATH, with("webhook-timestamp", &later)),
        ("no number", PATH, with("webhook-timestamp", "now")),
        (
            "an old request",
            PATH,
            signed(&secret, "evt-1", now - Duration::minutes(6), &body)?.to_vec(),
        ),
        (
            "a request of the future",
            PATH,
            signed(&secret, "evt-1", now + Duration::minutes(6), &body)?.to_vec(),
        ),
        (
            "another channel's secret",
            PATH,
            signed(&of_another, "evt-1", now, &body)?.to_vec(),
        ),
        (
            "a stranger's secret",
            PATH,
            signed(STRANGERS_SECRET, "evt-1", now, &body)?.to_vec(),
        ),
        (
            "another body",
            PATH,
            signed(&secret, "evt-1", now, "{}")?.to_vec(),
        ),
        (
            "an unknown channel",
            "/channel/unknown/inbound",
            good.to_vec(),
        ),
        ("no channel's id", "/channel/a%20b/inbound", good.to_vec()),
    ];
    let mut first = None;
    for (what, path, headers) in cases {
        let refused = post(&gateway, path, &headers, &body).await?;
        ensure!(refused.status == 401, "{what}: {}", refused.text);
        let mut problem = refused.json();
        problem["request_id"] = Value::Null;
        assert_eq!(problem["type"], "urn:roundtrip:problem:inbound-refused");
        assert_eq!(
            first.get_or_insert_with(|| problem.clone()),
            &problem,
            "{what}"
        );
    }
    gateway
        .until_logged(Role::Ingress, &["inbound.refused", "reason"], 1)
        .await?;
    assert_eq!(gateway.enqueued().await?, 0);
    gateway.finish(&[]).await
}

async fn a_repeat_is_forwarded_once(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, secret, sessions) = start(Plan::new(setup)?).await?;
    let of_another = gateway.register("d", "http://127.0.0.1/").await?;
    let first = say(&gateway, &secret, "evt-1", DATA).await?.expect(202)?;
    // At another time, and with other white space.
    let body = body(&DATA.replace(',', " , "));
    let headers = signed(
        &secret,
        "evt-1",
        SystemClock.now() - Duration::MINUTE,
        &body,
    )?;
    let again = post(&gateway, PATH, &headers, &body).await?.expect(202)?;
    assert_eq!(again.json(), first.json());
    assert_eq!(again.header("idempotent-replayed"), "true");
    let other = say(&gateway, &secret, "evt-1", "2").await?.expect(409)?;
    assert_eq!(
        other.field("type")?,
        "urn:roundtrip:problem:webhook-id-reused"
    );
    assert_eq!(other.json()["errors"][0]["field"], "webhook-id");
    // Another channel has its own ids.
    let headers = signed(&of_another, "evt-1", SystemClock.now(), &body)?;
    let elsewhere = post(&gateway, "/channel/d/inbound", &headers, &body).await?;
    let elsewhere = elsewhere.expect(202)?.field("message_id")?;
    sessions.taken_at_least(2).await?;
    // A repeat would come before this one.
    say(&gateway, &secret, "evt-2", DATA).await?.expect(202)?;
    let taken = sessions.taken_at_least(3).await?;
    assert_eq!(taken.len(), 3);
    assert_eq!(sessions.taken_of(&first.field("message_id")?).len(), 1);
    assert_eq!(sessions.taken_of(&elsewhere).len(), 1);
    gateway.finish(&[&sessions]).await
}

async fn both_secrets_of_a_rotation_are_accepted(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, old, sessions) = start(Plan::new(setup)?).await?;
    say(&gateway, &old, "evt-1", "1").await?.expect(202)?;
    let rotate = async |overlap: &str| {
        let body = json!({"overlap": overlap});
        let rotated = gateway.post("/channel/c/secret/rotate", body).await?;
        rotated.expect(200)?.field("signing_secret")
    };
    let new = rotate("1h").await?;
    say(&gateway, &old, "evt-2", "2").await?.expect(202)?;
    say(&gateway, &new, "evt-3", "3").await?.expect(202)?;
    let newest = rotate("0s").await?;
    for ended in [&old, &new] {
        say(&gateway, ended, "evt-4", "4").await?.expect(401)?;
    }
    say(&gateway, &newest, "evt-4", "4").await?.expect(202)?;
    sessions.taken_at_least(4).await?;
    gateway.finish(&[&sessions]).await
}

async fn a_channel_key_posts_for_its_channels_and_does_nothing_else(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (gateway, _, sessions) = start(Plan::new(setup)?.production()).await?;
    gateway.register("other", "http://127.0.0.1/").await?;
    let unlimited = json!({"name": "k", "role": "channel"});
    let unlimited = gateway.post("/api-keys", unlimited).await?.expect(422)?;
    assert_eq!(unlimited.json()["errors"][0]["field"], "channels");
    let arguments = "keys create --name k --role channel --channel c --channel gone";
    let made = gateway
        .command(&arguments.split(' ').collect::<Vec<_>>())
        .await?;
    ensure!(made.status.success(), "{made:?}");
    let key = String::from_utf8(made.stdout)?.trim().to_owned();
    let call = async |method: Method, path: &str, headers: &[(&str, &str)]| {
        let called = gateway.request_with(Some(&key), method, path, headers, body("1"));
        called.await
    };
    let post = async |path: &str, headers: &[(&str, &str)]| call(Method::POST, path, headers).await;
    let id = [("webhook-id", "evt-1")];
    let first = post(PATH, &id).await?.expect(202)?;
    assert_eq!(post(PATH, &id).await?.expect(202)?.json(), first.json());
    // Without an id every request is another message.
    post(PATH, &[]).await?.expect(202)?;
    post(PATH, &[]).await?.expect(202)?;
    sessions.taken_at_least(3).await?;
    post("/channel/other/inbound", &[]).await?.expect(403)?;
    post("/channel/gone/inbound", &[]).await?.expect(404)?;
    for (method, path, access) in roundtrip_ingress::calls() {
        let path = path.replace("{channel_id}", "c").replace(['{', '}'], "");
        if path != PATH && access != roundtrip_ingress::Access::Open {
            let refused = call(method.clone(), &path, &[]).await?;
            ensure!(refused.status == 403, "{method} {path}: {}", refused.text);
        }
    }
    assert_eq!(sessions.taken().len(), 3);
    gateway.finish(&[&sessions]).await
}

async fn a_paused_channel_accepts_inbound_messages(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, secret, sessions) = start(Plan::new(setup)?).await?;
    gateway.post("/channel/c/pause", "").await?.expect(200)?;
    say(&gateway, &secret, "evt-1", DATA).await?.expect(202)?;
    sessions.taken_at_least(1).await?;
    gateway.finish(&[&sessions]).await
}

async fn a_session_shows_it_between_messages_and_keeps_the_beginning_of_a_long_one(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (gateway, channel, sessions) = Plan::new(setup)?
        .env("ROUNDTRIP__INGRESS__MAX_KEPT_ANSWER_BYTES", DATA.len())
        .start_with_servers(|_| Reply::ok())
        .await?;
    let rotate = gateway.post("/channel/c/secret/rotate", "{}").await?;
    let secret = rotate.expect(200)?.field("signing_secret")?;
    let first = gateway.send("c", "abc123").await?;
    channel.taken_at_least(1).await?;
    let long = format!(r#""{}""#, "x".repeat(DATA.len()));
    let mut expected = vec![json!(["message", first, null])];
    for (id, data) in [("evt-1", DATA), ("evt-2", &long)] {
        let said = say(&gateway, &secret, id, data).await?.expect(202)?;
        let said = said.field("message_id")?;
        let kept = if data == DATA {
            serde_json::from_str(DATA)?
        } else {
            json!({"head": &long[..DATA.len()], "bytes": long.len()})
        };
        expected.push(json!(["inbound", said, kept]));
    }
    sessions.taken_at_least(2).await?;
    assert!(
        sessions
            .taken()
            .iter()
            .any(|taken| taken.body.contains(&long))
    );
    let last = gateway.send("c", "abc123").await?;
    expected.push(json!(["message", last, null]));
    let shown = |page: &Value| -> Vec<Value> {
        let turns = page["turns"].as_array().into_iter().flatten();
        let turn = |turn: &Value| {
            let data = turn.get("data").or_else(|| turn.get("truncated_data"));
            json!([turn["type"], turn["message_id"], data])
        };
        turns.map(turn).collect()
    };
    let has_all = |page: &Value| shown(page).len() == expected.len();
    let page = gateway.until("/sessions/abc123", has_all).await?;
    assert_eq!(shown(&page), expected);
    let text = gateway.get("/sessions/abc123").await?.text;
    assert!(text.contains(DATA), "{text}");
    gateway.finish(&[&channel, &sessions]).await
}

async fn a_dead_inbound_message_is_replayed_as_a_dead_letter_only(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let sessions = ScriptedServer::start(failing_once(Reply::status(422))).await?;
    let plan = Plan::new(setup)?.sessions_server(sessions.url());
    let gateway = plan.start().await?;
    let secret = gateway.register("c", "http://127.0.0.1/").await?;
    let said = say(&gateway, &secret, "evt-1", DATA).await?.expect(202)?;
    let id = said.field("message_id")?;
    let letter = &gateway.until_dead("c", 1).await?[0];
    assert_eq!(
        (
            &letter["queue"],
            &letter["webhook_id"],
            &letter["session_id"]
        ),
        (&json!("callbacks"), &json!(id), &json!("abc123"))
    );
    gateway.until_state(&id, "dead").await?;
    let all = json!({"channel_id": "c", "dry_run": true});
    let messages = gateway.post("/messages/replay", all).await?.expect(200)?;
    assert_eq!(messages.json()["matched"], 0);
    let replay = json!({"channel_id": "c"});
    let replay = gateway.post("/dead-letters/replay", replay).await?;
    replay.expect(202)?;
    let forward = &sessions.taken_at_least(1).await?[0];
    assert_eq!(forward.webhook_id(), id);
    assert_eq!(forward.header("roundtrip-kind"), "inbound");
    gateway.until_state(&id, "forwarded").await?;
    gateway.finish(&[&sessions]).await
}

async fn a_flood_of_one_channel_is_refused(setup: Setup) -> anyhow::Result<Accounted> {
    let plan = Plan::new(setup)?.env("ROUNDTRIP__INGRESS__ANSWER_RATE_PER_CHANNEL", 1);
    let (gateway, secret, sessions) = start(plan).await?;
    let of_another = gateway.register("d", "http://127.0.0.1/").await?;
    let mut refused = None;
    for number in 0..20 {
        let said = say(&gateway, &secret, &format!("evt-{number}"), "1").await?;
        if said.status == 429 {
            refused = Some(said);
            break;
        }
        said.expect(202)?;
    }
    let refused = refused.expect("more than one a second");
    assert_eq!(
        refused.field("type")?,
        "urn:roundtrip:problem:answers-rate-limited"
    );
    let body = body("1");
    let headers = signed(&of_another, "evt-1", SystemClock.now(), &body)?;
    let elsewhere = post(&gateway, "/channel/d/inbound", &headers, &body).await?;
    elsewhere.expect(202)?;
    gateway.finish(&[&sessions]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_sessions_server_the_inbox_shows_what_the_documented_command_says()
-> anyhow::Result<()> {
    let gateway = Plan::new(Setup::Embedded)?.start().await?;
    let secret = gateway.register("slack-sim", "http://127.0.0.1/").await?;
    let page = std::fs::read_to_string(root().join("docs/channel-servers.md"))?;
    let command = page
        .split("```bash\n")
        .filter_map(|block| block.split("```").next())
        .find(|block| block.contains("/inbound"))
        .expect("the command");
    let ran = Command::new("bash")
        .args(["-euo", "pipefail", "-c", command])
        .env("api", gateway.url(""))
        .env("SIGNING_SECRET", secret)
        .output()
        .await?;
    let printed = String::from_utf8_lossy(&ran.stdout);
    ensure!(printed.contains("queued"), "{ran:?}");
    let said = gateway.until_in_inbox("abc123", 1).await?;
    assert_eq!(said, [json!({"text": "Is anybody there?"})]);
    gateway
        .finish_unaccounted("the inbox is in memory")
        .await
        .map(drop)
}
