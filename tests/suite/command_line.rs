//! The command line, against a running gateway.

use std::{
    collections::BTreeSet,
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, ensure};
use harness::{
    audit::Audit,
    gateway::{Accounted, OPERATOR_KEY, Plan, Role, Setup, TestGateway, events},
    process::{gateway_binary, run_to_end},
    scripted::{Reply, ScriptedServer},
    wait,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

on_both_setups! {
    an_operator_finds_dead_letters_mends_the_endpoint_and_replays,
    an_interrupted_watch_leaves_the_replay_running_and_says_how_to_end_it,
    the_messages_of_a_file_are_sent_and_each_rejected_line_is_named,
    messages_are_printed_as_they_are_accepted,
    events_of_a_session_are_printed_as_they_come,
    a_purge_says_how_many_it_would_remove,
    a_session_is_shown_and_erased,
    each_outcome_has_its_exit_status,
    a_hostile_name_reaches_no_terminal,
    a_profile_of_a_private_file_opens_the_gateway,
    a_ready_process_is_healthy,
}

/// What a command has printed, after this exit status.
struct Ran {
    out: String,
    err: String,
}

impl Ran {
    fn of(output: &Output, status: i32) -> anyhow::Result<Self> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec());
        let (out, err) = (text(&output.stdout)?, text(&output.stderr)?);
        ensure!(
            output.status.code() == Some(status),
            "{:?}: {out}{err}",
            output.status
        );
        Ok(Self { out, err })
    }

    /// The JSON of each line.
    fn lines(&self) -> anyhow::Result<Vec<Value>> {
        let lines = self.out.lines();
        lines.map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    fn json(&self) -> anyhow::Result<Value> {
        let mut lines = self.lines()?;
        ensure!(lines.len() == 1, "{}", self.out);
        lines.pop().context("no line")
    }
}

/// Runs a command and checks that it ends with `status`.
async fn run(gateway: &TestGateway, status: i32, arguments: &[&str]) -> anyhow::Result<Ran> {
    let output = gateway.client(arguments, &[]).await?;
    Ran::of(&output, status).with_context(|| arguments.join(" "))
}

/// The items of a list.
async fn list(gateway: &TestGateway, arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
    let arguments = [arguments, &["--output", "json"]].concat();
    run(gateway, 0, &arguments).await?.lines()
}

/// Waits until a list has so many items.
async fn until_listed(
    gateway: &TestGateway,
    arguments: &[&str],
    count: usize,
) -> anyhow::Result<Vec<Value>> {
    wait::until(format!("{count} of {arguments:?}"), async || {
        let items = list(gateway, arguments).await.ok()?;
        (items.len() == count).then_some(items)
    })
    .await
}

