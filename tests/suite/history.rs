//! The operator's view: look up a message, list messages, see why one waits.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context;
use harness::{
    gateway::{Accounted, Plan, Role, Setup, TestGateway, attempts, events},
    scripted::{Received, Reply, ScriptedServer},
    wait,
};
use roundtrip_model::{Clock, SystemClock};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;

on_both_setups! {
    a_message_shows_its_way_from_queued_to_forwarded,
    messages_are_listed_by_session_channel_and_state,
    messages_are_listed_by_time,
    a_list_goes_on_page_by_page,
    a_paused_channels_message_shows_why_it_waits,
    a_message_with_an_undecryptable_secret_shows_why_it_waits,
    an_answer_that_waits_for_the_sessions_server_shows_why,
    a_killed_recorder_loses_no_entry,
}

/// A time after every test, and one before.
const FAR_AWAY: [&str; 2] = ["2999-01-01T00:00:00Z", "1999-01-01T00:00:00Z"];

/// The ids in a list, in order.
pub(crate) fn ids(list: &Value, of: &str, field: &str) -> Vec<String> {
    let items = list[of].as_array().into_iter().flatten();
    items
        .map(|item| item[field].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// Waits until a query lists these messages.
async fn until_listed(
    gateway: &TestGateway,
    query: &str,
    expected: &[&String],
) -> anyhow::Result<()> {
    let expected: BTreeSet<_> = expected.iter().map(|id| (*id).clone()).collect();
    let listed = |list: &Value| {
        let ids = ids(list, "messages", "message_id");
        ids.into_iter().collect::<BTreeSet<_>>() == expected
    };
    let path = format!("/messages?{query}");
    gateway.until(&path, listed).await.map(drop)
}

async fn a_message_shows_its_way_from_queued_to_forwarded(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let plan = Plan::new(setup)?.schedule("100ms,100ms");
    let script = |request: &Received| match request.attempt {
        1 => Reply::status(500).body("not yet"),
        _ => Reply::answering("1"),
    };
    let (gateway, channel, sessions) = plan.start_with_servers(script).await?;
    let id = gateway.send("c", "s").await?;
    let is_complete =
        |message: &Value| message["state"] == "forwarded" && events(message).len() >= 5;
    let message = gateway.until_message(&id, is_complete).await?;

    let named = ["message_id", "channel_id", "session_id"].map(|field| &message[field]);
    assert_eq!(named, [&*id, "c", "s"]);
    let listed = events(&message);
    assert_eq!(listed[..2], ["accepted", "attempted"], "{message:#}");
    let mut rest = listed[2..].to_vec();
    rest.sort_unstable();
    assert_eq!(rest, ["answered", "attempted", "forward_attempted"]);
    let attempts = attempts(&message);
    let numbers = |attempt: &Value| json!([attempt["attempt"], attempt["status"]]);
    assert_eq!(numbers(&attempts[0]), json!([1, 500]));
    assert_eq!(attempts[0]["excerpt"], "not yet");
    assert!(attempts[0]["next"]["wait_ms"].is_u64(), "{message:#}");
    assert_eq!(attempts[0]["next"]["type"], "retry");
    assert_eq!(numbers(&attempts[1]), json!([2, 200]));
    assert_eq!(attempts[1]["next"], json!({"type": "done"}));
    gateway.finish(&[&channel, &sessions]).await
}

async fn messages_are_listed_by_session_channel_and_state(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let good = ScriptedServer::start(|_| Reply::ok()).await?;
    let bad = ScriptedServer::start(|_| Reply::status(400)).await?;
    let gateway = Plan::new(setup)?.start().await?;
    gateway.register("good", &good.url()).await?;
    gateway.register("bad", &bad.url()).await?;
    let one = gateway.send("good", "one").await?;
    let two = gateway.send("good", "two").await?;
    let three = gateway.send("bad", "one").await?;
    for (query, expected) in [
        ("state=delivered", &[&one, &two][..]),
        ("state=dead", &[&three]),
        ("session_id=one", &[&one, &three]),
        ("channel_id=good", &[&one, &two]),
        ("channel_id=good&session_id=one&state=delivered", &[&one]),
        ("channel_id=bad&state=delivered", &[]),
        ("", &[&one, &two, &three]),
    ] {
        until_listed(&gateway, query, expected).await?;
    }
    gateway.finish(&[&good, &bad]).await
}

async fn messages_are_listed_by_time(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, channel) = Plan::new(setup)?
        .start_with_channel(|_| Reply::ok())
        .await?;
    let early = gateway.send("c", "s").await?;
    // Ids hold milliseconds: neither message has the same one as this time.
    let later = async || {
        let since = SystemClock.now();
        wait::until("the clock to move on", async || {
            let now = SystemClock.now();
            (now > since + Duration::from_millis(2)).then_some(now)
        })
        .await
    };
    let between = later().await?.format(&Rfc3339)?;
    later().await?;
    let late = gateway.send("c", "s").await?;
    let [future, past] = FAR_AWAY;
    for (query, expected) in [
        (format!("since={between}"), &[&late][..]),
        (format!("until={between}"), &[&early]),
        (format!("since={past}&until={future}"), &[&early, &late]),
        (format!("since={future}"), &[]),
        (format!("until={past}"), &[]),
    ] {
        until_listed(&gateway, &query, expected).await?;
    }
    gateway.all_taken(&[&channel]).await?;
    gateway.finish(&[&channel]).await
}

async fn a_list_goes_on_page_by_page(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, channel) = Plan::new(setup)?
        .start_with_channel(|_| Reply::status(400))
        .await?;
    let sent = gateway.send_many("c", 5).await?;
    gateway.until_dead("c", 5).await?;
    until_listed(&gateway, "state=dead", &sent.iter().collect::<Vec<_>>()).await?;
    for (list, of, field) in [
        ("/messages", "messages", "message_id"),
        ("/dead-letters", "dead_letters", "webhook_id"),
    ] {
        let mut listed = Vec::new();
        let mut path = format!("{list}?limit=2");
        loop {
            let page = gateway.get(&path).await?.expect(200)?.json();
            let on_page = ids(&page, of, field);
            assert!(on_page.len() <= 2, "{page}");
            listed.extend(on_page);
            let Some(cursor) = page["next_cursor"].as_str() else {
                break;
            };
            path = format!("{list}?limit=2&cursor={cursor}");
        }
        if list == "/messages" {
            // The latest first.
            listed.reverse();
        }
        assert_eq!(listed, sent, "{list}");
    }
    gateway.finish(&[&channel]).await
}

