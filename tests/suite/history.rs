//! The operator's tasks: look up a message, list dead letters, replay them.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use harness::{
    gateway::{Accounted, Answer, Plan, Setup, TestGateway},
    scripted::{Reply, ScriptedServer},
    wait,
};
use reqwest::Method;
use roundtrip_model::{Clock, SystemClock};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;

on_both_setups! {
    a_message_shows_its_way_from_queued_to_forwarded,
    messages_are_listed_by_session_channel_and_state,
    messages_are_listed_by_time,
    a_list_goes_on_page_by_page,
    a_dead_letter_replayed_by_id_is_no_longer_listed,
    dead_letters_are_replayed_by_a_filter_and_the_others_stay,
    purged_dead_letters_are_gone,
    a_cancelled_replay_leaves_the_rest,
    slow_replays_do_not_stop_another,
    replays_are_listed_page_by_page,
    a_key_has_a_few_replays_running_and_no_more,
    a_delivered_message_is_sent_again,
    a_replay_resends_delivered_messages_and_skips_waiting_ones,
    a_paused_channels_message_shows_why_it_waits,
    a_message_with_an_undecryptable_secret_shows_why_it_waits,
    a_killed_recorder_loses_no_entry,
}

/// Three attempts within 200 ms.
const SHORT_SCHEDULE: &str = "100ms,100ms";

/// A time after every test, and one before.
const FAR_AWAY: [&str; 2] = ["2999-01-01T00:00:00Z", "1999-01-01T00:00:00Z"];

/// Waits until an answer satisfies the condition.
async fn until_answered(
    gateway: &TestGateway,
    path: &str,
    is_so: impl Fn(&Value) -> bool,
) -> anyhow::Result<Value> {
    wait::until(format!("GET {path}"), async || {
        let answer = gateway.get(path).await.ok()?;
        let json = answer.json();
        (answer.status == 200 && is_so(&json)).then_some(json)
    })
    .await
}

/// Waits until the message's timeline satisfies the condition.
async fn until_told(
    gateway: &TestGateway,
    id: &str,
    is_so: impl Fn(&Value) -> bool,
) -> anyhow::Result<Value> {
    until_answered(gateway, &format!("/channel/message/{id}"), is_so).await
}

/// The event names of a timeline, in order. A slow attempt also has an entry at its start; whether
/// one is slow depends on the machine.
fn events(message: &Value) -> Vec<&str> {
    let entries = message["timeline"].as_array().into_iter().flatten();
    entries
        .filter_map(|entry| entry["type"].as_str())
        .filter(|event| *event != "delivering")
        .collect()
}

/// The ids in a list, in order.
fn ids(list: &Value, of: &str, field: &str) -> Vec<String> {
    let items = list[of].as_array().into_iter().flatten();
    items
        .map(|item| item[field].as_str().unwrap_or_default().to_owned())
        .collect()
}

fn message_ids(list: &Value) -> BTreeSet<String> {
    ids(list, "messages", "message_id").into_iter().collect()
}

fn set<'a>(ids: impl IntoIterator<Item = &'a String>) -> BTreeSet<String> {
    ids.into_iter().cloned().collect()
}

/// A channel server that refuses everything until the flag is set.
async fn refusing() -> anyhow::Result<(ScriptedServer, Arc<AtomicBool>)> {
    let well = Arc::new(AtomicBool::new(false));
    let is_well = Arc::clone(&well);
    let server = ScriptedServer::start(move |_| {
        if is_well.load(Ordering::Relaxed) {
            Reply::ok()
        } else {
            Reply::status(400).body("no such user")
        }
    })
    .await?;
    Ok((server, well))
}

/// Waits until this many dead letters of a channel are listed.
async fn dead(gateway: &TestGateway, channel: &str, count: usize) -> anyhow::Result<Value> {
    let path = format!("/dead-letters?channel_id={channel}");
    until_answered(gateway, &path, |list| {
        ids(list, "dead_letters", "dead_id").len() == count
    })
    .await
}