/// A gateway with the channel `shop`, at a server that answers, or rejects while it is broken.
async fn with_shop(
    setup: Setup,
) -> anyhow::Result<(TestGateway, ScriptedServer, ScriptedServer, Arc<AtomicBool>)> {
    let broken = Arc::new(AtomicBool::new(false));
    let is_broken = Arc::clone(&broken);
    let shop = ScriptedServer::start(move |_| {
        if is_broken.load(Ordering::Relaxed) {
            Reply::status(400).body("no such user")
        } else {
            Reply::answering(r#""pong""#)
        }
    })
    .await?;
    let sessions = ScriptedServer::start(|_| Reply::ok()).await?;
    let plan = Plan::new(setup)?.sessions_server(sessions.url());
    let gateway = plan.start().await?;
    let url = shop.url();
    let create = [
        "channels",
        "create",
        "shop",
        "--endpoint-url",
        &url,
        "--name",
        "The shop",
        "--tag",
        "a",
    ];
    let created = run(&gateway, 0, &create).await?;
    ensure!(created.out.contains("whsec_"), "{}", created.out);
    Ok((gateway, shop, sessions, broken))
}

/// Sends messages that become dead letters, and returns those.
async fn dead_letters(gateway: &TestGateway, count: usize) -> anyhow::Result<Vec<Value>> {
    for number in 0..count {
        let session = format!("lost{number}");
        run(
            gateway,
            0,
            &["send", "shop", "Hello", "--session", &session],
        )
        .await?;
    }
    until_listed(
        gateway,
        &["dead-letters", "list", "--channel", "shop"],
        count,
    )
    .await
}

async fn an_operator_finds_dead_letters_mends_the_endpoint_and_replays(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (gateway, shop, sessions, broken) = with_shop(setup).await?;
    let send = ["send", "shop", "ping", "--session", "s", "--wait", "50"];
    let sent = run(&gateway, 0, &send).await?;
    assert!(
        sent.out.contains("answered") && sent.out.contains("pong"),
        "{}",
        sent.out
    );

    broken.store(true, Ordering::Relaxed);
    let letters = dead_letters(&gateway, 5).await?;
    let id = letters[0]["message_id"].as_str().context("no id")?;
    let shown = run(&gateway, 0, &["dead-letters", "show", id]).await?;
    for words in ["refused", "no such user", "shop", "lost"] {
        assert!(shown.out.contains(words), "{words}: {}", shown.out);
    }
    let replay = ["dead-letters", "replay", "--channel", "shop"];
    let counted = run(&gateway, 0, &[&replay[..], &["--dry-run"]].concat()).await?;
    assert_eq!(counted.out, "matched  5\n");
    let unconfirmed = run(&gateway, 2, &replay).await?;
    assert!(
        unconfirmed.err.contains("Replay 5 dead letters?"),
        "{}",
        unconfirmed.err
    );
    assert!(unconfirmed.err.contains("--yes"), "{}", unconfirmed.err);

    broken.store(false, Ordering::Relaxed);
    let options = ["--rate", "100", "--yes", "--output", "json"];
    let replayed = run(&gateway, 0, &[&replay[..], &options].concat()).await?;
    let replayed = replayed.json()?;
    assert_eq!(replayed["status"], "done");
    assert_eq!(replayed["progress"]["replayed"], 5);
    let replays = run(&gateway, 0, &["replays", "list", "--status", "done"]).await?;
    let replay_id = replayed["replay_id"].as_str().context("no id")?;
    assert!(replays.out.contains(replay_id), "{}", replays.out);

    // The recorder writes the replay's entry, perhaps after the forward's.
    let is_complete = |message: &Value| {
        message["state"] == "forwarded"
            && events(message).contains(&"replayed")
            && message["answers"][0]["response_data"] == "pong"
    };
    gateway.until_message(id, is_complete).await?;
    until_listed(&gateway, &["dead-letters", "list"], 0).await?;
    run(&gateway, 5, &["dead-letters", "show", id]).await?;
    let shown = run(&gateway, 0, &["messages", "show", id]).await?;
    for words in ["forwarded", "replayed", "no such user", "pong"] {
        assert!(shown.out.contains(words), "{words}: {}", shown.out);
    }
    let session = ["messages", "list", "--session", "lost0", "--since", "1h"];
    let messages = list(&gateway, &session).await?;
    assert_eq!(messages.len(), 1);
    gateway.finish(&[&shop, &sessions]).await
}

/// Starts a command that runs until it is interrupted.
fn start(gateway: &TestGateway, arguments: &[&str], out: Stdio) -> anyhow::Result<Child> {
    let child = Command::new(gateway_binary()?)
        .args(arguments)
        .env_clear()
        .env("ROUNDTRIP_URL", gateway.url(""))
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    Ok(child)
}

async fn an_interrupted_watch_leaves_the_replay_running_and_says_how_to_end_it(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (gateway, shop, sessions, broken) = with_shop(setup).await?;
    broken.store(true, Ordering::Relaxed);
    dead_letters(&gateway, 30).await?;
    broken.store(false, Ordering::Relaxed);
    let slowly = ["dead-letters", "replay", "--all", "--rate", "1", "--yes"];
    let child = start(&gateway, &slowly, Stdio::piped())?;
    let running = ["replays", "list", "--status", "running"];
    let replay = until_listed(&gateway, &running, 1).await?.remove(0);
    let id = replay["replay_id"].as_str().context("no id")?;
    let pid = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
    kill_process(pid.context("no process")?, Signal::INT)?;
    let interrupted = Ran::of(&child.wait_with_output().await?, 130)?;
    assert!(
        interrupted
            .err
            .contains(&format!("roundtrip replays stop {id}")),
        "{}",
        interrupted.err
    );

    until_listed(&gateway, &running, 1).await?;
    run(&gateway, 0, &["replays", "stop", id]).await?;
    let shown = run(&gateway, 0, &["replays", "show", id]).await?;
    assert!(shown.out.contains("cancelled"), "{}", shown.out);
    run(&gateway, 1, &["replays", "show", id, "--watch"]).await?;
    gateway.finish(&[&shop, &sessions]).await
}

async fn the_messages_of_a_file_are_sent_and_each_rejected_line_is_named(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let plan = Plan::new(setup)?;
    let (gateway, channel) = plan.start_with_channel(|_| Reply::ok()).await?;
    let line = |number: usize| json!({"channel_id": "c", "session_id": format!("s{number}"), "message": number});
    let lines = (0..1000).map(|number| format!("{}\n", line(number)));
    let file = gateway.folder().join("messages.ndjson");
    fs::write(&file, lines.collect::<String>())?;
    let batch = ["send", "--batch", "messages.ndjson"];
    let sent = run(&gateway, 0, &batch).await?;
    assert!(sent.out.contains("accepted    1000\n"), "{}", sent.out);
    channel.taken_at_least(1000).await?;
    let sessions: BTreeSet<_> = channel
        .taken()
        .iter()
        .map(|taken| taken.field("session_id"))
        .collect();
    assert_eq!(sessions.len(), 1000);

    let lines = [line(1), json!({"channel_id": "c"}), line(2)].map(|line| line.to_string());
    fs::write(&file, lines.join("\n"))?;
    let keyed = [&batch[..], &["--idempotency-key", "night"]].concat();
    let some = run(&gateway, 1, &keyed).await?;
    assert!(some.out.contains("accepted    2\n"), "{}", some.out);
    assert!(
        some.err.contains("line 2: ") && some.err.contains("session_id"),
        "{}",
        some.err
    );
    assert!(
        some.err.contains("1 of 3 messages were rejected"),
        "{}",
        some.err
    );
    // The repeat sends nothing twice.
    let again = [&keyed[..], &["--output", "json"]].concat();
    let again = run(&gateway, 1, &again).await?.lines()?;
    let replayed: Vec<_> = again
        .iter()
        .map(|result| &result["idempotent_replayed"])
        .collect();
    assert_eq!(replayed, [&json!(true), &Value::Null, &json!(true)]);
    channel.taken_at_least(1002).await?;
    gateway.send("c", "last").await?;
    channel.taken_at_least(1003).await?;
    assert_eq!(channel.taken().len(), 1003);
    gateway.finish(&[&channel]).await
}

async fn messages_are_printed_as_they_are_accepted(setup: Setup) -> anyhow::Result<Accounted> {
    let plan = Plan::new(setup)?;
    let (gateway, channel) = plan.start_with_channel(|_| Reply::ok()).await?;
    let early = gateway.send("c", "early").await?;
    gateway.until_state(&early, "delivered").await?;
    let path = gateway.folder().join("tail.ndjson");
    let tail = ["messages", "tail", "--channel", "c", "--output", "json"];
    let _tail = start(&gateway, &tail, File::create(&path)?.into())?;
    let mut sent = Vec::new();
    let printed = wait::until("a printed message", async || {
        sent.push(gateway.send("c", "s").await.ok()?);
        let printed = fs::read_to_string(&path).ok()?;
        printed.ends_with('\n').then_some(printed)
    })
    .await?;
    for line in printed.lines() {
        let message: Value = serde_json::from_str(line)?;
        let id = message["message_id"].as_str().unwrap_or_default();
        ensure!(sent.iter().any(|sent| sent == id), "{printed}");
    }
    gateway.finish(&[&channel]).await
}

async fn events_of_a_session_are_printed_as_they_come(setup: Setup) -> anyhow::Result<Accounted> {
    let plan = Plan::new(setup)?;
    let (gateway, channel, sessions) = plan
        .start_with_servers(|_| Reply::answering("\"pong\""))
        .await?;
    let early = gateway.send("c", "s").await?;
    let path = gateway.folder().join("tail.ndjson");
    let tail = ["sessions", "tail", "s", "--output", "json"];
    let _tail = start(&gateway, &tail, File::create(&path)?.into())?;
    let until_printed = async |count: usize| {
        wait::until(format!("{count} printed events"), async || {
            let printed = fs::read_to_string(&path).ok()?;
            let lines = printed.lines().map(serde_json::from_str::<Value>);
            let events = lines.collect::<Result<Vec<_>, _>>().ok()?;
            (events.len() >= count).then_some(events)
        })
        .await
    };
    until_printed(1).await?;
    let late = gateway.send("c", "s").await?;
    let events = until_printed(2).await?;
    let printed: Vec<_> = events
        .iter()
        .map(|event| {
            (
                &event["event"],
                &event["data"]["message_id"],
                &event["data"]["response_data"],
            )
        })
        .collect();
    let [answer, pong] = [json!("answer"), json!("pong")];
    let [early, late] = [json!(early), json!(late)];
    assert_eq!(printed, [(&answer, &early, &pong), (&answer, &late, &pong)]);
    gateway.finish(&[&channel, &sessions]).await
}

async fn a_purge_says_how_many_it_would_remove(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, shop, sessions, broken) = with_shop(setup).await?;
    broken.store(true, Ordering::Relaxed);
    dead_letters(&gateway, 3).await?;
    let unfiltered = run(&gateway, 2, &["dead-letters", "purge"]).await?;
    assert!(unfiltered.err.contains("--all"), "{}", unfiltered.err);
    let purge = ["dead-letters", "purge", "--session", "lost1"];
    let refused = run(&gateway, 2, &purge).await?;
    assert!(
        refused.err.contains("Remove 1 dead letters for good?"),
        "{}",
        refused.err
    );
    let purged = run(&gateway, 0, &[&purge[..], &["--yes"]].concat()).await?;
    assert_eq!(purged.out, "purged  1\n");
    until_listed(&gateway, &["dead-letters", "list", "--limit", "10"], 2).await?;
    let first = run(&gateway, 0, &["dead-letters", "list", "--limit", "1"]).await?;
    assert!(first.err.contains("--limit prints more"), "{}", first.err);
    gateway.finish(&[&shop, &sessions]).await
}

