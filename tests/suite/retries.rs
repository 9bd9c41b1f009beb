//! What happens to a delivery that fails.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::Context;
use harness::{
    gateway::{Accounted, Plan, Setup},
    scripted::{Received, Reply, ScriptedServer},
    wait,
};
use roundtrip_broker::Queue;
use roundtrip_model::{DeadReason, decision::DeadKind};
use serde_json::Value;

on_both_setups! {
    a_failed_attempt_is_retried_under_the_same_id,
    retry_after_is_honoured,
    a_refused_message_is_a_dead_letter_with_its_reason,
    a_message_whose_attempts_all_fail_is_a_dead_letter_with_its_reason,
    an_endpoint_that_hangs_is_timed_out_and_tried_again,
    a_redirect_is_a_failed_try_and_is_not_followed,
    a_status_that_speaks_of_the_server_kills_no_message,
    answers_wait_for_an_unavailable_sessions_server,
    a_deleted_channels_message_is_a_dead_letter,
}

/// Three attempts within 200 ms.
const SHORT_SCHEDULE: &str = "100ms,100ms";

/// Fails each message's first attempt with this reply and accepts the second.
async fn failing_once(
    reply: impl Fn() -> Reply + Send + Sync + 'static,
) -> anyhow::Result<ScriptedServer> {
    ScriptedServer::start(move |request: &Received| match request.attempt {
        1 => reply(),
        _ => Reply::ok(),
    })
    .await
}

async fn a_failed_attempt_is_retried_under_the_same_id(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = failing_once(|| Reply::status(500)).await?;
    let gateway = Plan::new(setup)?.schedule(SHORT_SCHEDULE).start().await?;
    gateway.register("c", &channel.url()).await?;
    let id = gateway.send("c", "s").await?;
    channel.taken_at_least(1).await?;
    let attempts = channel.received();
    assert_eq!(attempts.len(), 2);
    assert!(attempts.iter().all(|request| request.webhook_id() == id));
    assert_eq!(attempts[0].body, attempts[1].body);
    gateway.finish(&[&channel]).await
}

/// It is longer than the schedule's interval, so an early attempt shows.
async fn retry_after_is_honoured(setup: Setup) -> anyhow::Result<Accounted> {
    let times = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&times);
    let channel = ScriptedServer::start(move |request| {
        noted.lock().expect("no panic").push(Instant::now());
        match request.attempt {
            1 => Reply::status(503).header("retry-after", "3"),
            _ => Reply::ok(),
        }
    })
    .await?;
    let gateway = Plan::new(setup)?.schedule(SHORT_SCHEDULE).start().await?;
    gateway.register("c", &channel.url()).await?;
    gateway.send("c", "s").await?;
    channel.taken_at_least(1).await?;
    let waited = {
        let times = times.lock().expect("no panic");
        times[1] - times[0]
    };
    assert!(waited >= Duration::from_secs(3), "{waited:?}");
    gateway.finish(&[&channel]).await
}

async fn a_refused_message_is_a_dead_letter_with_its_reason(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::status(400).body("no such user")).await?;
    let mut gateway = Plan::new(setup)?.schedule(SHORT_SCHEDULE).start().await?;
    gateway.register("c", &channel.url()).await?;
    let id = gateway.send("c", "s").await?;
    channel.received_at_least(1).await?;
    let dead = gateway.dead_letters(Queue::OutboundDead).await?;
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0].id.as_str(), dead[0].attempts), (id.as_str(), 1));
    assert_eq!(
        dead[0].dead,
        Some(DeadReason::new(
            DeadKind::Refused,
            "answered 400: no such user"
        ))
    );
    assert_eq!(channel.received().len(), 1);
    gateway.finish(&[&channel]).await
}

async fn a_message_whose_attempts_all_fail_is_a_dead_letter_with_its_reason(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::status(502)).await?;
    let mut gateway = Plan::new(setup)?.schedule(SHORT_SCHEDULE).start().await?;
    gateway.register("c", &channel.url()).await?;
    let id = gateway.send("c", "s").await?;
    channel.received_at_least(3).await?;
    let dead = gateway.dead_letters(Queue::OutboundDead).await?;
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0].id.as_str(), dead[0].attempts), (id.as_str(), 3));
    assert_eq!(
        dead[0].dead,
        Some(DeadReason::new(
            DeadKind::AttemptsExhausted,
            "3 attempts failed; the last: answered 502"
        ))
    );
    gateway.finish(&[&channel]).await
}

