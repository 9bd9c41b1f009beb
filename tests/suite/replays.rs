//! Dead letters and delivered messages are replayed, and dead letters are purged.

use std::collections::BTreeSet;

use anyhow::Context;
use harness::{
    gateway::{Accounted, Plan, Response, Setup, TestGateway, events},
    scripted::{Received, Reply, ScriptedServer, failing_until},
    wait,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::history::ids;

on_both_setups! {
    a_dead_letter_replayed_by_id_is_no_longer_listed,
    dead_letters_are_replayed_by_a_filter_and_the_others_stay,
    purged_dead_letters_are_gone,
    a_cancelled_replay_leaves_the_rest,
    slow_replays_do_not_stop_another,
    replays_are_listed_page_by_page,
    a_key_has_a_few_replays_running_and_no_more,
    a_delivered_message_is_sent_again,
    a_replay_resends_delivered_messages_and_skips_waiting_ones,
    a_new_replay_names_its_unknown_ids,
}

const DEAD_LETTERS: &str = "/dead-letters/replay";
const MESSAGES: &str = "/messages/replay";

/// A gateway with these channels, at a server that refuses everything until the token is
/// cancelled. Each channel has this many dead letters.
async fn with_dead_letters(
    setup: Setup,
    channels: &[&str],
    count: usize,
) -> anyhow::Result<(TestGateway, ScriptedServer, CancellationToken)> {
    let recovered = CancellationToken::new();
    let refusal = Reply::status(400).body("no such user");
    let server = ScriptedServer::start(failing_until(&recovered, refusal)).await?;
    let gateway = Plan::new(setup)?.start().await?;
    for id in channels {
        gateway.register(id, &server.url()).await?;
        gateway.send_many(id, count).await?;
    }
    for id in channels {
        gateway.until_dead(id, count).await?;
    }
    Ok((gateway, server, recovered))
}

/// The path of a replay that was accepted.
fn path_of(accepted: Response) -> anyhow::Result<String> {
    let id = accepted.expect(202)?.field("replay_id")?;
    Ok(format!("/replays/{id}"))
}

async fn cancel(gateway: &TestGateway, path: &str) -> anyhow::Result<Response> {
    let path = format!("{path}/cancel");
    gateway.post(&path, "").await?.expect(200)
}

/// Starts a replay and waits for its end.
async fn replay(gateway: &TestGateway, path: &str, body: Value) -> anyhow::Result<Value> {
    let path = path_of(gateway.post(path, body).await?)?;
    gateway
        .until(&path, |replay| replay["status"] == "done")
        .await
}

/// Starts a replay of a channel's dead letters at one a second.
async fn replay_slowly(gateway: &TestGateway, channel: &str) -> anyhow::Result<Response> {
    let slowly = json!({"channel_id": channel, "rate_per_second": 1});
    gateway.post(DEAD_LETTERS, slowly).await
}

/// How many letters a replay matched, put back and skipped.
fn counts(replay: &Value) -> [&Value; 3] {
    let progress = &replay["progress"];
    [
        &replay["matched"],
        &progress["replayed"],
        &progress["skipped"],
    ]
}

async fn a_dead_letter_replayed_by_id_is_no_longer_listed(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (gateway, channel, recovered) = with_dead_letters(setup, &["c"], 1).await?;
    let letter = gateway.until_dead("c", 1).await?.remove(0);
    let id = letter["message_id"].as_str().unwrap_or_default();
    let refused = json!({"kind": "refused", "detail": "answered 400: no such user"});
    assert_eq!(letter["reason"], refused);
    assert_eq!(
        (&letter["session_id"], &letter["attempts"]),
        (&json!("c0"), &json!(1))
    );

    recovered.cancel();
    let dry = json!({"ids": [letter["dead_id"]], "dry_run": true});
    let dry = gateway.post(DEAD_LETTERS, dry).await?.expect(200)?;
    let counted = json!({"dry_run": true, "matched": 1, "unknown_ids": []});
    assert_eq!(dry.json(), counted);
    gateway.until_dead("c", 1).await?;

    let by_id = json!({"ids": [letter["dead_id"]]});
    let replayed = replay(&gateway, DEAD_LETTERS, by_id).await?;
    assert_eq!(counts(&replayed)[..2], [1, 1]);
    let taken = channel.taken_at_least(1).await?;
    assert_eq!(taken[0].webhook_id(), id);
    gateway.until_dead("c", 0).await?;
    // The recorder writes the replay's entry, perhaps after the delivery's.
    let is_complete =
        |message: &Value| message["state"] == "delivered" && events(message).contains(&"replayed");
    let message = gateway.until_message(id, is_complete).await?;
    assert_eq!(message["replay_count"], 1);
    gateway.finish(&[&channel]).await
}

async fn dead_letters_are_replayed_by_a_filter_and_the_others_stay(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (gateway, channel, recovered) = with_dead_letters(setup, &["a", "b"], 3).await?;
    recovered.cancel();
    let filter = json!({
        "queue": "outbound", "channel_id": "a", "reason": "refused", "rate_per_second": 50
    });
    let replayed = replay(&gateway, DEAD_LETTERS, filter).await?;
    assert_eq!(counts(&replayed)[1], 3);
    let taken = channel.taken_at_least(3).await?;
    let sessions: BTreeSet<_> = taken
        .iter()
        .map(|taken| taken.field("session_id"))
        .collect();
    assert_eq!(sessions, ["a0", "a1", "a2"].map(str::to_owned).into());
    gateway.until_dead("a", 0).await?;
    gateway.until_dead("b", 3).await?;
    gateway.finish(&[&channel]).await
}

async fn purged_dead_letters_are_gone(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, _channel, _) = with_dead_letters(setup, &["a", "b"], 1).await?;
    let purged = gateway
        .delete("/dead-letters?channel_id=a&reason=refused")
        .await?;
    assert_eq!(purged.expect(200)?.json(), json!({"purged": 1}));
    gateway.until_dead("a", 0).await?;
    gateway.until_dead("b", 1).await?;
    gateway.finish_unaccounted("what was purged is gone").await
}

