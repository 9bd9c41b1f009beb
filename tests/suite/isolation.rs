//! No channel may starve another, and waiting costs no attempt.

use harness::{
    gateway::{Accounted, Plan, Role, Setup, TestGateway, attempts},
    scripted::{Received, Reply, ScriptedServer, failing_until},
    wait,
};
use reqwest::Method;
use roundtrip_broker::Queue;
use roundtrip_model::{DeadReason, decision::DeadKind};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

on_both_setups! {
    a_hung_channels_backlog_does_not_stop_a_healthy_one,
    the_cap_on_what_is_under_way_is_hard,
    a_paused_channel_gets_nothing_and_after_its_resumption_all,
    an_endpoint_that_fails_gets_only_probes_until_it_recovers,
    waiting_for_an_open_breaker_counts_no_attempt,
    a_channels_own_time_limit_and_schedule_hold,
    an_endpoint_that_is_gone_pauses_its_channel,
    an_unavailable_sessions_server_gets_only_probes_and_later_every_answer,
    answers_that_the_sessions_server_fails_over_hold_up_no_other_channels,
    a_retry_after_for_one_channels_answers_does_not_delay_others,
    a_wrong_setting_is_named,
}

const DISPATCHER: Role = Role::Dispatcher;
const FORWARDER: Role = Role::Forwarder;

fn plan(setup: Setup) -> anyhow::Result<Plan> {
    Ok(Plan::new(setup)?.envs(&[
        // Logs each snooze, which is off by default.
        ("ROUNDTRIP__LOG__LEVEL", "info,roundtrip_delivery=debug"),
        // The dispatcher soon sees a change of a channel.
        ("ROUNDTRIP__STORE__CACHE_TTL", "100ms"),
        ("ROUNDTRIP__DISPATCHER__PAUSED_PARK", "1s"),
    ]))
}

/// A breaker that opens soon and probes with one message every second.
fn probing(plan: Plan, role: &str, failures: usize) -> Plan {
    let key = |name: &str| format!("ROUNDTRIP__{role}__BREAKER__{name}");
    plan.env(&key("FAILURES"), failures)
        .env(&key("WAIT"), "1s")
        .env(&key("MAX_WAIT"), "1s")
        .env(&key("PROBES"), "1")
}

/// Registers a channel `c` with these delivery settings.
async fn register(
    gateway: &TestGateway,
    server: &ScriptedServer,
    delivery: Value,
) -> anyhow::Result<()> {
    let metadata = json!({"endpoint_url": server.url(), "delivery": delivery});
    let channel = json!({"channel_id": "c", "channel_metadata": metadata});
    gateway
        .post("/channel", channel)
        .await?
        .expect(201)
        .map(drop)
}

/// Whether the channel `c` is paused, by the API.
async fn paused(gateway: &TestGateway) -> anyhow::Result<bool> {
    let channel = gateway.get("/channel/c").await?.expect(200)?;
    Ok(channel.json()["channel_metadata"]["delivery"]["paused"] == true)
}

async fn a_hung_channels_backlog_does_not_stop_a_healthy_one(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let hung = ScriptedServer::start(|_| Reply::hang()).await?;
    let healthy = ScriptedServer::start(|_| Reply::ok()).await?;
    let plan = plan(setup)?
        .env("ROUNDTRIP__DISPATCHER__CONCURRENCY", "8")
        // The drain would wait for the hung delivery.
        .env("ROUNDTRIP__DRAIN", "1s");
    let gateway = plan.start().await?;
    gateway.register("hung", &hung.url()).await?;
    gateway.register("healthy", &healthy.url()).await?;
    gateway.send_many("hung", 200).await?;
    hung.received_at_least(1).await?;
    gateway.send_many("healthy", 50).await?;
    healthy.taken_at_least(50).await?;
    assert_eq!(hung.taken().len(), 0);
    // Its fair share: of 8 permits one channel gets at most half.
    assert!(hung.received().len() <= 4);
    let reason = "what hangs is never delivered";
    gateway.finish_unaccounted(reason).await
}

async fn the_cap_on_what_is_under_way_is_hard(setup: Setup) -> anyhow::Result<Accounted> {
    const CAP: usize = 3;
    const MESSAGES: usize = 30;
    let gate = CancellationToken::new();
    let reply = Reply::ok().after(gate.clone());
    let channel = ScriptedServer::start(move |_| reply.clone()).await?;
    let gateway = plan(setup)?.start().await?;
    register(&gateway, &channel, json!({"max_in_flight": CAP})).await?;
    gateway.send_many("c", MESSAGES).await?;
    // Each was received at least once.
    let snoozed = ["delivery.snoozed"];
    gateway
        .until_logged(DISPATCHER, &snoozed, MESSAGES - CAP)
        .await?;
    channel.received_at_least(CAP).await?;
    assert_eq!(channel.received().len(), CAP);
    gate.cancel();
    gateway.all_taken(&[&channel]).await?;
    assert_eq!(channel.received().len(), MESSAGES);
    gateway.finish(&[&channel]).await
}