/// Starts a replay and waits for its end.
async fn replay(gateway: &TestGateway, path: &str, body: &Value) -> anyhow::Result<Value> {
    let asked = gateway.post(path, body.to_string()).await?.expect(202)?;
    let id = asked.json()["replay_id"].as_str().map(str::to_owned);
    let path = format!("/replays/{}", id.unwrap_or_default());
    until_answered(gateway, &path, |replay| replay["status"] == "done").await
}

async fn a_message_shows_its_way_from_queued_to_forwarded(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|request| match request.attempt {
        1 => Reply::status(500).body("not yet"),
        _ => Reply::answering("1"),
    })
    .await?;
    let sessions = ScriptedServer::start(|_| Reply::ok()).await?;
    let gateway = Plan::new(setup)?
        .sessions_server(sessions.url())
        .schedule(SHORT_SCHEDULE)
        .start()
        .await?;
    gateway.register("c", &channel.url()).await?;
    let id = gateway.send("c", "s").await?;
    let message = until_told(&gateway, &id, |message| {
        message["state"] == "forwarded" && events(message).len() >= 5
    })
    .await?;

    assert_eq!(message["message_id"], *id);
    assert_eq!(
        (&message["channel_id"], &message["session_id"]),
        (&"c".into(), &"s".into())
    );
    let listed = events(&message);
    assert_eq!(listed[..2], ["accepted", "attempted"], "{message:#}");
    let mut rest = listed[2..].to_vec();
    rest.sort_unstable();
    assert_eq!(rest, ["answered", "attempted", "forward_attempted"]);
    let entries = message["timeline"].as_array().into_iter().flatten();
    let attempts: Vec<_> = entries
        .filter(|entry| entry["type"] == "attempted")
        .collect();
    assert_eq!(
        (&attempts[0]["attempt"], &attempts[0]["status"]),
        (&1.into(), &500.into())
    );
    assert_eq!(attempts[0]["excerpt"], "not yet");
    assert!(attempts[0]["next"]["wait_ms"].is_u64(), "{message:#}");
    assert_eq!(
        (&attempts[1]["attempt"], &attempts[1]["status"]),
        (&2.into(), &200.into())
    );
    assert_eq!(attempts[0]["next"]["type"], "retry");
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
        ("state=delivered", vec![&one, &two]),
        ("state=dead", vec![&three]),
        ("session_id=one", vec![&one, &three]),
        ("channel_id=good", vec![&one, &two]),
        ("channel_id=good&session_id=one&state=delivered", vec![&one]),
        ("channel_id=bad&state=delivered", vec![]),
        ("", vec![&one, &two, &three]),
    ] {
        let expected = set(expected);
        let path = format!("/messages?{query}");
        let list = until_answered(&gateway, &path, |list| message_ids(list) == expected);
        list.await?;
    }
    gateway.finish(&[&good, &bad]).await
}

async fn messages_are_listed_by_time(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let gateway = Plan::new(setup)?.start().await?;
    gateway.register("c", &channel.url()).await?;
    let early = gateway.send("c", "s").await?;
    // Ids hold milliseconds: neither message has the same one as this time.
    let sent = SystemClock.now();
    let between = wait::until("the clock to move on", async || {
        let now = SystemClock.now();
        (now > sent + Duration::from_millis(2)).then_some(now)
    })
    .await?;
    wait::until("the clock to move on again", async || {
        (SystemClock.now() > between + Duration::from_millis(2)).then_some(())
    })
    .await?;
    let late = gateway.send("c", "s").await?;
    let between = between.format(&Rfc3339)?;
    let [future, past] = FAR_AWAY;
    for (query, expected) in [
        (format!("since={between}"), vec![&late]),
        (format!("until={between}"), vec![&early]),
        (format!("since={past}&until={future}"), vec![&early, &late]),
        (format!("since={future}"), vec![]),
        (format!("until={past}"), vec![]),
    ] {
        let expected = set(expected);
        let path = format!("/messages?{query}");
        until_answered(&gateway, &path, |list| message_ids(list) == expected).await?;
    }
    gateway.all_taken(&[&channel]).await?;
    gateway.finish(&[&channel]).await
}

