//! Notices: the operator's server learns of dead letters, open breakers and paused channels.

use std::collections::BTreeSet;

use harness::{
    gateway::{Accounted, Plan, Role, Setup},
    scripted::{Received, Reply, ScriptedServer, failing_once},
    verifier::{Check, Library, verified},
    wait,
};
use serde_json::{Value, json};

on_both_setups! {
    a_notice_names_the_dead_message_and_is_signed,
    many_dead_messages_of_a_channel_are_one_notice,
    an_overdue_message_is_noticed,
    a_failing_endpoint_is_noticed_when_it_fails_and_when_it_is_back,
    a_paused_channel_is_noticed_with_who_paused_it,
    a_notice_waits_for_its_server,
    a_refused_notice_is_a_dead_letter_that_can_be_replayed,
    a_dead_message_is_noticed_after_a_kill_of_the_recorder,
}

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A gateway that posts notices to this server. The window is longer than any test.
fn plan(setup: Setup, notices: &ScriptedServer) -> anyhow::Result<Plan> {
    Ok(Plan::new(setup)?
        .env("ROUNDTRIP__NOTICES__URL", notices.url())
        .env("ROUNDTRIP__NOTICES__SECRET", SECRET)
        .env("ROUNDTRIP__NOTICES__WINDOW", "24h")
        .env("ROUNDTRIP__FORWARDER__RETRY__SCHEDULE", "100ms")
        .schedule("100ms,100ms"))
}

/// The notices of this type, once there are as many.
async fn noticed(server: &ScriptedServer, kind: &str, count: usize) -> anyhow::Result<Vec<Value>> {
    wait::until(format!("{count} notices of {kind}"), async || {
        let found: Vec<Value> = server
            .taken()
            .iter()
            .filter_map(|notice| of(notice, kind))
            .collect();
        (found.len() >= count).then_some(found)
    })
    .await
}

/// A script that gives this status to so many requests, and accepts the others.
fn failing_first(count: usize, status: u16) -> impl Fn(&Received) -> Reply + Send + Sync {
    move |request| {
        if request.number < count {
            Reply::status(status)
        } else {
            Reply::ok()
        }
    }
}

/// The data of a notice of this type.
fn of(notice: &Received, kind: &str) -> Option<Value> {
    let body: Value = serde_json::from_str(&notice.body).ok()?;
    (body["type"] == kind).then(|| body["data"].clone())
}

async fn a_notice_names_the_dead_message_and_is_signed(setup: Setup) -> anyhow::Result<Accounted> {
    let notices = ScriptedServer::start(|_| Reply::ok()).await?;
    let plan = plan(setup, &notices)?;
    let (gateway, channel) = plan.start_with_channel(|_| Reply::status(400)).await?;
    let id = gateway.send("c", "s").await?;
    let dead = noticed(&notices, "message.dead", 1).await?;
    assert_eq!(dead[0]["channel_id"], "c");
    assert_eq!(dead[0]["message_id"], id);
    assert_eq!(dead[0]["reason"], "refused");
    let taken = notices.taken();
    let notice = taken
        .iter()
        .find(|notice| of(notice, "message.dead").is_some());
    let check = Check::new(SECRET, notice.expect("it was found above"));
    for library in Library::ALL {
        assert_eq!(
            verified(library, std::slice::from_ref(&check)).await?,
            [true]
        );
    }
    gateway.finish(&[&channel]).await
}

async fn many_dead_messages_of_a_channel_are_one_notice(setup: Setup) -> anyhow::Result<Accounted> {
    const MESSAGES: usize = 30;
    let notices = ScriptedServer::start(|_| Reply::ok()).await?;
    let plan = plan(setup, &notices)?;
    let (gateway, channel) = plan.start_with_channel(|_| Reply::status(400)).await?;
    for channel_id in ["other", "third"] {
        gateway.register(channel_id, &channel.url()).await?;
        gateway.send_many(channel_id, MESSAGES).await?;
    }
    gateway.send_many("c", MESSAGES).await?;
    for channel_id in ["c", "other", "third"] {
        gateway.until_dead(channel_id, MESSAGES).await?;
    }
    let dead = noticed(&notices, "message.dead", 3).await?;
    let channels: BTreeSet<_> = dead
        .iter()
        .map(|data| data["channel_id"].to_string())
        .collect();
    assert_eq!(channels.len(), 3, "{dead:?}");
    assert_eq!(dead.len(), 3, "{dead:?}");
    gateway.finish(&[&channel]).await
}

