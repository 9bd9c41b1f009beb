//! No channel may starve another, and waiting costs no attempt.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use harness::{
    gateway::{Accounted, Plan, Setup, TestGateway},
    scripted::{Reply, ScriptedServer},
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

/// Logs each snooze, which is off by default.
const TELLING: &str = "info,roundtrip_delivery=debug";

fn plan(setup: Setup) -> anyhow::Result<Plan> {
    let plan = Plan::new(setup)?
        .env("ROUNDTRIP__LOG__LEVEL", TELLING)
        // The dispatcher soon sees a change of a channel.
        .env("ROUNDTRIP__STORE__CACHE_TTL", "100ms")
        .env("ROUNDTRIP__DISPATCHER__PAUSED_PARK", "1s");
    Ok(plan)
}

/// A breaker that opens soon and probes with one message every second.
fn probing(plan: Plan, role: &str, failures: usize) -> Plan {
    let key = |name: &str| format!("ROUNDTRIP__{role}__BREAKER__{name}");
    plan.env(&key("FAILURES"), failures.to_string())
        .env(&key("WAIT"), "1s")
        .env(&key("MAX_WAIT"), "1s")
        .env(&key("PROBES"), "1")
}

async fn register(
    gateway: &TestGateway,
    id: &str,
    server: &ScriptedServer,
    delivery: Value,
) -> anyhow::Result<()> {
    let channel = json!({
        "channel_id": id,
        "channel_metadata": {"endpoint_url": server.url(), "delivery": delivery},
    });
    let answer = gateway.post("/channel", channel.to_string()).await?;
    answer.expect(201).map(drop)
}

async fn send(gateway: &TestGateway, channel: &str, count: usize) -> anyhow::Result<()> {
    for number in 0..count {
        gateway
            .send(channel, &format!("{channel}-{number}"))
            .await?;
    }
    Ok(())
}

/// How many lines of this role's log contain all these texts.
fn logged(gateway: &TestGateway, role: &str, of: &[&str]) -> usize {
    let log = gateway.log(&gateway.having(role)).unwrap_or_default();
    log.lines()
        .filter(|line| of.iter().all(|word| line.contains(word)))
        .count()
}

async fn logged_at_least(
    gateway: &TestGateway,
    role: &str,
    of: &str,
    count: usize,
) -> anyhow::Result<()> {
    wait::until(format!("{of}, {count} times"), async || {
        (logged(gateway, role, &[of]) >= count).then_some(())
    })
    .await
}

/// Whether the channel is paused, by the API.
async fn paused(gateway: &TestGateway, id: &str) -> anyhow::Result<bool> {
    let channel = gateway.get(&format!("/channel/{id}")).await?.expect(200)?;
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
    send(&gateway, "hung", 200).await?;
    hung.received_at_least(1).await?;
    send(&gateway, "healthy", 50).await?;
    healthy.taken_at_least(50).await?;
    assert_eq!(hung.taken().len(), 0);
    // Its fair share: of 8 permits one channel gets at most half.
    assert!(hung.received().len() <= 4);
    gateway
        .finish_unaccounted("what hangs is never delivered")
        .await
}

async fn the_cap_on_what_is_under_way_is_hard(setup: Setup) -> anyhow::Result<Accounted> {
    const CAP: usize = 3;
    const MESSAGES: usize = 30;
    let gate = CancellationToken::new();
    let channel = {
        let gate = gate.clone();
        ScriptedServer::start(move |_| Reply::ok().after(gate.clone())).await?
    };
    let gateway = plan(setup)?.start().await?;
    register(&gateway, "c", &channel, json!({"max_in_flight": CAP})).await?;
    send(&gateway, "c", MESSAGES).await?;
    // Each was received at least once.
    logged_at_least(&gateway, "dispatcher", "delivery.snoozed", MESSAGES - CAP).await?;
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
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let gateway = plan(setup)?.start().await?;
    gateway.register("c", &channel.url()).await?;
    gateway.post("/channel/c/pause", "").await?.expect(200)?;
    assert!(paused(&gateway, "c").await?);
    send(&gateway, "c", MESSAGES).await?;
    logged_at_least(&gateway, "dispatcher", "delivery.snoozed", MESSAGES).await?;
    assert_eq!(channel.received().len(), 0);
    gateway.post("/channel/c/resume", "").await?.expect(200)?;
    assert!(!paused(&gateway, "c").await?);
    gateway.all_taken(&[&channel]).await?;
    let refused = gateway.post("/channel/unknown/pause", "").await?;
    refused.expect(404)?;
    gateway.finish(&[&channel]).await
}