async fn a_cancelled_replay_leaves_the_rest(setup: Setup) -> anyhow::Result<Accounted> {
    // At one a second the replay takes a minute.
    const LETTERS: usize = 60;
    let (gateway, channel, recovered) = with_dead_letters(setup, &["c"], LETTERS).await?;
    recovered.cancel();
    let path = path_of(replay_slowly(&gateway, "c").await?)?;
    channel.taken_at_least(1).await?;

    let cancelled = cancel(&gateway, &path).await?;
    assert_eq!(cancelled.json()["status"], "cancelled");
    let empty = json!({"ids": [], "channel_id": "c"});
    let refused = gateway.post(DEAD_LETTERS, empty).await?.expect(422)?;
    assert_eq!(refused.json()["errors"][0]["field"], "ids");
    // The recorder may replay one more before it sees the cancellation.
    let replayed = wait::until("what was replayed to be taken", async || {
        let replay = gateway.get(&path).await.ok()?.json();
        let replayed = usize::try_from(replay["progress"]["replayed"].as_u64()?).ok()?;
        (replay["status"] == "cancelled" && channel.taken().len() == replayed).then_some(replayed)
    })
    .await?;
    assert!((1..LETTERS).contains(&replayed), "{replayed}");
    gateway.until_dead("c", LETTERS - replayed).await?;
    gateway.finish(&[&channel]).await
}