async fn a_paused_channels_message_shows_why_it_waits(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, channel) = Plan::new(setup)?
        .start_with_channel(|_| Reply::ok())
        .await?;
    gateway.post("/channel/c/pause", "").await?.expect(200)?;
    let id = gateway.send("c", "s").await?;
    let is_listed = |message: &Value| {
        message["waiting"]["reason"] == "channel_paused" && events(message).contains(&"waiting")
    };
    let waits = gateway.until_message(&id, is_listed).await?;
    assert_eq!(waits["state"], "waiting");
    gateway.post("/channel/c/resume", "").await?.expect(200)?;
    let done = gateway.until_state(&id, "delivered").await?;
    assert_eq!(done["waiting"], Value::Null);
    gateway.finish(&[&channel]).await
}

async fn an_answer_that_waits_for_the_sessions_server_shows_why(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let quiet = Reply::status(429).header("retry-after", "3600");
    let sessions = ScriptedServer::start(move |_| quiet.clone()).await?;
    let plan = Plan::new(setup)?.sessions_server(sessions.url());
    let (gateway, _channel) = plan.start_with_channel(|_| Reply::answering("1")).await?;
    let first = gateway.send("c", "first").await?;
    let is_refused = |message: &Value| events(message).contains(&"forward_attempted");
    let tried = gateway.until_message(&first, is_refused).await?;
    assert_eq!(tried["waiting"], Value::Null);
    let second = gateway.send("c", "second").await?;
    let waits = gateway
        .until_message(&second, |message| {
            let listed = events(message);
            message["waiting"]["reason"] == "sessions_server_failing"
                && ["answered", "waiting"]
                    .iter()
                    .all(|event| listed.contains(event))
        })
        .await?;
    assert_eq!(waits["state"], "answered");
    let timeline = waits["timeline"].as_array().context("a timeline")?;
    let of = |kind: &str| timeline.iter().find(|entry| entry["type"] == kind);
    let (answered, waiting) = (of("answered"), of("waiting"));
    let waiting = waiting.context("the wait's entry")?;
    assert_eq!(
        answered.context("an answer")?["callback_id"],
        waiting["callback_id"]
    );
    assert_eq!(waiting["reason"], "sessions_server_failing");
    let reason = "what is held is never forwarded";
    gateway.finish_unaccounted(reason).await
}