async fn a_paused_channel_gets_nothing_and_after_its_resumption_all(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    const MESSAGES: usize = 10;
    let (gateway, channel) = plan(setup)?.start_with_channel(|_| Reply::ok()).await?;
    gateway.post("/channel/c/pause", "").await?.expect(200)?;
    assert!(paused(&gateway).await?);
    gateway.send_many("c", MESSAGES).await?;
    gateway.until_waiting("c", MESSAGES).await?;
    assert_eq!(channel.received().len(), 0);
    gateway.post("/channel/c/resume", "").await?.expect(200)?;
    assert!(!paused(&gateway).await?);
    gateway.all_taken(&[&channel]).await?;
    let unknown = gateway.post("/channel/unknown/pause", "").await?;
    unknown.expect(404)?;
    gateway.finish(&[&channel]).await
}

/// Waits for some probes, lets the server recover, and checks that it got no other request before:
/// the first failures opened the breaker, and each probe reopened it.
async fn gets_only_probes(
    gateway: &TestGateway,
    role: Role,
    opened: &str,
    failures: usize,
    server: &ScriptedServer,
    recovered: &CancellationToken,
) -> anyhow::Result<()> {
    gateway.until_logged(role, &[opened], 4).await?;
    recovered.cancel();
    server.taken_at_least(PROBED).await?;
    let failed = server.received().len() - server.taken().len();
    assert_eq!(failed, failures + gateway.logged(role, &[opened]) - 1);
    Ok(())
}

/// The messages for a server that gets only probes.
const PROBED: usize = 10;

async fn an_endpoint_that_fails_gets_only_probes_until_it_recovers(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    const FAILURES: usize = 3;
    let recovered = CancellationToken::new();
    let script = failing_until(&recovered, Reply::status(500));
    let channel = ScriptedServer::start(script).await?;
    let plan = probing(plan(setup)?, "DISPATCHER", FAILURES).schedule(&["1s"; 20].join(","));
    let gateway = plan.start().await?;
    // One at a time, so that the first failures are consecutive.
    register(&gateway, &channel, json!({"max_in_flight": 1})).await?;
    gateway.send_many("c", PROBED).await?;
    let opened = "channel.opened";
    gets_only_probes(&gateway, DISPATCHER, opened, FAILURES, &channel, &recovered).await?;
    assert_eq!(gateway.logged(DISPATCHER, &["channel.closed"]), 1);
    gateway.finish(&[&channel]).await
}

async fn an_unavailable_sessions_server_gets_only_probes_and_later_every_answer(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    const FAILURES: usize = 2;
    let recovered = CancellationToken::new();
    let script = failing_until(&recovered, Reply::status(503));
    let sessions = ScriptedServer::start(script).await?;
    let plan = probing(plan(setup)?, "FORWARDER", FAILURES)
        .sessions_server(sessions.url())
        // One at a time, so that the first failures are consecutive.
        .env("ROUNDTRIP__FORWARDER__CONCURRENCY", "1");
    let (gateway, channel) = plan.start_with_channel(|_| Reply::answering("1")).await?;
    gateway.send_many("c", PROBED).await?;
    let opened = "answers.opened";
    gets_only_probes(&gateway, FORWARDER, opened, FAILURES, &sessions, &recovered).await?;
    gateway.finish(&[&channel, &sessions]).await
}

async fn waiting_for_an_open_breaker_counts_no_attempt(setup: Setup) -> anyhow::Result<Accounted> {
    const MESSAGES: usize = 4;
    const ATTEMPTS: u32 = 3;
    let plan = probing(plan(setup)?, "DISPATCHER", 1).schedule("100ms,100ms");
    let (mut gateway, channel) = plan.start_with_channel(|_| Reply::status(500)).await?;
    gateway.send_many("c", MESSAGES).await?;
    channel
        .received_at_least(MESSAGES * ATTEMPTS as usize)
        .await?;
    assert!(gateway.logged(DISPATCHER, &["delivery.snoozed"]) > 0);
    let dead = gateway.dead_letters(Queue::OutboundDead).await?;
    let attempts: Vec<_> = dead.iter().map(|message| message.attempts).collect();
    assert_eq!(attempts, [ATTEMPTS; MESSAGES]);
    gateway.finish(&[&channel]).await
}