async fn a_list_goes_on_page_by_page(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::status(400)).await?;
    let gateway = Plan::new(setup)?.start().await?;
    gateway.register("c", &channel.url()).await?;
    let mut sent = Vec::new();
    for number in 0..5 {
        sent.push(gateway.send("c", &format!("s{number}")).await?);
    }
    dead(&gateway, "c", 5).await?;
    until_answered(&gateway, "/messages?state=dead", |list| {
        message_ids(list).len() == 5
    })
    .await?;
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
        let mut sorted = listed.clone();
        sorted.sort_unstable();
        if list == "/messages" {
            // The latest first.
            listed.reverse();
        }
        assert_eq!(listed, sorted, "{list}");
        assert_eq!(listed, sent, "{list}");
    }
    gateway.finish(&[&channel]).await
}

async fn a_dead_letter_replayed_by_id_is_no_longer_listed(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (channel, well) = refusing().await?;
    let gateway = Plan::new(setup)?.start().await?;
    gateway.register("c", &channel.url()).await?;
    let id = gateway.send("c", "s").await?;
    let list = dead(&gateway, "c", 1).await?;
    let letter = &list["dead_letters"][0];
    assert_eq!(
        letter["reason"],
        json!({"kind": "refused", "detail": "answered 400: no such user"})
    );
    assert_eq!(
        (
            &letter["message_id"],
            &letter["session_id"],
            &letter["attempts"]
        ),
        (&id.as_str().into(), &"s".into(), &1.into())
    );

    well.store(true, Ordering::Relaxed);
    let by_id = json!({"ids": [letter["dead_id"]]});
    let dry = json!({"ids": [letter["dead_id"]], "dry_run": true});
    let dry = gateway
        .post("/dead-letters/replay", dry.to_string())
        .await?;
    assert_eq!(
        dry.expect(200)?.json(),
        json!({"dry_run": true, "matched": 1})
    );
    dead(&gateway, "c", 1).await?;

    let replayed = replay(&gateway, "/dead-letters/replay", &by_id).await?;
    assert_eq!(
        (&replayed["matched"], &replayed["progress"]["replayed"]),
        (&1.into(), &1.into())
    );
    let taken = channel.taken_at_least(1).await?;
    assert_eq!(taken[0].webhook_id(), id);
    dead(&gateway, "c", 0).await?;
    // The recorder writes the replay's entry, perhaps after the delivery's.
    let message = until_told(&gateway, &id, |message| {
        message["state"] == "delivered" && events(message).contains(&"replayed")
    })
    .await?;
    assert_eq!(message["replay_count"], 1);
    gateway.finish(&[&channel]).await
}

async fn dead_letters_are_replayed_by_a_filter_and_the_others_stay(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (channel, well) = refusing().await?;
    let gateway = Plan::new(setup)?.start().await?;
    for id in ["a", "b"] {
        gateway.register(id, &channel.url()).await?;
        for number in 0..3 {
            gateway.send(id, &format!("{id}{number}")).await?;
        }
    }
    dead(&gateway, "a", 3).await?;
    dead(&gateway, "b", 3).await?;
    well.store(true, Ordering::Relaxed);
    let filter = json!({
        "queue": "outbound", "channel_id": "a", "reason": "refused", "rate_per_second": 50
    });
    let replayed = replay(&gateway, "/dead-letters/replay", &filter).await?;
    assert_eq!(replayed["progress"]["replayed"], 3);
    let taken = channel.taken_at_least(3).await?;
    let sessions: BTreeSet<_> = taken
        .iter()
        .map(|taken| taken.field("session_id"))
        .collect();
    assert_eq!(sessions, ["a0", "a1", "a2"].map(str::to_owned).into());
    dead(&gateway, "a", 0).await?;
    dead(&gateway, "b", 3).await?;
    gateway.finish(&[&channel]).await
}

