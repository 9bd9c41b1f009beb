//! Messages with a time: each goes at `deliver_at` and not before, and is dead at `expires_at`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::ensure;
use harness::{
    gateway::{Accounted, Plan, Setup, TestGateway},
    scripted::{Received, Reply},
};
use roundtrip_model::{Clock, SystemClock};
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

on_both_setups! {
    scheduled_messages_are_delivered_after_their_times_and_not_before,
    a_scheduled_message_outlasts_a_killed_process,
    a_retry_of_the_channel_leaves_scheduled_messages,
    an_expired_message_of_a_paused_channel_is_dead_and_never_delivered,
    a_message_that_expires_before_its_next_attempt_is_dead,
    a_replay_delivers_an_expired_message,
}

/// Enough for a request on a busy machine, so that the time is still ahead.
const SOON: Duration = Duration::from_secs(5);
/// Enough for an attempt or a look into the store, too.
const WELL_AHEAD: Duration = Duration::from_secs(12);
const LATER: Duration = Duration::from_hours(1);

/// When each message arrived first.
#[derive(Clone, Default)]
struct Arrivals(Arc<Mutex<BTreeMap<String, OffsetDateTime>>>);

impl Arrivals {
    fn script(&self) -> impl Fn(&Received) -> Reply + Send + Sync + 'static {
        let arrivals = Arc::clone(&self.0);
        move |received| {
            let mut arrivals = arrivals.lock().expect("no panic");
            let id = received.webhook_id().to_owned();
            arrivals.entry(id).or_insert_with(|| SystemClock.now());
            Reply::ok()
        }
    }

    fn ensure_not_before(&self, times: &[(String, OffsetDateTime)]) -> anyhow::Result<()> {
        let arrivals = self.0.lock().expect("no panic");
        for (id, deliver_at) in times {
            let arrived = arrivals.get(id);
            ensure!(
                arrived.is_some_and(|arrived| arrived >= deliver_at),
                "{id} arrived at {arrived:?} instead of {deliver_at}"
            );
        }
        Ok(())
    }
}

/// Sends a message to the channel `c` with a time this long after now in this field. Returns its id
/// and the time.
async fn send(
    gateway: &TestGateway,
    field: &str,
    after: Duration,
) -> anyhow::Result<(String, OffsetDateTime)> {
    let at = SystemClock.now() + after;
    let mut body = json!({"channel_id": "c", "session_id": "s", "message": "Hello!"});
    body[field] = at.format(&Rfc3339)?.into();
    let accepted = gateway.post("/channel/message", body).await?.expect(202)?;
    Ok((accepted.field("message_id")?, at))
}

async fn scheduled_messages_are_delivered_after_their_times_and_not_before(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    const MESSAGES: u32 = 30;
    let arrivals = Arrivals::default();
    let (gateway, channel) = Plan::new(setup)?
        .start_with_channel(arrivals.script())
        .await?;
    let mut times = Vec::new();
    for number in 0..MESSAGES {
        let after = SOON + Duration::from_millis(30) * (number % 3);
        times.push(send(&gateway, "deliver_at", after).await?);
    }
    let (now, _) = send(&gateway, "deliver_at", Duration::ZERO).await?;
    gateway.until_delivered(&now).await?;
    channel.taken_at_least(times.len() + 1).await?;
    arrivals.ensure_not_before(&times)?;
    gateway.until_waiting("c", 0).await?;
    gateway.finish(&[&channel]).await
}

async fn a_scheduled_message_outlasts_a_killed_process(setup: Setup) -> anyhow::Result<Accounted> {
    let arrivals = Arrivals::default();
    let (mut gateway, channel) = Plan::new(setup)?
        .start_with_channel(arrivals.script())
        .await?;
    let at_once = send(&gateway, "deliver_at", SOON).await?;
    gateway.kill_and_restart_all().await?;
    channel.taken_at_least(1).await?;
    let in_store = send(&gateway, "deliver_at", WELL_AHEAD).await?;
    gateway.until_waiting("c", 1).await?;
    gateway.kill_and_restart_all().await?;
    channel.taken_at_least(2).await?;
    arrivals.ensure_not_before(&[at_once, in_store])?;
    gateway.finish(&[&channel]).await
}