async fn an_endpoint_that_fails_gets_only_probes_until_it_recovers(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    const FAILURES: usize = 3;
    const MESSAGES: usize = 20;
    let well = Arc::new(AtomicBool::new(false));
    let channel = {
        let well = Arc::clone(&well);
        ScriptedServer::start(move |_| {
            if well.load(Ordering::SeqCst) {
                Reply::ok()
            } else {
                Reply::status(500)
            }
        })
        .await?
    };
    let plan = probing(plan(setup)?, "DISPATCHER", FAILURES).schedule(&["1s"; 20].join(","));
    let gateway = plan.start().await?;
    // One at a time, so that the first failures are consecutive.
    register(&gateway, "c", &channel, json!({"max_in_flight": 1})).await?;
    send(&gateway, "c", MESSAGES).await?;
    logged_at_least(&gateway, "dispatcher", "channel.opened", 4).await?;
    well.store(true, Ordering::SeqCst);
    gateway.all_taken(&[&channel]).await?;
    // The first failures opened the breaker, and each probe reopened it; no other message passed.
    let failed = channel.received().len() - channel.taken().len();
    let opened = logged(&gateway, "dispatcher", &["channel.opened"]);
    assert_eq!(failed, FAILURES + opened - 1);
    assert_eq!(logged(&gateway, "dispatcher", &["channel.closed"]), 1);
    gateway.finish(&[&channel]).await
}

async fn waiting_for_an_open_breaker_counts_no_attempt(setup: Setup) -> anyhow::Result<Accounted> {
    const MESSAGES: usize = 4;
    const ATTEMPTS: usize = 3;
    let channel = ScriptedServer::start(|_| Reply::status(500)).await?;
    let plan = probing(plan(setup)?, "DISPATCHER", 1).schedule("100ms,100ms");
    let mut gateway = plan.start().await?;
    gateway.register("c", &channel.url()).await?;
    send(&gateway, "c", MESSAGES).await?;
    channel.received_at_least(MESSAGES * ATTEMPTS).await?;
    assert!(logged(&gateway, "dispatcher", &["delivery.snoozed"]) > 0);
    let dead = gateway.dead_letters(Queue::OutboundDead).await?;
    assert_eq!(dead.len(), MESSAGES);
    for message in dead {
        assert_eq!(usize::try_from(message.attempts)?, ATTEMPTS);
    }
    gateway.finish(&[&channel]).await
}

async fn a_channels_own_time_limit_and_schedule_hold(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::hang()).await?;
    let mut gateway = plan(setup)?.start().await?;
    let delivery = json!({"timeout": "300ms", "retry_schedule": ["100ms"]});
    register(&gateway, "c", &channel, delivery).await?;
    gateway.send("c", "s").await?;
    logged_at_least(&gateway, "dispatcher", "attempts_exhausted", 1).await?;
    let dead = gateway.dead_letters(Queue::OutboundDead).await?;
    let reasons: Vec<_> = dead
        .into_iter()
        .filter_map(|message| message.dead)
        .collect();
    assert_eq!(
        reasons,
        [DeadReason::new(
            DeadKind::AttemptsExhausted,
            "2 attempts failed; the last: no answer within 300ms"
        )]
    );
    gateway.finish(&[&channel]).await
}

async fn an_endpoint_that_is_gone_pauses_its_channel(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|request| match request.number {
        0 => Reply::status(410),
        _ => Reply::ok(),
    })
    .await?;
    let gateway = plan(setup)?.start().await?;
    gateway.register("c", &channel.url()).await?;
    gateway.send("c", "first").await?;
    logged_at_least(&gateway, "dispatcher", "channel.gone", 1).await?;
    assert!(paused(&gateway, "c").await?);
    let second = gateway.send("c", "second").await?;
    wait::until("the second to wait", async || {
        (logged(&gateway, "dispatcher", &["delivery.snoozed", &second]) > 0).then_some(())
    })
    .await?;
    assert_eq!(channel.received().len(), 1);
    gateway.post("/channel/c/resume", "").await?.expect(200)?;
    // Including the message that got the 410.
    channel.taken_at_least(2).await?;
    gateway.finish(&[&channel]).await
}