async fn purged_dead_letters_are_gone(setup: Setup) -> anyhow::Result<Accounted> {
    let (channel, _well) = refusing().await?;
    let gateway = Plan::new(setup)?.start().await?;
    for id in ["a", "b"] {
        gateway.register(id, &channel.url()).await?;
        gateway.send(id, "s").await?;
        dead(&gateway, id, 1).await?;
    }
    let purge = "/dead-letters?channel_id=a&reason=refused";
    let purged = gateway.request(Method::DELETE, purge, &[], "").await?;
    assert_eq!(purged.expect(200)?.json(), json!({"purged": 1}));
    dead(&gateway, "a", 0).await?;
    dead(&gateway, "b", 1).await?;
    gateway.finish_unaccounted("what was purged is gone").await
}

async fn a_cancelled_replay_leaves_the_rest(setup: Setup) -> anyhow::Result<Accounted> {
    let (channel, well) = refusing().await?;
    let gateway = Plan::new(setup)?.start().await?;
    gateway.register("c", &channel.url()).await?;
    for number in 0..60 {
        gateway.send("c", &format!("s{number}")).await?;
    }
    dead(&gateway, "c", 60).await?;
    well.store(true, Ordering::Relaxed);
    // At this rate the replay takes a minute.
    let slowly = json!({"channel_id": "c", "rate_per_second": 1}).to_string();
    let asked = gateway.post("/dead-letters/replay", slowly).await?;
    let asked = asked.expect(202)?.json();
    let path = format!(
        "/replays/{}",
        asked["replay_id"].as_str().unwrap_or_default()
    );
    channel.taken_at_least(1).await?;

    let cancelled = gateway.request(Method::DELETE, &path, &[], "").await?;
    assert_eq!(cancelled.expect(200)?.json()["status"], "cancelled");
    let one = json!({"ids": [], "channel_id": "c"});
    let refused = gateway
        .post("/dead-letters/replay", one.to_string())
        .await?;
    assert_eq!(refused.expect(422)?.json()["errors"][0]["field"], "ids");
    // The recorder may replay one more before it sees the cancellation.
    let replayed = wait::until("what was replayed to be taken", async || {
        let replay = gateway.get(&path).await.ok()?.json();
        let replayed = usize::try_from(replay["progress"]["replayed"].as_u64()?).ok()?;
        (replay["status"] == "cancelled" && channel.taken().len() == replayed).then_some(replayed)
    })
    .await?;
    assert!((1..60).contains(&replayed), "{replayed}");
    dead(&gateway, "c", 60 - replayed).await?;
    gateway.finish(&[&channel]).await
}

/// Starts a replay of a channel's dead letters at one a second.
async fn replay_slowly(gateway: &TestGateway, channel: &str) -> anyhow::Result<Answer> {
    let slowly = json!({"channel_id": channel, "rate_per_second": 1}).to_string();
    gateway.post("/dead-letters/replay", slowly).await
}