async fn a_retry_of_the_channel_leaves_scheduled_messages(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (gateway, channel) = Plan::new(setup)?
        .start_with_channel(|_| Reply::ok())
        .await?;
    let (id, deliver_at) = send(&gateway, "deliver_at", LATER).await?;
    let summary = gateway.until_waiting("c", 1).await?;
    assert_eq!(summary["reasons"], json!({"scheduled": 1}));
    let message = gateway.until_state(&id, "waiting").await?;
    assert_eq!(message["waiting"]["reason"], "scheduled", "{message}");
    let until = message["waiting"]["until"].as_str().unwrap_or_default();
    assert!(OffsetDateTime::parse(until, &Rfc3339)? >= deliver_at);

    let retried = gateway.post("/channel/c/retry", "").await?.expect(200)?;
    assert_eq!(retried.json(), json!({"retried": 0}));
    let now = gateway.send("c", "s").await?;
    gateway.until_delivered(&now).await?;
    assert_eq!(channel.received().len(), 1);

    // An operator can send the one message now.
    let path = format!("/channel/message/{id}/retry");
    let retried = gateway.post(&path, "").await?.expect(200)?;
    assert_eq!(retried.json(), json!({"retried": 1}));
    gateway.until_delivered(&id).await?;
    gateway.finish(&[&channel]).await
}

async fn an_expired_message_of_a_paused_channel_is_dead_and_never_delivered(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (gateway, channel) = Plan::new(setup)?
        .start_with_channel(|_| Reply::ok())
        .await?;
    gateway.post("/channel/c/pause", "").await?.expect(200)?;
    let (expired, _) = send(&gateway, "expires_at", SOON).await?;
    let (waits, _) = send(&gateway, "expires_at", LATER).await?;
    let letters = gateway.until_dead("c", 1).await?;
    assert_eq!(letters[0]["message_id"], expired);
    assert_eq!(letters[0]["reason"]["kind"], "expired", "{}", letters[0]);
    assert_eq!(letters[0]["attempts"], 0);

    gateway.post("/channel/c/resume", "").await?.expect(200)?;
    gateway.until_delivered(&waits).await?;
    gateway.until_waiting("c", 0).await?;
    let received = channel.received();
    assert!(received.iter().all(|one| one.webhook_id() == waits));
    gateway.until_state(&expired, "dead").await?;
    gateway.finish(&[&channel]).await
}

async fn a_message_that_expires_before_its_next_attempt_is_dead(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (gateway, channel) = Plan::new(setup)?
        .schedule("1h, 1h")
        .start_with_channel(|_| Reply::status(503))
        .await?;
    send(&gateway, "expires_at", WELL_AHEAD).await?;
    let letters = gateway.until_dead("c", 1).await?;
    assert_eq!(letters[0]["reason"]["kind"], "expired", "{}", letters[0]);
    assert_eq!(letters[0]["attempts"], 1);
    assert_eq!(channel.received().len(), 1);
    gateway.finish(&[&channel]).await
}

/// An operator asks for it, so the time no longer counts.
async fn a_replay_delivers_an_expired_message(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, channel) = Plan::new(setup)?
        .start_with_channel(|_| Reply::ok())
        .await?;
    gateway.post("/channel/c/pause", "").await?.expect(200)?;
    let (expired, _) = send(&gateway, "expires_at", SOON).await?;
    gateway.until_dead("c", 1).await?;
    // A replayed message of a paused channel waits like any other.
    let filter = json!({"channel_id": "c", "reason": "expired"});
    let replay = gateway.post("/dead-letters/replay", filter).await?;
    replay.expect(202)?;
    gateway.until_waiting("c", 1).await?;
    gateway.post("/channel/c/resume", "").await?.expect(200)?;
    gateway.until_delivered(&expired).await?;
    gateway.until_dead("c", 0).await?;
    gateway.finish(&[&channel]).await
}
