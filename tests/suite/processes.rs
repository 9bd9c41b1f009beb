//! The processes of the gateway: how they start, stop, share the load, and what a crash costs.

use std::{collections::BTreeSet, process::Output, time::Duration};

use anyhow::{Context, ensure};
use futures::StreamExt;
use harness::{
    audit::Audit,
    gateway::{Accounted, Plan, Role, Setup},
    process::run_to_end,
    scripted::{Reply, ScriptedServer},
    wait,
};
use rstest::rstest;
use rustix::process::{Pid, Signal, kill_process};
use tokio_util::sync::CancellationToken;

on_both_setups! {
    sigterm_lets_a_running_delivery_end,
    a_delivery_that_outlives_the_drain_returns_uncounted,
    sigkill_of_each_process_loses_nothing,
}

async fn sigterm_lets_a_running_delivery_end(setup: Setup) -> anyhow::Result<Accounted> {
    let gate = CancellationToken::new();
    let reply = Reply::ok().after(gate.clone());
    let (mut gateway, channel) = Plan::new(setup)?
        .start_with_channel(move |_| reply.clone())
        .await?;
    gateway.send("c", "under-way").await?;
    channel.received_at_least(1).await?;

    let log = gateway.process(Role::Dispatcher)?.log_path();
    let opened = async {
        wait::until("the dispatcher to say that it stops", async || {
            let log = std::fs::read_to_string(&log).ok()?;
            log.contains("stopping").then_some(())
        })
        .await?;
        gate.cancel();
        anyhow::Ok(())
    };
    tokio::try_join!(gateway.stop(Role::Dispatcher), opened)?;

    // If it were unsettled, it would be redelivered before this one.
    gateway.process(Role::Dispatcher)?.restart().await?;
    gateway.send("c", "later").await?;
    let taken = channel.taken_at_least(2).await?;
    let sessions = taken.iter().map(|request| request.field("session_id"));
    assert_eq!(sessions.collect::<Vec<_>>(), ["under-way", "later"]);
    gateway.finish(&[&channel]).await
}

async fn a_delivery_that_outlives_the_drain_returns_uncounted(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (mut gateway, channel) = Plan::new(setup)?
        .env("ROUNDTRIP__DRAIN", "100ms")
        // If the first attempt counted, the second would be the last.
        .schedule("100ms")
        .start_with_channel(|request| match request.attempt {
            1 => Reply::hang(),
            2 => Reply::status(500),
            _ => Reply::ok(),
        })
        .await?;
    gateway.send("c", "s").await?;
    channel.received_at_least(1).await?;
    gateway.restart(Role::Dispatcher).await?;
    channel.taken_at_least(1).await?;
    assert_eq!(channel.received().len(), 3);
    gateway.finish(&[&channel]).await
}

/// The messages of the run that kills every process.
const MESSAGES: usize = 200;
/// How many are sent at once.
const AT_ONCE: usize = 16;