async fn an_overdue_message_is_noticed(setup: Setup) -> anyhow::Result<Accounted> {
    let notices = ScriptedServer::start(|_| Reply::ok()).await?;
    let plan = plan(setup, &notices)?;
    let (gateway, channel) = plan.start_with_channel(|_| Reply::ok()).await?;
    let message = json!({
        "channel_id": "c", "session_id": "s", "message": 1, "answer_within": "1s"
    });
    let sent = gateway.post("/channel/message", message).await?;
    let id = sent.expect(202)?.field("message_id")?;
    let overdue = noticed(&notices, "message.overdue", 1).await?;
    assert_eq!(overdue[0], json!({"channel_id": "c", "message_id": id}));
    gateway.finish(&[&channel]).await
}

async fn a_failing_endpoint_is_noticed_when_it_fails_and_when_it_is_back(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let notices = ScriptedServer::start(|_| Reply::ok()).await?;
    let plan = plan(setup, &notices)?
        .schedule(&["200ms"; 60].join(","))
        .env("ROUNDTRIP__DISPATCHER__BREAKER__FAILURES", 2)
        .env("ROUNDTRIP__DISPATCHER__BREAKER__WAIT", "200ms")
        .env("ROUNDTRIP__DISPATCHER__BREAKER__MAX_WAIT", "200ms");
    let script = failing_first(4, 500);
    let (gateway, channel) = plan.start_with_channel(script).await?;
    gateway.send_many("c", 2).await?;
    let opened = noticed(&notices, "channel.breaker_opened", 1).await?;
    assert_eq!(opened[0], json!({"channel_id": "c", "wait_ms": 200}));
    let closed = noticed(&notices, "channel.breaker_closed", 1).await?;
    assert_eq!(closed[0], json!({"channel_id": "c"}));
    gateway.all_taken(&[&channel]).await?;
    gateway.finish(&[&channel]).await
}

async fn a_paused_channel_is_noticed_with_who_paused_it(setup: Setup) -> anyhow::Result<Accounted> {
    let notices = ScriptedServer::start(|_| Reply::ok()).await?;
    let plan = plan(setup, &notices)?;
    let (gateway, channel) = plan.start_with_channel(|_| Reply::status(410)).await?;
    gateway.register("held", &channel.url()).await?;
    gateway.post("/channel/held/pause", "").await?.expect(200)?;
    gateway.send("c", "s").await?;
    let mut paused = noticed(&notices, "channel.paused", 2).await?;
    paused.sort_by_key(|data| data["channel_id"].to_string());
    let gone = json!({"channel_id": "c", "by": "gone"});
    assert_eq!(paused, [gone, json!({"channel_id": "held", "by": "call"})]);
    gateway
        .finish_unaccounted("a message waits for its paused channel")
        .await
}

async fn a_notice_waits_for_its_server(setup: Setup) -> anyhow::Result<Accounted> {
    let notices = ScriptedServer::start(failing_first(3, 503)).await?;
    let plan = plan(setup, &notices)?;
    let (gateway, channel) = plan.start_with_channel(|_| Reply::status(400)).await?;
    gateway.send("c", "s").await?;
    noticed(&notices, "message.dead", 1).await?;
    let received = notices.received();
    let ids: BTreeSet<_> = received.iter().map(Received::webhook_id).collect();
    assert_eq!(ids.len(), 1, "each attempt has the same id");
    gateway.finish(&[&channel]).await
}

/// No notice is made about a notice.
async fn a_refused_notice_is_a_dead_letter_that_can_be_replayed(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let notices = ScriptedServer::start(failing_once(Reply::status(400))).await?;
    let plan = plan(setup, &notices)?;
    let (gateway, channel) = plan.start_with_channel(|_| Reply::status(400)).await?;
    gateway.send("c", "s").await?;
    let path = "/dead-letters?queue=notices";
    gateway
        .until(path, |page| {
            page["dead_letters"]
                .as_array()
                .is_some_and(|all| all.len() == 1)
        })
        .await?;
    assert!(notices.taken().is_empty());
    let replay = json!({"queue": "notices"});
    gateway
        .post("/dead-letters/replay", replay)
        .await?
        .expect(202)?;
    noticed(&notices, "message.dead", 1).await?;
    let received = notices.received();
    assert_eq!(received.len(), 2);
    assert_eq!(received[0].webhook_id(), received[1].webhook_id());
    gateway.finish(&[&channel]).await
}

async fn a_dead_message_is_noticed_after_a_kill_of_the_recorder(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let notices = ScriptedServer::start(|_| Reply::ok()).await?;
    let plan = plan(setup, &notices)?;
    let (mut gateway, channel) = plan.start_with_channel(|_| Reply::status(400)).await?;
    let recorder = *gateway.roles().last().unwrap_or(&Role::All);
    gateway.process(recorder)?.kill().await?;
    if recorder == Role::All {
        gateway.process(recorder)?.restart().await?;
    }
    gateway.send("c", "s").await?;
    if recorder != Role::All {
        channel.received_at_least(1).await?;
        gateway.process(recorder)?.restart().await?;
    }
    noticed(&notices, "message.dead", 1).await?;
    gateway.finish(&[&channel]).await
}
