//! What happens to a delivery that fails.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use harness::{
    child::free_address,
    gateway::{Accounted, Plan, Role, Setup, TestGateway, attempts},
    scripted::{Reply, ScriptedServer, failing_once, forward_body},
};
use roundtrip_broker::Queue;
use roundtrip_model::{DeadReason, decision::DeadKind};

on_both_setups! {
    a_failed_attempt_is_retried_under_the_same_id,
    retry_after_is_honoured,
    a_refused_message_is_a_dead_letter_with_its_reason,
    a_message_whose_attempts_all_fail_is_a_dead_letter_with_its_reason,
    an_endpoint_that_hangs_is_timed_out_and_tried_again,
    a_redirect_is_a_failed_attempt_and_is_not_followed,
    a_status_that_speaks_of_the_server_kills_no_message,
    answers_wait_for_an_unavailable_sessions_server,
    a_deleted_channels_message_is_a_dead_letter,
}

/// Three attempts within 200 ms.
fn plan(setup: Setup) -> anyhow::Result<Plan> {
    Ok(Plan::new(setup)?.schedule("100ms,100ms"))
}

/// Checks that this message is the only dead letter, with this number of attempts and this reason.
async fn ensure_dead(
    gateway: &mut TestGateway,
    id: &str,
    attempts: u32,
    kind: DeadKind,
    detail: &str,
) -> anyhow::Result<()> {
    let dead = gateway.dead_letters(Queue::OutboundDead).await?;
    let reason = DeadReason::new(kind, detail);
    let dead: Vec<_> = dead
        .into_iter()
        .map(|message| (message.id, message.attempts, message.dead))
        .collect();
    assert_eq!(dead, [(id.to_owned(), attempts, Some(reason))]);
    Ok(())
}

async fn a_failed_attempt_is_retried_under_the_same_id(setup: Setup) -> anyhow::Result<Accounted> {
    let script = failing_once(Reply::status(500));
    let (gateway, channel) = plan(setup)?.start_with_channel(script).await?;
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
    let gateway = plan(setup)?.start().await?;
    let mut channels = Vec::new();
    for status in [429, 503] {
        let times = Arc::new(Mutex::new(Vec::new()));
        let recorded = Arc::clone(&times);
        let script = failing_once(Reply::status(status).header("retry-after", "3"));
        let channel = ScriptedServer::start(move |request| {
            recorded.lock().expect("no panic").push(Instant::now());
            script(request)
        })
        .await?;
        let id = format!("c{status}");
        gateway.register(&id, &channel.url()).await?;
        gateway.send(&id, "s").await?;
        channels.push((channel, times));
    }
    for (channel, times) in &channels {
        channel.taken_at_least(1).await?;
        let waited = {
            let times = times.lock().expect("no panic");
            times[1] - times[0]
        };
        assert!(waited >= Duration::from_secs(3), "{waited:?}");
    }
    let channels: Vec<_> = channels.iter().map(|(channel, _)| channel).collect();
    gateway.finish(&channels).await
}

async fn a_refused_message_is_a_dead_letter_with_its_reason(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (mut gateway, channel) = plan(setup)?
        .start_with_channel(|_| Reply::status(400).body("no such user"))
        .await?;
    let id = gateway.send("c", "s").await?;
    channel.received_at_least(1).await?;
    let detail = "answered 400: no such user";
    ensure_dead(&mut gateway, &id, 1, DeadKind::Refused, detail).await?;
    assert_eq!(channel.received().len(), 1);
    gateway.finish(&[&channel]).await
}

async fn a_message_whose_attempts_all_fail_is_a_dead_letter_with_its_reason(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (mut gateway, channel) = plan(setup)?
        .start_with_channel(|_| Reply::status(502))
        .await?;
    let id = gateway.send("c", "s").await?;
    channel.received_at_least(3).await?;
    let detail = "3 attempts failed; the last: answered 502";
    ensure_dead(&mut gateway, &id, 3, DeadKind::AttemptsExhausted, detail).await?;
    gateway.finish(&[&channel]).await
}

async fn an_endpoint_that_hangs_is_timed_out_and_tried_again(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (gateway, channel) = plan(setup)?
        .env("ROUNDTRIP__DISPATCHER__WEBHOOK__TIMEOUT", "500ms")
        .start_with_channel(failing_once(Reply::hang()))
        .await?;
    gateway.send("c", "s").await?;
    channel.taken_at_least(1).await?;
    gateway.finish(&[&channel]).await
}

async fn a_redirect_is_a_failed_attempt_and_is_not_followed(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let elsewhere = ScriptedServer::start(|_| Reply::ok()).await?;
    let location = format!("{}?key=hidden", elsewhere.url());
    let redirect = Reply::status(307).header("location", location);
    let (gateway, channel) = plan(setup)?
        .start_with_channel(failing_once(redirect))
        .await?;
    let id = gateway.send("c", "s").await?;
    channel.taken_at_least(1).await?;
    assert_eq!(elsewhere.received().len(), 0);
    let shown = gateway.until_message(&id, |message| !attempts(message).is_empty());
    let redirected = attempts(&shown.await?).remove(0);
    assert_eq!(redirected["status"], 307);
    assert_eq!(redirected["location"], elsewhere.url());
    gateway.finish(&[&channel]).await
}

/// Proxies answer so while the server behind them is replaced.
async fn a_status_that_speaks_of_the_server_kills_no_message(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let gateway = plan(setup)?.start().await?;
    let mut channels = Vec::new();
    for status in [401, 402, 403, 404, 405, 409, 421, 451] {
        let channel = ScriptedServer::start(failing_once(Reply::status(status))).await?;
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
    let address = free_address()?;
    let (gateway, channel) = Plan::new(setup)?
        .sessions_server(format!("http://{address}/incoming"))
        .env("ROUNDTRIP__FORWARDER__RETRY__SCHEDULE", "100ms")
        .start_with_channel(|_| Reply::answering("1"))
        .await?;
    let id = gateway.send("c", "s").await?;
    let failed = ["forward.attempted"];
    gateway.until_logged(Role::Forwarder, &failed, 3).await?;
    let sessions = ScriptedServer::start_at(address, |_| Reply::ok()).await?;
    let forwards = sessions.taken_at_least(1).await?;
    assert_eq!(forwards[0].body, forward_body("s", &id, "1"));
    gateway.finish(&[&channel, &sessions]).await
}

async fn a_deleted_channels_message_is_a_dead_letter(setup: Setup) -> anyhow::Result<Accounted> {
    let (mut gateway, channel) = Plan::new(setup)?
        // No caching of channels.
        .env("ROUNDTRIP__STORE__CACHE_TTL", "1ms")
        .schedule("1s,1s,1s")
        .start_with_channel(|_| Reply::status(500))
        .await?;
    let id = gateway.send("c", "s").await?;
    channel.received_at_least(1).await?;
    gateway.delete("/channel/c").await?.expect(204)?;
    let given_up = ["delivery.not_attempted"];
    gateway.until_logged(Role::Dispatcher, &given_up, 1).await?;
    let dead = gateway.dead_letters(Queue::OutboundDead).await?;
    let detail = "there is no channel with the id 'c'";
    let reason = DeadReason::new(DeadKind::UnknownChannel, detail);
    let dead: Vec<_> = dead.into_iter().map(|dead| (dead.id, dead.dead)).collect();
    assert_eq!(dead, [(id, Some(reason))]);
    gateway.finish(&[&channel]).await
}