/// More slow replays than a recorder runs at once.
async fn slow_replays_do_not_stop_another(setup: Setup) -> anyhow::Result<Accounted> {
    const SLOW: usize = 5;
    const LETTERS: usize = 30;
    let (channel, well) = refusing().await?;
    // The machine may be busy.
    let patient = Plan::new(setup)?.env("ROUNDTRIP__STORE__TIMEOUT", "10s");
    let gateway = patient.start().await?;
    let slow: Vec<String> = (0..SLOW).map(|number| format!("slow-{number}")).collect();
    gateway.register("quick", &channel.url()).await?;
    for id in &slow {
        gateway.register(id, &channel.url()).await?;
        for number in 0..LETTERS {
            gateway.send(id, &format!("s{number}")).await?;
        }
    }
    gateway.send("quick", "s").await?;
    for id in &slow {
        dead(&gateway, id, LETTERS).await?;
    }
    dead(&gateway, "quick", 1).await?;
    well.store(true, Ordering::Relaxed);
    let mut asked = Vec::new();
    for id in &slow {
        asked.push(replay_slowly(&gateway, id).await?.expect(202)?.json());
    }
    // All of them are running.
    for replay in &asked {
        let path = format!(
            "/replays/{}",
            replay["replay_id"].as_str().unwrap_or_default()
        );
        until_answered(&gateway, &path, |replay| {
            replay["progress"]["replayed"].as_u64() > Some(0)
        })
        .await?;
    }
    replay(
        &gateway,
        "/dead-letters/replay",
        &json!({"channel_id": "quick"}),
    )
    .await?;
    for replay in &asked {
        let path = format!(
            "/replays/{}",
            replay["replay_id"].as_str().unwrap_or_default()
        );
        let slow = gateway.get(&path).await?.expect(200)?.json();
        assert_eq!(
            slow["status"], "running",
            "the quick one did not overtake it"
        );
        gateway
            .request(Method::DELETE, &path, &[], "")
            .await?
            .expect(200)?;
    }
    gateway.finish(&[&channel]).await
}

async fn replays_are_listed_page_by_page(setup: Setup) -> anyhow::Result<Accounted> {
    let gateway = Plan::new(setup)?.start().await?;
    let mut asked = Vec::new();
    for session in ["a", "b", "c"] {
        let body = json!({"session_id": session});
        let replay = replay(&gateway, "/dead-letters/replay", &body).await?;
        asked.push(replay["replay_id"].as_str().unwrap_or_default().to_owned());
    }
    asked.reverse();
    let first = gateway.get("/replays?limit=2").await?.expect(200)?.json();
    assert_eq!(ids(&first, "replays", "replay_id"), asked[..2]);
    let path = format!(
        "/replays?limit=2&status=done&cursor={}",
        first["next_cursor"].as_str().unwrap_or_default()
    );
    let second = gateway.get(&path).await?.expect(200)?.json();
    assert_eq!(ids(&second, "replays", "replay_id"), asked[2..]);
    assert_eq!(second["next_cursor"], Value::Null);
    let running = gateway.get("/replays?status=running").await?.expect(200)?;
    assert_eq!(running.json()["replays"], json!([]));
    gateway.finish(&[]).await
}

async fn a_key_has_a_few_replays_running_and_no_more(setup: Setup) -> anyhow::Result<Accounted> {
    const LETTERS: usize = 60;
    let (channel, _) = refusing().await?;
    let gateway = Plan::new(setup)?.start().await?;
    gateway.register("c", &channel.url()).await?;
    for number in 0..LETTERS {
        gateway.send("c", &format!("s{number}")).await?;
    }
    dead(&gateway, "c", LETTERS).await?;
    for _ in 0..10 {
        replay_slowly(&gateway, "c").await?.expect(202)?;
    }
    let refused = replay_slowly(&gateway, "c").await?.expect(429)?;
    assert_eq!(
        refused.json()["type"],
        "urn:roundtrip:problem:too-many-replays"
    );
    assert!(refused.header("retry-after").parse::<u64>().is_ok());
    let running = gateway.get("/replays?status=running").await?.expect(200)?;
    let running = ids(&running.json(), "replays", "replay_id");
    assert_eq!(running.len(), 10);
    for id in running {
        let path = format!("/replays/{id}");
        gateway
            .request(Method::DELETE, &path, &[], "")
            .await?
            .expect(200)?;
    }
    replay_slowly(&gateway, "c").await?.expect(202)?;
    gateway.finish(&[&channel]).await
}