async fn a_session_is_shown_and_erased(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, shop, sessions, _) = with_shop(setup).await?;
    let send = [
        "send",
        "shop",
        "my secret",
        "--session",
        "s",
        "--wait",
        "50",
    ];
    run(&gateway, 0, &send).await?;
    let shown = until_listed(&gateway, &["sessions", "show", "s"], 2).await?;
    assert_eq!(shown[0]["message"], "my secret");
    let unconfirmed = run(&gateway, 2, &["sessions", "erase", "s"]).await?;
    assert!(
        unconfirmed
            .err
            .contains("contents of 2 messages and answers?"),
        "{}",
        unconfirmed.err
    );
    run(&gateway, 0, &["sessions", "erase", "s", "--yes"]).await?;
    wait::until("the erasure", async || {
        let shown = run(&gateway, 0, &["sessions", "show", "s"]).await.ok()?;
        (shown.err.contains("erased: ") && !shown.out.contains("my secret")).then_some(())
    })
    .await?;
    gateway.finish(&[&shop, &sessions]).await
}

async fn each_outcome_has_its_exit_status(setup: Setup) -> anyhow::Result<Accounted> {
    let plan = Plan::new(setup)?;
    let (gateway, channel) = plan.start_with_channel(|_| Reply::ok()).await?;
    let missing = run(&gateway, 5, &["channels", "get", "none"]).await?;
    assert!(
        missing.err.contains("The channel does not exist"),
        "{}",
        missing.err
    );
    assert!(missing.err.contains(", request "), "{}", missing.err);
    let create = ["channels", "create", "d", "--endpoint-url", "ftp://h"];
    let refused = run(&gateway, 3, &create).await?;
    let field = "\n  channel_metadata.endpoint_url: must be an http or https URL";
    assert!(refused.err.contains(field), "{}", refused.err);
    let send = ["send", "c", "Hello", "--session", "s", "--wait", "1"];
    let unanswered = run(&gateway, 6, &send).await?;
    assert!(unanswered.out.contains("queued"), "{}", unanswered.out);
    channel.taken_at_least(1).await?;
    run(
        &gateway,
        4,
        &["channels", "list", "--url", "http://127.0.0.1:1"],
    )
    .await?;
    run(&gateway, 2, &["channels", "lst"]).await?;

    let update = [
        "channels",
        "update",
        "c",
        "--metadata",
        r#"{"own": 1}"#,
        "--name",
        "n",
    ];
    run(&gateway, 0, &update).await?;
    let changed = gateway.get("/channel/c").await?.json();
    assert_eq!(changed["channel_name"], "n");
    let metadata = json!({"endpoint_url": channel.url(), "own": 1});
    assert_eq!(changed["channel_metadata"], metadata);
    run(&gateway, 0, &["channels", "pause", "c"]).await?;
    let listed = run(&gateway, 0, &["channels", "list"]).await?;
    assert!(listed.out.contains("paused"), "{}", listed.out);
    let later = ["send", "c", "Hello", "--session", "s", "--output", "json"];
    let later = run(&gateway, 0, &later).await?.json()?;
    let id = later["message_id"].as_str().context("no id")?;
    gateway.until_waiting("c", 1).await?;
    let waiting = run(&gateway, 0, &["channels", "waiting", "c"]).await?;
    assert!(waiting.out.contains("channel_paused"), "{}", waiting.out);
    run(&gateway, 2, &["messages", "cancel", id]).await?;
    let cancelled = run(&gateway, 0, &["messages", "cancel", id, "--yes"]).await?;
    assert!(cancelled.out.contains("cancelled"), "{}", cancelled.out);
    run(&gateway, 3, &["messages", "retry", id]).await?;
    run(&gateway, 0, &["channels", "retry", "c"]).await?;
    run(&gateway, 0, &["channels", "resume", "c"]).await?;
    let rotated = run(&gateway, 0, &["channels", "rotate-secret", "c"]).await?;
    assert!(rotated.out.contains("whsec_"), "{}", rotated.out);

    let unconfirmed = run(&gateway, 2, &["channels", "delete", "c"]).await?;
    assert!(
        unconfirmed.err.contains("0 messages wait for it"),
        "{}",
        unconfirmed.err
    );
    run(&gateway, 0, &["channels", "delete", "c", "--yes"]).await?;
    run(&gateway, 5, &["channels", "get", "c"]).await?;
    let document = run(&gateway, 0, &["openapi"]).await?.json()?;
    assert_eq!(
        document["openapi"],
        gateway.get("/openapi.json").await?.json()["openapi"]
    );
    gateway.finish(&[&channel]).await
}