/// More slow replays than a recorder runs at once.
async fn slow_replays_do_not_stop_another(setup: Setup) -> anyhow::Result<Accounted> {
    const SLOW: [&str; 5] = ["slow-0", "slow-1", "slow-2", "slow-3", "slow-4"];
    const LETTERS: usize = 30;
    let (gateway, channel, recovered) = with_dead_letters(setup, &SLOW, LETTERS).await?;
    gateway.register("quick", &channel.url()).await?;
    gateway.send("quick", "s").await?;
    gateway.until_dead("quick", 1).await?;
    recovered.cancel();
    let mut slow = Vec::new();
    for id in SLOW {
        slow.push(path_of(replay_slowly(&gateway, id).await?)?);
    }
    // All of them are running.
    for path in &slow {
        let begun = |replay: &Value| replay["progress"]["replayed"].as_u64() > Some(0);
        gateway.until(path, begun).await?;
    }
    replay(&gateway, DEAD_LETTERS, json!({"channel_id": "quick"})).await?;
    for path in &slow {
        let replay = gateway.get(path).await?.expect(200)?.json();
        assert_eq!(
            replay["status"], "running",
            "the quick one was not done before it"
        );
        cancel(&gateway, path).await?;
    }
    gateway.finish(&[&channel]).await
}

async fn replays_are_listed_page_by_page(setup: Setup) -> anyhow::Result<Accounted> {
    let gateway = Plan::new(setup)?.start().await?;
    let mut asked = Vec::new();
    for session in ["a", "b", "c"] {
        let replay = replay(&gateway, DEAD_LETTERS, json!({"session_id": session})).await?;
        asked.push(replay["replay_id"].as_str().unwrap_or_default().to_owned());
    }
    asked.reverse();
    let first = gateway.get("/replays?limit=2").await?.expect(200)?;
    assert_eq!(ids(&first.json(), "replays", "replay_id"), asked[..2]);
    let cursor = first.field("next_cursor")?;
    let path = format!("/replays?limit=2&status=done&cursor={cursor}");
    let second = gateway.get(&path).await?.expect(200)?.json();
    assert_eq!(ids(&second, "replays", "replay_id"), asked[2..]);
    assert_eq!(second["next_cursor"], Value::Null);
    let running = gateway.get("/replays?status=running").await?.expect(200)?;
    assert_eq!(running.json()["replays"], json!([]));
    gateway.finish(&[]).await
}

async fn a_key_has_a_few_replays_running_and_no_more(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, _channel, _) = with_dead_letters(setup, &["c"], 60).await?;
    for _ in 0..10 {
        replay_slowly(&gateway, "c").await?.expect(202)?;
    }
    let refused = replay_slowly(&gateway, "c")
        .await?
        .expect_retry_after(429)?;
    assert_eq!(
        refused.field("type")?,
        "urn:roundtrip:problem:too-many-replays"
    );
    let running = gateway.get("/replays?status=running").await?.expect(200)?;
    let running = ids(&running.json(), "replays", "replay_id");
    assert_eq!(running.len(), 10);
    for id in running {
        cancel(&gateway, &format!("/replays/{id}")).await?;
    }
    replay_slowly(&gateway, "c").await?.expect(202)?;
    gateway
        .finish_unaccounted("a running replay may just have put a letter back")
        .await
}