/// As when each role starts in a folder of its own and creates its own key.
async fn a_message_with_an_undecryptable_secret_shows_why_it_waits(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    const OTHER_KEY: &str = "YW5vdGhlci1lbmNyeXB0aW9uLWtleS1vZi0zMi1ieXQ=";
    const MESSAGES: usize = 20;
    let (mut gateway, channel) = Plan::new(setup)?
        .env("ROUNDTRIP__DISPATCHER__PARK", "200ms")
        .start_with_channel(|_| Reply::ok())
        .await?;
    let dispatcher = Role::Dispatcher;
    let keys = |gateway: &mut TestGateway, keys: &str| {
        let process = gateway.process(dispatcher)?;
        process.set_env("ENCRYPTION_KEYS", keys);
        anyhow::Ok(())
    };
    keys(&mut gateway, OTHER_KEY)?;
    gateway.restart(dispatcher).await?;
    for id in gateway.send_many("c", MESSAGES).await? {
        let waits = gateway.until_message(&id, |message| {
            message["waiting"]["reason"] == "secret_unreadable"
        });
        let waits = waits.await?;
        assert_eq!(waits["state"], "waiting");
        let mut events = events(&waits);
        events.retain(|event| *event == "waiting");
        assert_eq!(events.len(), 1, "{waits}");
    }
    let (status, readiness) = gateway.ready(dispatcher).await?;
    assert_eq!(status, 200, "{readiness}");
    let warnings = readiness["warnings"].to_string();
    assert!(
        warnings.contains("signing secrets of 1 channel"),
        "{readiness}"
    );
    let logged = |word: &str| gateway.logged(dispatcher, &[word]);
    assert_eq!(logged("a secret cannot be decrypted"), 1);
    assert_eq!(logged("delivery.snoozed"), MESSAGES);

    keys(&mut gateway, "")?;
    gateway.restart(dispatcher).await?;
    gateway.all_taken(&[&channel]).await?;
    gateway.finish(&[&channel]).await
}

/// Waits until every message's timeline has its acceptance and its delivery.
async fn until_all_recorded(gateway: &TestGateway, sent: &[String]) -> anyhow::Result<()> {
    for id in sent {
        let is_complete = |message: &Value| {
            let listed = events(message);
            let has = |event| listed.contains(event);
            message["state"] == "delivered" && ["accepted", "attempted"].iter().all(has)
        };
        gateway.until_message(id, is_complete).await?;
    }
    Ok(())
}

async fn a_killed_recorder_loses_no_entry(setup: Setup) -> anyhow::Result<Accounted> {
    let (mut gateway, channel) = Plan::new(setup)?
        .start_with_channel(|_| Reply::ok())
        .await?;
    let mut sent = Vec::new();
    for _ in 0..3 {
        sent.extend(gateway.send_many("c", 20).await?);
        let recorder = gateway.process(Role::Recorder)?;
        recorder.kill().await?;
        recorder.restart().await?;
    }
    until_all_recorded(&gateway, &sent).await?;
    gateway.finish(&[&channel]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_entry_is_missing_after_a_store_outage() -> anyhow::Result<()> {
    let (plan, proxy) = Plan::new(Setup::Servers)?.store_by_proxy().await?;
    let (gateway, channel) = plan.start_with_channel(|_| Reply::ok()).await?;
    let mut sent = vec![gateway.send("c", "before").await?];
    until_all_recorded(&gateway, &sent).await?;

    proxy.refuse();
    sent.extend(gateway.send_many("c", 20).await?);
    // Accepting and delivering continue.
    gateway.all_taken(&[&channel]).await?;
    let path = format!("/channel/message/{}", sent[0]);
    gateway.get(&path).await?.expect_retry_after(503)?;

    proxy.resume();
    until_all_recorded(&gateway, &sent).await?;
    gateway.finish(&[&channel]).await.map(drop)
}