async fn an_endpoint_that_hangs_is_timed_out_and_tried_again(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let channel = failing_once(Reply::hang).await?;
    let plan = Plan::new(setup)?
        .schedule(SHORT_SCHEDULE)
        .env("ROUNDTRIP__DISPATCHER__WEBHOOK__TIMEOUT", "500ms");
    let gateway = plan.start().await?;
    gateway.register("c", &channel.url()).await?;
    gateway.send("c", "s").await?;
    channel.taken_at_least(1).await?;
    gateway.finish(&[&channel]).await
}

async fn a_redirect_is_a_failed_try_and_is_not_followed(setup: Setup) -> anyhow::Result<Accounted> {
    let elsewhere = ScriptedServer::start(|_| Reply::ok()).await?;
    let location = format!("{}?key=hidden", elsewhere.url());
    let channel =
        failing_once(move || Reply::status(307).header("location", location.clone())).await?;
    let gateway = Plan::new(setup)?.schedule(SHORT_SCHEDULE).start().await?;
    gateway.register("c", &channel.url()).await?;
    let id = gateway.send("c", "s").await?;
    channel.taken_at_least(1).await?;
    assert_eq!(elsewhere.received().len(), 0);
    let redirected = wait::until("the redirect to be shown", async || {
        let shown = gateway.get(&format!("/channel/message/{id}")).await.ok()?;
        let timeline = shown.json()["timeline"].as_array()?.clone();
        let is_redirected = |entry: &Value| entry["type"] == "attempted" && entry["status"] == 307;
        timeline.into_iter().find(is_redirected)
    })
    .await?;
    assert_eq!(redirected["location"], elsewhere.url());
    gateway.finish(&[&channel]).await
}

/// Proxies answer so while the server behind them is replaced.
async fn a_status_that_speaks_of_the_server_kills_no_message(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    const STATUSES: [u16; 8] = [401, 402, 403, 404, 405, 409, 421, 451];
    let gateway = Plan::new(setup)?.schedule(SHORT_SCHEDULE).start().await?;
    let mut channels = Vec::new();
    for status in STATUSES {
        let channel = failing_once(move || Reply::status(status)).await?;
        let id = format!("c{status}");
        gateway.register(&id, &channel.url()).await?;
        gateway.send(&id, "s").await?;
        channel.taken_at_least(1).await?;
        channels.push(channel);
    }
    gateway.finish(&channels.iter().collect::<Vec<_>>()).await
}

async fn answers_wait_for_an_unavailable_sessions_server(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::answering("1")).await?;
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let plan = Plan::new(setup)?
        .sessions_server(format!("http://{address}/incoming"))
        .env("ROUNDTRIP__FORWARDER__RETRY__SCHEDULE", "100ms");
    let gateway = plan.start().await?;
    gateway.register("c", &channel.url()).await?;
    gateway.send("c", "s").await?;
    let forwarder = gateway.having("forwarder");
    wait::until("three forwards to fail", async || {
        let log = gateway.log(&forwarder).ok()?;
        (log.matches("forward.attempted").count() >= 3).then_some(())
    })
    .await?;
    let sessions = ScriptedServer::start_at(address, |_| Reply::ok()).await?;
    let forwards = sessions.taken_at_least(1).await?;
    assert_eq!(forwards[0].body, r#"{"session_id":"s","response_data":1}"#);
    gateway.finish(&[&channel, &sessions]).await
}

async fn a_deleted_channels_message_is_a_dead_letter(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::status(500)).await?;
    let mut gateway = Plan::new(setup)?
        // No caching of channels.
        .env("ROUNDTRIP__STORE__CACHE_TTL", "1ms")
        .schedule("1s,1s,1s")
        .start()
        .await?;
    gateway.register("c", &channel.url()).await?;
    gateway.send("c", "s").await?;
    channel.received_at_least(1).await?;
    let delete = reqwest::Method::DELETE;
    let answer = gateway.request(delete, "/channel/c", &[], "").await?;
    answer.expect(204)?;
    let dispatcher = gateway.having("dispatcher");
    wait::until("the message to be given up", async || {
        let log = gateway.log(&dispatcher).ok()?;
        log.contains("delivery.not_attempted").then_some(())
    })
    .await?;
    let dead = gateway.dead_letters(Queue::OutboundDead).await?;
    let reason = dead.first().and_then(|message| message.dead.clone());
    assert_eq!(
        reason.context("a reason")?,
        DeadReason::new(
            DeadKind::UnknownChannel,
            "there is no channel with the id 'c'"
        )
    );
    gateway.finish(&[&channel]).await
}