async fn a_new_replay_names_its_unknown_ids(setup: Setup) -> anyhow::Result<Accounted> {
    const UNKNOWN: &str = "msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f";
    let (gateway, channel, recovered) = with_dead_letters(setup, &["c"], 3).await?;
    recovered.cancel();
    let letters = gateway.until_dead("c", 3).await?;
    let by_dead_id = letters[0]["dead_id"].clone();
    let by_message_id = letters[1]["message_id"].clone();
    for (path, known) in [
        (MESSAGES, &json!([by_message_id])),
        (DEAD_LETTERS, &json!([by_dead_id, by_message_id])),
    ] {
        let mut ids = known.clone();
        ids.as_array_mut().context("ids")?.push(json!(UNKNOWN));
        let asked = json!({"ids": ids, "dry_run": true});
        let asked = gateway.post(path, asked).await?.expect(200)?.json();
        let matched = known.as_array().map_or(0, Vec::len);
        let expected = json!({"dry_run": true, "matched": matched, "unknown_ids": [UNKNOWN]});
        assert_eq!(asked, expected, "{path}");
    }
    let ids = json!({"ids": [by_dead_id, UNKNOWN, by_message_id]});
    let created = gateway.post(DEAD_LETTERS, ids).await?.expect(202)?;
    assert_eq!(created.json()["unknown_ids"], json!([UNKNOWN]));
    let created_at = created.field("created_at")?;
    let path = path_of(created)?;
    let ended = gateway
        .until(&path, |replay| replay["status"] == "done")
        .await?;
    assert_eq!(ended["created_at"], created_at);
    assert_eq!(counts(&ended)[..2], [2, 2]);
    let all = json!({"channel_id": "c"});
    replay(&gateway, DEAD_LETTERS, all).await?;
    gateway.all_taken(&[&channel]).await?;
    gateway.finish(&[&channel]).await
}

/// The runbook's task. The filter also matches answered messages; a waiting message is not
/// delivered twice.
async fn a_replay_resends_delivered_messages_and_skips_waiting_ones(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    // The dispatcher sees the pause at once.
    let plan = Plan::new(setup)?.env("ROUNDTRIP__STORE__CACHE_TTL", "1ms");
    let script = |request: &Received| match request.field("session_id").as_str() {
        "answered" => Reply::answering("1"),
        _ => Reply::ok(),
    };
    let (gateway, channel, sessions) = plan.start_with_servers(script).await?;
    let answered = gateway.send("c", "answered").await?;
    gateway.until_state(&answered, "forwarded").await?;
    gateway.post("/channel/c/pause", "").await?.expect(200)?;
    let waits = gateway.send("c", "waits").await?;
    gateway.until_state(&waits, "waiting").await?;

    let lost = json!({"channel_id": "c", "state": "taken"});
    let lost = replay(&gateway, MESSAGES, lost).await?;
    assert_eq!(counts(&lost)[..2], [1, 1]);
    // Both are under way now.
    gateway.until_state(&answered, "waiting").await?;
    let all = replay(&gateway, MESSAGES, json!({"channel_id": "c"})).await?;
    assert_eq!((counts(&all)[0], counts(&all)[2]), (&json!(2), &json!(2)));

    gateway.post("/channel/c/resume", "").await?.expect(200)?;
    let is_again =
        |message: &Value| message["state"] == "forwarded" && message["replay_count"] == 1;
    gateway.until_message(&answered, is_again).await?;
    gateway.until_state(&waits, "delivered").await?;
    assert_eq!(channel.taken_of(&waits).len(), 1);
    gateway.finish(&[&channel, &sessions]).await
}

async fn a_delivered_message_is_sent_again(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, channel) = Plan::new(setup)?
        .start_with_channel(|_| Reply::ok())
        .await?;
    let id = gateway.send("c", "lost").await?;
    gateway.send("c", "kept").await?;
    let is_complete =
        |message: &Value| message["state"] == "delivered" && events(message).contains(&"accepted");
    gateway.until_message(&id, is_complete).await?;
    let lost = json!({"channel_id": "c", "session_id": "lost", "state": "delivered"});
    let replayed = replay(&gateway, MESSAGES, lost).await?;
    assert_eq!(counts(&replayed)[1], 1);
    let again = wait::until("the message to be taken twice", async || {
        Some(channel.taken_of(&id)).filter(|taken| taken.len() == 2)
    })
    .await?;
    assert_eq!(again[0].field("message"), again[1].field("message"));
    let is_again =
        |message: &Value| message["state"] == "delivered" && message["replay_count"] == 1;
    gateway.until_message(&id, is_again).await?;
    gateway.all_taken(&[&channel]).await?;
    gateway.finish(&[&channel]).await
}