/// The runbook's task. The filter also matches answered messages; a waiting message is not
/// delivered twice.
async fn a_replay_resends_delivered_messages_and_skips_waiting_ones(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|request| match request.field("session_id").as_str() {
        "answered" => Reply::answering("1"),
        _ => Reply::ok(),
    })
    .await?;
    let sessions = ScriptedServer::start(|_| Reply::ok()).await?;
    let gateway = Plan::new(setup)?
        .sessions_server(sessions.url())
        // The dispatcher sees the pause at once.
        .env("ROUNDTRIP__STORE__CACHE_TTL", "1ms")
        .start()
        .await?;
    gateway.register("c", &channel.url()).await?;
    let answered = gateway.send("c", "answered").await?;
    until_told(&gateway, &answered, |message| {
        message["state"] == "forwarded"
    })
    .await?;
    gateway.post("/channel/c/pause", "").await?.expect(200)?;
    let waits = gateway.send("c", "waits").await?;
    until_told(&gateway, &waits, |message| message["state"] == "queued").await?;

    let lost = json!({"channel_id": "c", "state": "taken"});
    let lost = replay(&gateway, "/messages/replay", &lost).await?;
    assert_eq!(
        (&lost["matched"], &lost["progress"]["replayed"]),
        (&json!(1), &json!(1))
    );
    // Both are under way now.
    until_told(&gateway, &answered, |message| {
        message["state"] == "replayed"
    })
    .await?;
    let all = replay(&gateway, "/messages/replay", &json!({"channel_id": "c"})).await?;
    assert_eq!(
        (&all["matched"], &all["progress"]["skipped"]),
        (&json!(2), &json!(2))
    );

    gateway.post("/channel/c/resume", "").await?.expect(200)?;
    until_told(&gateway, &answered, |message| {
        message["state"] == "forwarded" && message["replay_count"] == 1
    })
    .await?;
    until_told(&gateway, &waits, |message| message["state"] == "delivered").await?;
    let of_it = channel
        .taken()
        .into_iter()
        .filter(|taken| taken.webhook_id() == waits);
    assert_eq!(of_it.count(), 1);
    gateway.finish(&[&channel, &sessions]).await
}

async fn a_delivered_message_is_sent_again(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let gateway = Plan::new(setup)?.start().await?;
    gateway.register("c", &channel.url()).await?;
    let id = gateway.send("c", "lost").await?;
    gateway.send("c", "kept").await?;
    until_told(&gateway, &id, |message| {
        message["state"] == "delivered" && events(message).contains(&"accepted")
    })
    .await?;
    let lost = json!({"channel_id": "c", "session_id": "lost", "state": "delivered"});
    let replayed = replay(&gateway, "/messages/replay", &lost).await?;
    assert_eq!(replayed["progress"]["replayed"], 1);
    let again = wait::until("the message to be taken twice", async || {
        let taken = channel.taken().into_iter();
        let of_it: Vec<_> = taken.filter(|taken| taken.webhook_id() == id).collect();
        (of_it.len() == 2).then_some(of_it)
    })
    .await?;
    assert_eq!(again[0].field("message"), again[1].field("message"));
    until_told(&gateway, &id, |message| {
        message["state"] == "delivered" && message["replay_count"] == 1
    })
    .await?;
    gateway.all_taken(&[&channel]).await?;
    gateway.finish(&[&channel]).await
}

async fn a_paused_channels_message_shows_why_it_waits(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let gateway = Plan::new(setup)?.start().await?;
    gateway.register("c", &channel.url()).await?;
    gateway.post("/channel/c/pause", "").await?.expect(200)?;
    let id = gateway.send("c", "s").await?;
    let waits = until_told(&gateway, &id, |message| {
        message["waiting"]["reason"] == "channel_paused" && events(message).contains(&"waiting")
    })
    .await?;
    assert_eq!(waits["state"], "queued");
    gateway.post("/channel/c/resume", "").await?.expect(200)?;
    let done = until_told(&gateway, &id, |message| message["state"] == "delivered").await?;
    assert_eq!(done["waiting"], Value::Null);
    gateway.finish(&[&channel]).await
}