async fn a_channels_own_time_limit_and_schedule_hold(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::hang()).await?;
    let mut gateway = plan(setup)?.start().await?;
    let delivery = json!({"timeout": "300ms", "retry_schedule": ["100ms"]});
    register(&gateway, &channel, delivery).await?;
    gateway.send("c", "s").await?;
    gateway
        .until_logged(DISPATCHER, &["attempts_exhausted"], 1)
        .await?;
    let dead = gateway.dead_letters(Queue::OutboundDead).await?;
    let detail = "2 attempts failed; the last: no answer within 300ms";
    let reason = DeadReason::new(DeadKind::AttemptsExhausted, detail);
    let reasons: Vec<_> = dead.into_iter().map(|message| message.dead).collect();
    assert_eq!(reasons, [Some(reason)]);
    gateway.finish(&[&channel]).await
}

async fn an_endpoint_that_is_gone_pauses_its_channel(setup: Setup) -> anyhow::Result<Accounted> {
    let script = |request: &Received| match request.number {
        0 => Reply::status(410),
        _ => Reply::ok(),
    };
    let (gateway, channel) = plan(setup)?.start_with_channel(script).await?;
    let first = gateway.send("c", "first").await?;
    gateway
        .until_logged(DISPATCHER, &["channel.gone"], 1)
        .await?;
    assert!(paused(&gateway).await?);
    gateway.send("c", "second").await?;
    gateway.until_waiting("c", 2).await?;
    assert_eq!(channel.received().len(), 1);
    // Not as one that will be retried.
    let first = gateway.until_state(&first, "waiting").await?;
    assert_eq!(attempts(&first)[0]["next"], json!({"type": "wait"}));
    gateway.post("/channel/c/resume", "").await?.expect(200)?;
    // Including the message that got the 410.
    channel.taken_at_least(2).await?;
    gateway.finish(&[&channel]).await
}

/// Posts answers of one channel that the sessions server gives this reply to, then answers of
/// another channel.
async fn beside_poison(setup: Setup, reply: Reply, poison: usize) -> anyhow::Result<Accounted> {
    const OTHERS: usize = 20;
    let sessions = ScriptedServer::start(move |answer| {
        if answer.field("session_id").starts_with("poison") {
            reply.clone()
        } else {
            Reply::ok()
        }
    })
    .await?;
    // No probe during the test.
    let plan = plan(setup)?.sessions_server(sessions.url()).envs(&[
        ("ROUNDTRIP__FORWARDER__BREAKER__WAIT", "10m"),
        ("ROUNDTRIP__FORWARDER__BREAKER__MAX_WAIT", "10m"),
        ("ROUNDTRIP__FORWARDER__RETRY__SCHEDULE", "10m"),
    ]);
    let (mut gateway, channel) = plan.start_with_channel(|_| Reply::answering("1")).await?;
    gateway.register("poison", &channel.url()).await?;
    gateway.send_many("poison", poison).await?;
    gateway
        .until_logged(FORWARDER, &["answers.opened"], 1)
        .await?;
    gateway.send_many("c", OTHERS).await?;
    sessions.taken_at_least(OTHERS).await?;
    wait::until("readiness to report the channel", async || {
        let (_, readiness) = gateway.ready(FORWARDER).await.ok()?;
        (readiness["channels_with_held_answers"] == 1).then_some(())
    })
    .await?;
    let reason = "what is held is never forwarded";
    gateway.finish_unaccounted(reason).await
}

async fn answers_that_the_sessions_server_fails_over_hold_up_no_other_channels(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    beside_poison(setup, Reply::status(500), 30).await
}

async fn a_retry_after_for_one_channels_answers_does_not_delay_others(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let quiet = Reply::status(429).header("retry-after", "3600");
    beside_poison(setup, quiet, 1).await
}

async fn a_wrong_setting_is_named(setup: Setup) -> anyhow::Result<Accounted> {
    let gateway = plan(setup)?.start().await?;
    let channel = |delivery: Value| {
        let metadata = json!({"endpoint_url": "http://127.0.0.1:1/", "delivery": delivery});
        json!({"channel_id": "c", "channel_metadata": metadata})
    };
    let wrong = channel(json!({"timeout": "1h", "max_in_flight": 0}));
    let good = channel(json!({"timeout": "1m", "max_in_flight": 1}));
    for (method, path, status) in [
        (Method::POST, "/channel", 201),
        (Method::PUT, "/channel/c", 200),
    ] {
        let refused = gateway.request(method.clone(), path, &[], &wrong).await?;
        let errors = refused.expect(422)?.json()["errors"].clone();
        let fields =
            ["timeout", "max_in_flight"].map(|field| format!("channel_metadata.delivery.{field}"));
        let named = [0, 1, 2].map(|place| errors[place]["field"].clone());
        assert_eq!(named, [json!(fields[0]), json!(fields[1]), Value::Null]);
        gateway
            .request(method, path, &[], &good)
            .await?
            .expect(status)?;
    }
    gateway.finish(&[]).await
}