async fn an_unavailable_sessions_server_gets_only_probes_and_later_every_answer(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    const FAILURES: usize = 2;
    const MESSAGES: usize = 10;
    let channel = ScriptedServer::start(|_| Reply::answering("1")).await?;
    let back = Arc::new(AtomicBool::new(false));
    let sessions = {
        let back = Arc::clone(&back);
        ScriptedServer::start(move |_| {
            if back.load(Ordering::SeqCst) {
                Reply::ok()
            } else {
                Reply::status(503)
            }
        })
        .await?
    };
    let plan = probing(plan(setup)?, "FORWARDER", FAILURES)
        .sessions_server(sessions.url())
        // One at a time, so that the first failures are consecutive.
        .env("ROUNDTRIP__FORWARDER__CONCURRENCY", "1");
    let gateway = plan.start().await?;
    gateway.register("c", &channel.url()).await?;
    send(&gateway, "c", MESSAGES).await?;
    logged_at_least(&gateway, "forwarder", "answers.opened", 4).await?;
    back.store(true, Ordering::SeqCst);
    sessions.taken_at_least(MESSAGES).await?;
    let failed = sessions.received().len() - sessions.taken().len();
    let opened = logged(&gateway, "forwarder", &["answers.opened"]);
    assert_eq!(failed, FAILURES + opened - 1);
    gateway.finish(&[&channel, &sessions]).await
}

/// A sessions server that gives this reply to answers of sessions named `poison…`.
async fn poisoned(reply: fn() -> Reply) -> anyhow::Result<ScriptedServer> {
    ScriptedServer::start(move |answer| {
        if answer.field("session_id").starts_with("poison") {
            reply()
        } else {
            Reply::ok()
        }
    })
    .await
}

/// Posts answers of one channel that the sessions server refuses, then answers of others.
async fn beside_poison(
    setup: Setup,
    sessions: ScriptedServer,
    poison: usize,
) -> anyhow::Result<Accounted> {
    const OTHERS: usize = 20;
    let channel = ScriptedServer::start(|_| Reply::answering("1")).await?;
    let plan = plan(setup)?
        .sessions_server(sessions.url())
        // No probe during the test.
        .env("ROUNDTRIP__FORWARDER__BREAKER__WAIT", "10m")
        .env("ROUNDTRIP__FORWARDER__BREAKER__MAX_WAIT", "10m")
        .env("ROUNDTRIP__FORWARDER__RETRY__SCHEDULE", "10m");
    let gateway = plan.start().await?;
    for id in ["poison", "well"] {
        gateway.register(id, &channel.url()).await?;
    }
    send(&gateway, "poison", poison).await?;
    logged_at_least(&gateway, "forwarder", "answers.opened", 1).await?;
    send(&gateway, "well", OTHERS).await?;
    sessions.taken_at_least(OTHERS).await?;
    wait::until("readiness to tell of it", async || {
        let ready = gateway.ready("forwarder").await.ok()?;
        (ready["channels_with_held_answers"] == 1).then_some(())
    })
    .await?;
    gateway
        .finish_unaccounted("what is held is never forwarded")
        .await
}

async fn answers_that_the_sessions_server_fails_over_hold_up_no_other_channels(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let sessions = poisoned(|| Reply::status(500)).await?;
    beside_poison(setup, sessions, 30).await
}

async fn a_retry_after_for_one_channels_answers_does_not_delay_others(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let sessions = poisoned(|| Reply::status(429).header("retry-after", "3600")).await?;
    beside_poison(setup, sessions, 1).await
}

async fn a_wrong_setting_is_named(setup: Setup) -> anyhow::Result<Accounted> {
    let gateway = plan(setup)?.start().await?;
    let channel = |delivery: Value| {
        json!({
            "channel_id": "c",
            "channel_metadata": {"endpoint_url": "http://127.0.0.1:1/", "delivery": delivery},
        })
    };
    let wrong = channel(json!({"timeout": "1h", "max_in_flight": 0})).to_string();
    let good = channel(json!({"timeout": "1m", "max_in_flight": 1})).to_string();
    for (method, path) in [(Method::POST, "/channel"), (Method::PUT, "/channel/c")] {
        let json = [("content-type", "application/json")];
        let request = async |body: &String| {
            let answer = gateway.request(method.clone(), path, &json, body.as_str());
            answer.await
        };
        let answer = request(&wrong).await?.expect(422)?.json();
        let errors = answer["errors"].as_array().cloned().unwrap_or_default();
        let fields: Vec<_> = errors.iter().map(|error| &error["field"]).collect();
        assert_eq!(
            fields,
            [
                "channel_metadata.delivery.timeout",
                "channel_metadata.delivery.max_in_flight"
            ]
        );
        assert!(matches!(request(&good).await?.status, 200 | 201));
    }
    gateway.finish(&[]).await
}