async fn a_hostile_name_reaches_no_terminal(setup: Setup) -> anyhow::Result<Accounted> {
    let plan = Plan::new(setup)?;
    let (gateway, channel) = plan.start_with_channel(|_| Reply::ok()).await?;
    let hostile = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202e}gpj.\r\nexe";
    let named = json!({
        "channel_id": "hostile", "channel_name": hostile, "channel_tags": [hostile],
        "channel_description": hostile,
        "channel_metadata": {"endpoint_url": channel.url(), "own": hostile},
    });
    gateway.post("/channel", named).await?.expect(201)?;
    let message = json!({"channel_id": "c", "session_id": "s", "message": hostile});
    let sent = gateway
        .post("/channel/message", message)
        .await?
        .expect(202)?;
    let id = sent.field("message_id")?;
    gateway.until_state(&id, "delivered").await?;
    let is_safe = |c: char| c == '\n' || !(c.is_control() || c == '\u{202e}');
    for command in [
        &["channels", "list"][..],
        &["channels", "get", "hostile"],
        &["messages", "show", &id],
        &["sessions", "show", "s"],
    ] {
        for output in ["table", "json"] {
            let shown = run(&gateway, 0, &[command, &["--output", output]].concat()).await?;
            ensure!(
                shown.out.chars().all(is_safe),
                "{command:?}: {:?}",
                shown.out
            );
            ensure!(shown.out.contains("owned"), "{command:?}: {}", shown.out);
        }
    }
    let shown = run(
        &gateway,
        0,
        &["channels", "get", "hostile", "--output", "json"],
    )
    .await?;
    assert_eq!(shown.json()?["channel_name"], hostile);
    let refused = run(&gateway, 5, &["channels", "get", "\u{1b}[2J"]).await?;
    ensure!(refused.err.chars().all(is_safe), "{:?}", refused.err);
    gateway.finish(&[&channel]).await
}

