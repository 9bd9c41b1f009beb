//! Kept answers are sent to the sessions server again.

use std::time::Duration;

use anyhow::Context;
use harness::{
    gateway::{Accounted, Plan, Role, Setup, TestGateway},
    scripted::{Received, Reply, ScriptedServer, failing_once},
    wait,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

on_both_setups! {
    an_answer_without_a_token_is_in_its_session_with_its_forward,
    a_sessions_server_that_lost_an_hour_gets_each_of_its_answers_once,
    a_dry_run_counts_the_answers_and_sends_none,
    an_answer_that_was_not_kept_whole_is_skipped_with_the_reason,
    an_erased_answer_without_a_token_is_gone_and_its_replay_says_why,
    an_answer_to_a_message_that_is_delivered_again_is_skipped,
    a_replay_of_answers_goes_on_after_a_crash,
    the_forward_of_a_replayed_answer_is_pending_until_its_next_attempt,
    the_forward_of_a_replayed_dead_letter_is_pending_until_its_next_attempt,
}

const ANSWERS: &str = "/answers/replay";
const RESPONSE: &str = r#"{"text":"caf\u00e9","n":1.50e300}"#;

/// Posts an answer without a token.
async fn answer(gateway: &TestGateway, session: &str, data: &str) -> anyhow::Result<()> {
    let body = format!(r#"{{"session_id":"{session}","response_data":{data}}}"#);
    gateway.post("/webhook-response", body).await?.expect(202)?;
    Ok(())
}

/// Waits until a session shows this many answers, each forwarded, and returns its turns.
async fn until_forwarded(
    gateway: &TestGateway,
    session: &str,
    count: usize,
) -> anyhow::Result<Vec<Value>> {
    let turns = |page: &Value| page["turns"].as_array().cloned().unwrap_or_default();
    let path = format!("/sessions/{session}");
    let page = gateway.until(&path, |page| {
        let forwarded = turns(page)
            .iter()
            .filter(|turn| turn["forward"]["state"] == "forwarded")
            .count();
        forwarded == count
    });
    Ok(turns(&page.await?))
}

/// Starts a replay of answers and returns its path.
async fn start(gateway: &TestGateway, body: Value) -> anyhow::Result<String> {
    let accepted = gateway.post(ANSWERS, body).await?.expect(202)?;
    Ok(format!("/replays/{}", accepted.field("replay_id")?))
}

async fn until_done(gateway: &TestGateway, path: &str) -> anyhow::Result<Value> {
    gateway
        .until(path, |replay| replay["status"] == "done")
        .await
}

/// The count of matches, of replayed and of skipped ones.
fn counts(replay: &Value) -> [&Value; 3] {
    let progress = &replay["progress"];
    [
        &replay["matched"],
        &progress["replayed"],
        &progress["skipped"],
    ]
}

async fn an_answer_without_a_token_is_in_its_session_with_its_forward(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let sessions = ScriptedServer::start(failing_once(Reply::status(503))).await?;
    let gateway = Plan::new(setup)?
        .sessions_server(sessions.url())
        .env("ROUNDTRIP__FORWARDER__RETRY__SCHEDULE", "100ms")
        .start()
        .await?;
    answer(&gateway, "abc123", RESPONSE).await?;
    let turns = until_forwarded(&gateway, "abc123", 1).await?;
    let [turn] = &turns[..] else {
        panic!("{turns:?}")
    };
    assert_eq!(turn["type"], "answer");
    assert_eq!(turn["callback_id"], sessions.taken()[0].webhook_id());
    assert_eq!(
        turn["response_data"],
        serde_json::from_str::<Value>(RESPONSE)?
    );
    assert_eq!(turn["forward"]["attempts"], 2);
    assert_eq!(turn["forward"]["last_attempt"]["status"], 200);
    assert_eq!(
        (turn.get("message_id"), turn.get("channel_id")),
        (None, None)
    );
    gateway.finish(&[&sessions]).await
}

async fn a_sessions_server_that_lost_an_hour_gets_each_of_its_answers_once(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (gateway, channel, sessions) = Plan::new(setup)?
        .start_with_servers(|_| Reply::answering(RESPONSE))
        .await?;
    // Before, during and after the hour, with and without a token.
    let mut times = Vec::new();
    for (round, session) in ["before", "lost", "after"].into_iter().enumerate() {
        answer(&gateway, session, "1").await?;
        let turns = until_forwarded(&gateway, session, 1).await?;
        times.push(turns[0]["at"].clone());
        let id = gateway.send("c", session).await?;
        // The state can be in the store before the entries and the answer are.
        let is_stored = |message: &Value| forward_is(message, "forwarded", 1);
        gateway.until_message(&id, is_stored).await?;
        sessions.taken_at_least(2 * (round + 1)).await?;
    }
    let first = sessions.taken();
    let hour = json!({"since": times[1], "until": times[2]});
    let path = start(&gateway, hour).await?;
    let replayed = until_done(&gateway, &path).await?;
    assert_eq!(counts(&replayed), [2, 2, 0]);
    let taken = sessions.taken_at_least(first.len() + 2).await?;
    let text = |forward: &Received| (forward.webhook_id().to_owned(), forward.body.clone());
    let mut again: Vec<_> = taken[first.len()..].iter().map(text).collect();
    let mut expected: Vec<_> = first[2..4].iter().map(text).collect();
    again.sort();
    expected.sort();
    assert_eq!(again, expected);
    gateway.finish(&[&channel, &sessions]).await
}

async fn a_dry_run_counts_the_answers_and_sends_none(setup: Setup) -> anyhow::Result<Accounted> {
    const UNKNOWN: &str = "cb_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f";
    let sessions = ScriptedServer::start(|_| Reply::ok()).await?;
    let plan = Plan::new(setup)?.sessions_server(sessions.url());
    let gateway = plan.start().await?;
    for session in ["a", "a", "b"] {
        answer(&gateway, session, "1").await?;
    }
    let turns = until_forwarded(&gateway, "a", 2).await?;
    until_forwarded(&gateway, "b", 1).await?;
    let ids = json!([turns[0]["callback_id"], UNKNOWN]);
    for (filter, expected) in [
        (
            json!({"session_id": "a"}),
            json!({"dry_run": true, "matched": 2}),
        ),
        (
            json!({"ids": ids}),
            json!({"dry_run": true, "matched": 1, "unknown_ids": [UNKNOWN]}),
        ),
        (
            json!({"channel_id": "c"}),
            json!({"dry_run": true, "matched": 0}),
        ),
    ] {
        let mut request = filter.clone();
        request["dry_run"] = json!(true);
        let counted = gateway.post(ANSWERS, request).await?.expect(200)?;
        assert_eq!(counted.json(), expected, "{filter}");
    }
    let replays = gateway.get("/replays").await?.expect(200)?;
    assert_eq!(replays.json()["replays"], json!([]));
    assert_eq!(sessions.received().len(), 3);
    gateway.finish(&[&sessions]).await
}

async fn an_answer_that_was_not_kept_whole_is_skipped_with_the_reason(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let sessions = ScriptedServer::start(|_| Reply::ok()).await?;
    let gateway = Plan::new(setup)?
        .sessions_server(sessions.url())
        .env("ROUNDTRIP__INGRESS__MAX_KEPT_ANSWER_BYTES", "10")
        .start()
        .await?;
    answer(&gateway, "s", RESPONSE).await?;
    answer(&gateway, "s", "1").await?;
    let turns = until_forwarded(&gateway, "s", 2).await?;
    let path = start(&gateway, json!({"session_id": "s"})).await?;
    let replayed = until_done(&gateway, &path).await?;
    assert_eq!(counts(&replayed), [2, 1, 1]);
    let skipped = json!([{"id": turns[0]["callback_id"], "reason": "content_truncated"}]);
    assert_eq!(replayed["progress"]["skips"], skipped);
    sessions.taken_at_least(3).await?;
    let short = turns[1]["callback_id"].as_str().context("an id")?;
    assert_eq!(sessions.taken_of(short).len(), 2);
    gateway.finish(&[&sessions]).await
}

async fn an_erased_answer_without_a_token_is_gone_and_its_replay_says_why(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    const ERASED: &str = "0192f0c1a2b37c4d8e9f0a1b2c3d4e5f";
    let sessions = ScriptedServer::start(|_| Reply::ok()).await?;
    let plan = Plan::new(setup)?.sessions_server(sessions.url());
    let gateway = plan.start().await?;
    answer(&gateway, "anna", &json!(ERASED).to_string()).await?;
    let turns = until_forwarded(&gateway, "anna", 1).await?;
    let id = &turns[0]["callback_id"];
    gateway.delete("/sessions/anna").await?.expect(202)?;
    let is_erased = |page: &Value| page["erasure"]["status"] == "erased";
    let page = gateway.until("/sessions/anna", is_erased).await?;
    let turn = &page["turns"][0];
    // Its time is that of its earliest entry, and the entries come in any order.
    assert_eq!(&turn["callback_id"], id);
    assert_eq!(turn.get("response_data"), None);
    assert!(turn["contents_erased_at"].is_string(), "{turn}");
    assert!(!gateway.store_holds(ERASED).await?);

    let refused = gateway.post(ANSWERS, json!({"ids": [id]})).await?;
    assert_eq!(
        refused.expect(410)?.json()["type"],
        "urn:roundtrip:problem:contents-erased"
    );
    let path = start(&gateway, json!({"session_id": "anna"})).await?;
    let replayed = until_done(&gateway, &path).await?;
    assert_eq!(counts(&replayed), [1, 0, 1]);
    let skipped = json!([{"id": id, "reason": "contents_erased"}]);
    assert_eq!(replayed["progress"]["skips"], skipped);
    gateway.finish(&[&sessions]).await
}

/// It would end the wait for the answer to the new delivery.
async fn an_answer_to_a_message_that_is_delivered_again_is_skipped(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let gate = CancellationToken::new();
    let opened = gate.clone();
    let (gateway, channel, sessions) = Plan::new(setup)?
        .start_with_servers(move |request| match request.number {
            0 => Reply::answering(RESPONSE),
            _ => Reply::ok().after(opened.clone()),
        })
        .await?;
    let id = gateway.send("c", "s").await?;
    gateway.until_state(&id, "forwarded").await?;
    let again = json!({"ids": [id]});
    let again = gateway.post("/messages/replay", again).await?;
    again.expect(202)?;
    channel.received_at_least(2).await?;
    let is_under_way = |message: &Value| message["state"] != "forwarded";
    gateway.until_message(&id, is_under_way).await?;
    let path = start(&gateway, json!({"session_id": "s"})).await?;
    let replayed = until_done(&gateway, &path).await?;
    assert_eq!(counts(&replayed), [1, 0, 1]);
    assert_eq!(replayed["progress"]["skips"][0]["reason"], "under_way");
    gate.cancel();
    gateway.until_state(&id, "delivered").await?;
    gateway.finish(&[&channel, &sessions]).await
}

async fn a_replay_of_answers_goes_on_after_a_crash(setup: Setup) -> anyhow::Result<Accounted> {
    const LOST: usize = 40;
    const RATE: usize = 10;
    /// Far more than needed; another process takes over after 30 s.
    const LIMIT: Duration = Duration::from_mins(3);
    let sessions = ScriptedServer::start(|_| Reply::ok()).await?;
    let plan = Plan::new(setup)?.sessions_server(sessions.url());
    let mut gateway = plan.start().await?;
    for number in 0..LOST {
        answer(&gateway, "s", &number.to_string()).await?;
    }
    until_forwarded(&gateway, "s", LOST).await?;
    let lost = json!({"session_id": "s", "rate_per_second": RATE});
    let path = start(&gateway, lost).await?;
    let half = |replay: &Value| replay["progress"]["replayed"].as_u64() >= Some(LOST as u64 / 2);
    gateway.until(&path, half).await?;
    let recorder = gateway.process(Role::Recorder)?;
    recorder.kill().await?;
    recorder.restart().await?;
    let ended = wait::until_within(LIMIT, "the replay to be done", async || {
        let replay = gateway.get(&path).await.ok()?;
        let replay = (replay.status == 200).then(|| replay.json())?;
        assert!(replay["progress"]["replayed"].as_u64() <= Some(LOST as u64));
        (replay["status"] == "done").then_some(replay)
    });
    assert_eq!(counts(&ended.await?), [LOST, LOST, 0]);
    // A page, and on the embedded engines what was being forwarded at the kill, may come again.
    let taken = sessions.taken_at_least(2 * LOST).await?;
    assert!(taken.len() <= 2 * LOST + RATE, "{}", taken.len());
    let first = &taken[..LOST];
    wait::until("each answer to be taken twice", async || {
        let is_again = |forward: &Received| sessions.taken_of(forward.webhook_id()).len() >= 2;
        first.iter().all(is_again).then_some(())
    })
    .await?;
    gateway.finish(&[&sessions]).await
}

/// A sessions server with this first reply, whose next reply comes when the token is cancelled.
async fn held_again(first: Reply) -> anyhow::Result<(ScriptedServer, CancellationToken)> {
    let released = CancellationToken::new();
    let gate = released.clone();
    let server = ScriptedServer::start(move |request| match request.attempt {
        1 => first.clone(),
        _ => Reply::ok().after(gate.clone()),
    });
    Ok((server.await?, released))
}

/// Whether the message's one answer is stored, and its forward has this state and number of attempts. An
/// entry of the forward can be stored before the answer is.
fn forward_is(message: &Value, state: &str, attempts: u32) -> bool {
    let answer = &message["answers"][0];
    let forward = &answer["forward"];
    let is_so = forward["state"] == state && forward["attempts"] == attempts;
    is_so && answer.get("response_data").is_some()
}

/// The forward has this state after its first attempt. Then the call replays it.
async fn shows_its_replay_as_pending(
    setup: Setup,
    first: Reply,
    state: &str,
    call: &str,
) -> anyhow::Result<Accounted> {
    let (sessions, released) = held_again(first).await?;
    let (gateway, channel) = Plan::new(setup)?
        .sessions_server(sessions.url())
        .start_with_channel(|_| Reply::answering(RESPONSE))
        .await?;
    let id = gateway.send("c", "s").await?;
    let is_ended = |message: &Value| forward_is(message, state, 1);
    gateway.until_message(&id, is_ended).await?;
    let dead = usize::from(state == "dead");
    gateway.until_dead("c", dead).await?;
    let replay = gateway.post(call, json!({"session_id": "s"})).await?;
    assert_eq!(replay.expect(202)?.json()["matched"], 1);
    sessions.received_at_least(2).await?;
    let message = gateway
        .until_message(&id, |message| forward_is(message, "queued", 0))
        .await?;
    assert_eq!(message["state"], "answered");
    released.cancel();
    let is_forwarded =
        |message: &Value| forward_is(message, "forwarded", 1) && message["state"] == "forwarded";
    gateway.until_message(&id, is_forwarded).await?;
    gateway.finish(&[&channel, &sessions]).await
}

async fn the_forward_of_a_replayed_answer_is_pending_until_its_next_attempt(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    shows_its_replay_as_pending(setup, Reply::ok(), "forwarded", ANSWERS).await
}

async fn the_forward_of_a_replayed_dead_letter_is_pending_until_its_next_attempt(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let refused = Reply::status(400);
    shows_its_replay_as_pending(setup, refused, "dead", "/dead-letters/replay").await
}