/// As when each role starts in a folder of its own and creates its own key.
async fn a_message_with_an_undecryptable_secret_shows_why_it_waits(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    const OTHER_KEY: &str = "YW5vdGhlci1lbmNyeXB0aW9uLWtleS1vZi0zMi1ieXQ=";
    const MESSAGES: usize = 20;
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let plan = Plan::new(setup)?.env("ROUNDTRIP__DISPATCHER__PARK", "200ms");
    let mut gateway = plan.start().await?;
    gateway.register("c", &channel.url()).await?;
    let dispatcher = gateway.having("dispatcher");
    gateway.stop(&dispatcher).await?;
    let process = gateway.process(&dispatcher)?;
    process.set_env("ENCRYPTION_KEYS", OTHER_KEY);
    process.restart().await?;
    let mut sent = Vec::new();
    for number in 0..MESSAGES {
        sent.push(gateway.send("c", &format!("s{number}")).await?);
    }
    for id in &sent {
        let waits = until_told(&gateway, id, |message| {
            message["waiting"]["reason"] == "secret_unreadable"
        })
        .await?;
        assert_eq!(waits["state"], "queued");
        assert_eq!(
            events(&waits)
                .iter()
                .filter(|event| **event == "waiting")
                .count(),
            1
        );
    }
    let (status, body) = gateway.process(&dispatcher)?.readiness().await?;
    let readiness: Value = serde_json::from_slice(&body)?;
    assert_eq!(status, 200, "{readiness}");
    let said = readiness["warnings"].to_string();
    assert!(said.contains("signing secrets of 1 channel"), "{readiness}");
    let log = gateway.log(&dispatcher)?;
    assert_eq!(
        log.matches("a secret cannot be decrypted").count(),
        1,
        "{log}"
    );
    assert_eq!(log.matches("delivery.snoozed").count(), MESSAGES, "{log}");

    gateway.stop(&dispatcher).await?;
    let process = gateway.process(&dispatcher)?;
    process.set_env("ENCRYPTION_KEYS", "");
    process.restart().await?;
    gateway.all_taken(&[&channel]).await?;
    gateway.finish(&[&channel]).await
}

/// Waits until every message's timeline has its acceptance and its delivery.
async fn all_told(gateway: &TestGateway, sent: &[String]) -> anyhow::Result<()> {
    for id in sent {
        until_told(gateway, id, |message| {
            let listed = events(message);
            message["state"] == "delivered"
                && ["accepted", "attempted"]
                    .iter()
                    .all(|event| listed.contains(event))
        })
        .await?;
    }
    Ok(())
}

async fn a_killed_recorder_loses_no_entry(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let mut gateway = Plan::new(setup)?.start().await?;
    gateway.register("c", &channel.url()).await?;
    let recorder = gateway.having("recorder");
    let mut sent = Vec::new();
    for round in 0..3 {
        for number in 0..20 {
            sent.push(gateway.send("c", &format!("{round}-{number}")).await?);
        }
        gateway.process(&recorder)?.kill().await?;
        gateway.process(&recorder)?.restart().await?;
    }
    all_told(&gateway, &sent).await?;
    gateway.finish(&[&channel]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_entry_is_missing_after_a_store_outage() -> anyhow::Result<()> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let plan = Plan::new(Setup::Servers)?;
    let (url, proxy) = plan.test_namespace()?.store_by_proxy().await?;
    let gateway = plan.env("STORE_URL", url).start().await?;
    gateway.register("c", &channel.url()).await?;
    let mut sent = vec![gateway.send("c", "before").await?];
    all_told(&gateway, &sent).await?;

    proxy.refuse();
    for number in 0..20 {
        sent.push(gateway.send("c", &format!("during-{number}")).await?);
    }
    // Accepting and delivering continue.
    gateway.all_taken(&[&channel]).await?;
    let path = format!("/channel/message/{}", sent[0]);
    let refused = gateway.get(&path).await?.expect(503)?;
    assert!(refused.header("retry-after").parse::<u64>().is_ok());

    proxy.resume();
    all_told(&gateway, &sent).await?;
    gateway.finish(&[&channel]).await.map(drop)
}