async fn a_profile_of_a_private_file_opens_the_gateway(setup: Setup) -> anyhow::Result<Accounted> {
    let gateway = Plan::new(setup)?.production().start().await?;
    let file = gateway.folder().join("profiles.toml");
    let url = gateway.url("");
    fs::write(
        &file,
        format!("[here]\nurl = \"{url}\"\napi_key = \"{OPERATOR_KEY}\"\n"),
    )?;
    let profiles = [("ROUNDTRIP_PROFILES", file.to_str().context("no text")?)];
    let create = [
        "--profile",
        "here",
        "api-keys",
        "create",
        "--name",
        "n",
        "--role",
        "viewer",
    ];
    let create = [&create[2..], &create[..2], &["--output", "json"]].concat();
    for (mode, status) in [(0o600, 0), (0o640, 2)] {
        fs::set_permissions(&file, Permissions::from_mode(mode))?;
        let ran = Ran::of(&gateway.client(&create, &profiles).await?, status)?;
        assert_eq!(ran.err.contains("chmod 600 '"), status == 2, "{}", ran.err);
        if status == 0 {
            let key = ran.json()?["key"].as_str().context("no key")?.to_owned();
            let key = [
                ("ROUNDTRIP_API_KEY", key.as_str()),
                ("ROUNDTRIP_URL", url.as_str()),
            ];
            let read = gateway.client(&["messages", "list"], &key).await?;
            Ran::of(&read, 0)?;
            let role = gateway.client(&["channels", "pause", "c"], &key).await?;
            let role = Ran::of(&role, 3)?;
            assert!(role.err.contains("role does not allow"), "{}", role.err);
        }
    }
    let without = [("ROUNDTRIP_API_KEY", "")];
    let refused = Ran::of(&gateway.client(&["messages", "list"], &without).await?, 3)?;
    assert!(
        refused.err.contains("A valid API key is needed"),
        "{}",
        refused.err
    );
    gateway.finish(&[]).await
}