async fn sigkill_of_each_process_loses_nothing(setup: Setup) -> anyhow::Result<Accounted> {
    // While the ingress is down, a channel's answer fails, and with it the delivery.
    let patient = ["500ms"; 30].join(",");
    let (mut gateway, channel, sessions) = Plan::new(setup)?
        .schedule(&patient)
        .env("ROUNDTRIP__FORWARDER__RETRY__SCHEDULE", "500ms")
        .start_with_servers(|_| Reply::answering("\"answer\""))
        .await?;
    let roles = gateway.roles();
    let share = MESSAGES / roles.len();
    let mut accepted = BTreeSet::new();
    for role in roles {
        let victim = gateway.process(role)?.pid().context("it runs")?;
        let half_way = channel.received().len() + share / 2;
        let killed = async {
            channel.received_at_least(half_way).await?;
            let victim = Pid::from_raw(victim.try_into()?).context("a process")?;
            kill_process(victim, Signal::KILL)?;
            anyhow::Ok(())
        };
        let sent = futures::stream::iter(0..share)
            .map(async |number| {
                let session = format!("{role}-{number}");
                // A message that the dead ingress did not accept is not lost.
                gateway.send("c", &session).await.ok().map(|_id| session)
            })
            .buffer_unordered(AT_ONCE)
            .collect::<Vec<_>>();
        let (killed, sent) = tokio::join!(killed, sent);
        killed?;
        accepted.extend(sent.into_iter().flatten());
        let process = gateway.process(role)?;
        wait::until("the process to be dead", async || {
            (!process.is_running()).then_some(())
        })
        .await?;
        process.restart().await?;
    }
    wait::until("every answer at the sessions server", async || {
        let taken = sessions.taken();
        let answered: BTreeSet<_> = taken.iter().map(|f| f.field("session_id")).collect();
        accepted.is_subset(&answered).then_some(())
    })
    .await?;
    // The ingress may crash after it accepts an answer: then the message comes again.
    gateway.all_taken(&[&channel]).await?;
    gateway.finish(&[&channel, &sessions]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_dispatchers_share_the_load() -> anyhow::Result<()> {
    const MESSAGES: usize = 50;
    let (mut gateway, channel) = Plan::new(Setup::Servers)?
        .start_with_channel(|_| Reply::ok())
        .await?;
    gateway.start(Role::SecondDispatcher).await?;
    gateway.send_many("c", MESSAGES).await?;
    channel.taken_at_least(MESSAGES).await?;
    let shares = wait::until("both dispatchers to log their deliveries", async || {
        let both = [Role::Dispatcher, Role::SecondDispatcher];
        let shares = both.map(|role| gateway.logged(role, &["delivery.attempted"]));
        (shares.iter().sum::<usize>() >= MESSAGES).then_some(shares)
    })
    .await?;
    assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
    gateway.finish(&[&channel]).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_written_straight_into_mongodb_is_a_channel() -> anyhow::Result<()> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let gateway = Plan::new(Setup::Servers)?.start().await?;
    let document = bson::doc! {
        "channel_id": "slack-sim",
        "channel_name": "Slack Simulated Channel",
        "channel_description": "Sends messages to Slack (simulated)",
        "channel_tags": ["slack", "test"],
        "channel_metadata": { "endpoint_url": channel.url() },
    };
    let channels = gateway.test_namespace()?.channels().await?;
    channels.insert_one(document).await?;
    let id = gateway.send("slack-sim", "s").await?;
    let taken = channel.taken_at_least(1).await?;
    assert_eq!(taken[0].webhook_id(), id);
    gateway.get("/channel/slack-sim").await?.expect(200)?;
    gateway.finish(&[&channel]).await.map(drop)
}

/// How long a process that must not start may take to report why.
const REFUSAL_LIMIT: Duration = Duration::from_mins(1);

/// Starts a gateway that must end by itself.
async fn refused(folder: &std::path::Path, env: &[(&str, &str)]) -> anyhow::Result<Output> {
    let anywhere = [
        ("ROUNDTRIP__INGRESS__LISTEN", "127.0.0.1:0"),
        ("ROUNDTRIP__OPERATIONS__LISTEN", "127.0.0.1:0"),
    ];
    let env = anywhere.iter().chain(env);
    let env = env.map(|&(name, value)| (name.to_owned(), value.to_owned()));
    let env: Vec<_> = env.collect();
    let audit = Audit::default();
    let output = run_to_end(&["serve"], &env, folder, REFUSAL_LIMIT, &audit).await?;
    audit.check(folder, [])?;
    Ok(output)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_file_is_refused() -> anyhow::Result<()> {
    let gateway = Plan::new(Setup::Embedded)?.start().await?;
    let urls = [
        ("BROKER_URL", "sqlite:broker.db"),
        ("STORE_URL", "sqlite:store.db"),
    ];
    let output = refused(gateway.folder(), &urls).await?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "it ended well: {stderr}");
    assert!(stderr.contains("in use by another process"), "{stderr}");
    assert!(stderr.contains("broker.db"), "{stderr}");
    gateway.finish(&[]).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_production_lacks_is_reported_at_once() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let output = refused(folder.path(), &[("ROUNDTRIP__ENVIRONMENT", "production")]).await?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{stderr}");
    for missing in [
        "SESSIONS_SERVER",
        "PUBLIC_URL",
        "CALLBACK_SECRET",
        "SESSIONS_SECRET",
        "ENCRYPTION_KEYS",
    ] {
        assert!(stderr.contains(missing), "{missing}: {stderr}");
    }
    assert_eq!(stderr.lines().count(), 5, "{stderr}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings_of_every_part_are_reported_at_once() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let wrong = [
        ("BROKER_URL", "amqp://host:x/", "broker.url"),
        ("STORE_URL", "mongodb://host:x/", "store.url"),
        (
            "ROUNDTRIP__EGRESS__CA_FILE",
            "/nowhere/ca.pem",
            "egress.ca_file",
        ),
        (
            "ROUNDTRIP__INGRESS__TLS__CERT_FILE",
            "/nowhere/a",
            "ingress.tls.cert_file",
        ),
        (
            "ROUNDTRIP__INGRESS__TLS__KEY_FILE",
            "/nowhere/b",
            "ingress.tls",
        ),
        (
            "ROUNDTRIP__DISPATCHER__WEBHOOK__TIMEOUT",
            "0s",
            "dispatcher.webhook.timeout",
        ),
        ("ROUNDTRIP__DRAIN", "soon", "drain"),
    ];
    let variables = wrong.map(|(name, value, _)| (name, value));
    let output = refused(folder.path(), &variables).await?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{stderr}");
    for (.., named) in wrong {
        assert!(stderr.contains(named), "{named}: {stderr}");
    }
    assert_eq!(stderr.lines().count(), wrong.len() - 1, "{stderr}");
    Ok(())
}

#[rstest]
#[case::unknown_key("ROUNDTRIP__DISPATCHER__CONCURENCY", "5", "concurency")]
#[case::unknown_section("ROUNDTRIP__DISPATCHR__CONCURRENCY", "5", "dispatchr")]
#[case::no_number("ROUNDTRIP__DISPATCHER__CONCURRENCY", "many", "dispatcher.concurrency")]
#[case::out_of_bounds("ROUNDTRIP__DISPATCHER__CONCURRENCY", "0", "concurrency")]
#[case::too_flat("ROUNDTRIP__INGRESS__MAX_JSON_DEPTH", "3", "ingress.max_json_depth")]
#[case::half_of_tls("ROUNDTRIP__INGRESS__TLS__CERT_FILE", "tls.crt", "key_file")]
#[case::no_duration("ROUNDTRIP__DRAIN", "soon", "drain")]
#[case::no_interval("ROUNDTRIP__DISPATCHER__RETRY__SCHEDULE", "1s,0s", "retry.schedule")]
#[case::no_url("SESSIONS_SERVER", "localhost", "sessions_server")]
#[case::no_broker("BROKER_URL", "kafka://localhost", "broker.url")]
#[case::no_store("STORE_URL", "postgres://localhost", "store.url")]
#[case::no_range(
    "ROUNDTRIP__EGRESS__ALLOW",
    "example.org,10.0.0.1/8",
    "egress.allow entry 2 has bits"
)]
#[case::no_port("ROUNDTRIP__EGRESS__PORTS", "https", "egress.ports entry 1")]
#[case::no_nameserver("ROUNDTRIP__EGRESS__NAMESERVERS", "dns", "egress.nameservers")]
#[case::no_roots(
    "ROUNDTRIP__EGRESS__CA_FILE",
    "/nowhere/ca.pem",
    "egress.ca_file cannot be read"
)]
#[case::no_broker_roots(
    "ROUNDTRIP__BROKER__CA_FILE",
    "/nowhere/ca.pem",
    "broker.ca_file has no effect"
)]
#[case::no_store_roots(
    "ROUNDTRIP__STORE__CA_FILE",
    "/nowhere/ca.pem",
    "store.ca_file has no effect"
)]
#[case::no_mongodb_roots(
    "STORE_URL",
    "mongodb://127.0.0.1:1/?tls=true&tlsCAFile=/nowhere/ca.pem",
    "store.url names a tlsCAFile that cannot be read"
)]
#[case::one_underscore("ROUNDTRIP_EGRESS__DENY", "192.0.2.1", "write ROUNDTRIP__EGRESS__DENY")]
#[case::other_stage(
    "ROUNDTRIP__ENVIRONMENT",
    "produktion",
    "must be \"development\" or \"production\""
)]
#[case::short_key("OPERATOR_KEY", "too-short", "operator_key")]
#[case::no_rate("ROUNDTRIP__INGRESS__RATE_PER_KEY", "0", "rate_per_key")]
#[case::no_age("ROUNDTRIP__INGRESS__KEYS_MAX_AGE", "1s", "keys_max_age")]
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_is_one_line_and_exit_64(
    #[case] name: &str,
    #[case] value: &str,
    #[case] named: &str,
) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let output = refused(folder.path(), &[(name, value)]).await?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains(named), "{stderr}");
    Ok(())
}