async fn a_ready_process_is_healthy(setup: Setup) -> anyhow::Result<Accounted> {
    let mut gateway = Plan::new(setup)?.start().await?;
    let operations = gateway.process(Role::Ingress)?.program().operations;
    let listens = [("ROUNDTRIP__OPERATIONS__LISTEN", &*operations.to_string())];
    Ran::of(&gateway.client(&["healthcheck"], &listens).await?, 0)?;
    run(
        &gateway,
        0,
        &["healthcheck", &format!("http://{operations}")],
    )
    .await?;
    run(&gateway, 1, &["healthcheck", "http://127.0.0.1:1"]).await?;
    run(&gateway, 1, &["healthcheck", &gateway.url("/nowhere")]).await?;
    gateway.finish(&[]).await
}

/// Runs a command that needs no gateway.
async fn alone(folder: &Path, arguments: &[&str], env: &[(&str, &str)]) -> anyhow::Result<Output> {
    let env: Vec<_> = env
        .iter()
        .map(|(name, value)| (String::from(*name), String::from(*value)))
        .collect();
    run_to_end(arguments, &env, folder, wait::WAIT_LIMIT, &Audit::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_is_shown_with_its_origins_and_without_secrets() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("roundtrip.toml"), "drain = \"7s\"\n")?;
    let env = [
        ("BROKER_URL", "amqp://user:a-password-of-the-broker@host/"),
        ("OPERATOR_KEY", OPERATOR_KEY),
    ];
    let check = ["config", "check", "--output", "json"];
    let checked = Ran::of(&alone(folder.path(), &check, &env).await?, 0)?;
    ensure!(!checked.out.contains("a-password") && !checked.out.contains(OPERATOR_KEY));
    let settings = checked.lines()?;
    for (key, value, origin) in [
        ("drain", "7s", "roundtrip.toml, line 1, column 1"),
        ("broker.url", "amqp://…", "BROKER_URL"),
        ("operator_key", "(a secret)", "OPERATOR_KEY"),
        ("ingress.listen", "127.0.0.1:8000", "default"),
    ] {
        let expected = json!({"key": key, "value": value, "origin": origin});
        ensure!(settings.contains(&expected), "{expected}: {}", checked.out);
    }
    let wrong = [("ROUNDTRIP__DRAIN", "soon")];
    let refused = Ran::of(
        &alone(folder.path(), &["config", "check"], &wrong).await?,
        64,
    )?;
    assert!(
        refused.err.contains("drain must be a duration"),
        "{}",
        refused.err
    );
    assert_eq!(refused.out, "");
    let default = Ran::of(&alone(folder.path(), &["config"], &[]).await?, 0)?;
    assert!(default.out.contains("[ingress]"), "{}", default.out);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_and_the_manual_are_printed() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    for (arguments, words) in [
        (&["completions", "bash"][..], "dead-letters"),
        (&["completions", "zsh"], "dead-letters"),
        (&["completions", "fish"], "dead-letters"),
        (&["man"], ".TH roundtrip"),
        (&["man", "channels", "create"], "endpoint"),
        (&["--help"], "Exit status:"),
    ] {
        let printed = Ran::of(&alone(folder.path(), arguments, &[]).await?, 0)?;
        assert!(
            printed.out.contains(words),
            "{arguments:?}: {}",
            printed.out
        );
    }
    Ran::of(&alone(folder.path(), &["man", "no"], &[]).await?, 2)?;
    Ok(())
}
