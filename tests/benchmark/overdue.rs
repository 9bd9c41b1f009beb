//! A run of messages whose answer is due soon: half of them get none, and each process is killed once.
//!
//! Invariant: exactly the messages without an answer become overdue, or the run fails.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, ensure};
use harness::{
    counting::CountingServer,
    http::Connection,
    loader::{Accepted, Progress, post_gated},
    scripted::{Reply, ScriptedServer},
    stack::{Engines, Stack},
    tally::Tally,
};
use roundtrip_model::{Clock, SystemClock};
use roundtrip_store::MAX_PAGE;
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::{options::Overdue, plan, waiting::LIMIT};

/// How long the channels have to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The wait before what has not happened is looked for again.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Runs it on these engines.
pub(crate) async fn run(
    options: &Overdue,
    engines: &[(&str, &str, Engines)],
) -> anyhow::Result<()> {
    for (title, key, engine) in engines {
        println!("== {title} ==");
        one(options, engine, &format!("overdue-{key}")).await?;
    }
    Ok(())
}

async fn one(options: &Overdue, engine: &Engines, name: &str) -> anyhow::Result<()> {
    let tally = Arc::new(Tally::new("overdue", options.messages));
    let sessions = CountingServer::start(Arc::clone(&tally)).await?;
    let (answering, silent) = (
        CountingServer::unused().await?,
        CountingServer::unused().await?,
    );
    answering.answer(true);
    let notices = ScriptedServer::start(|_| Reply::ok()).await?;
    let mut plan = plan(&options.common, engine.clone(), name)?.sessions_server(sessions.url());
    let url = ("ROUNDTRIP__NOTICES__URL".to_owned(), notices.url());
    plan.env.push(url);
    let mut stack = Stack::new(plan)?;
    stack.start_all().await?;
    let channels = stack.register(2, &[answering.url(), silent.url()]).await?;
    let mut load = stack.load(&tally, &channels, LIMIT);
    load.body.fields = format!(r#""answer_within":"{}s","#, ANSWER_WITHIN.as_secs());

    let progress = Arc::new(Progress::keeping_ids());
    let (gate, gated) = watch::channel(u64::MAX);
    let began = Instant::now();
    let kills = async {
        if options.kills {
            kill_each(&mut stack, &progress, tally.messages()).await?;
        }
        // The loader's posters end if the gate is gone.
        while progress.accepted.load(Ordering::Acquire) < tally.messages() {
            sleep(LOOK_EVERY).await;
        }
        drop(gate);
        anyhow::Ok(())
    };
    tokio::try_join!(post_gated(&load, &progress, &gated), kills)?;
    let accepted_in = began.elapsed();

    let mut connection = Connection::open(&stack.ingress()).await?;
    let expected = options.messages / 2;
    let deadline = Instant::now() + LIMIT;
    while overdue(&mut connection).await? < expected {
        ensure!(
            Instant::now() < deadline,
            "fewer than {expected} are overdue"
        );
        sleep(LOOK_EVERY).await;
    }
    let seen_at = SystemClock.now();
    let mut last_due = OffsetDateTime::UNIX_EPOCH;
    for message in progress.accepted_ids() {
        let is_silent = message.message % 2 == 1;
        let end = if is_silent { "overdue" } else { "forwarded" };
        let found = until(&mut connection, &message, end).await?;
        let was_overdue = entry(&found, |entry| entry["type"] == "overdue").is_some();
        ensure!(was_overdue == is_silent, "{}: {found}", message.id);
        if is_silent {
            let is_delivered =
                |entry: &Value| entry["type"] == "attempted" && entry["next"]["type"] == "done";
            let delivered = entry(&found, is_delivered).context("overdue and not delivered")?;
            let at = delivered["at"].as_str().context("no time")?;
            let due = OffsetDateTime::parse(at, &Rfc3339)? + ANSWER_WITHIN;
            last_due = last_due.max(due);
        }
    }
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    for notice in notices.received() {
        *kinds.entry(notice.field("type")).or_default() += 1;
    }
    println!(
        "{} messages accepted in {:.1} s, exactly the {expected} without an answer overdue; all were seen so \
         {:.2} s after the last one's time; notices: {kinds:?}",
        tally.messages(),
        accepted_in.as_secs_f64(),
        (seen_at - last_due).as_seconds_f64(),
    );
    stack.stop_all().await?;
    stack.remove().await
}

/// Kills each process once, at equal distances in the load, and starts it again.
async fn kill_each(stack: &mut Stack, progress: &Progress, messages: u64) -> anyhow::Result<()> {
    let roles = stack.roles();
    for (number, role) in (1_u64..).zip(roles) {
        let place = messages * number / (roles.len() as u64 + 1);
        while progress.accepted.load(Ordering::Acquire) < place {
            sleep(LOOK_EVERY).await;
        }
        stack.process(*role)?.kill().await?;
        stack.process(*role)?.restart().await?;
    }
    Ok(())
}

/// The message with its timeline, once it is in this state.
async fn until(
    connection: &mut Connection,
    message: &Accepted,
    state: &str,
) -> anyhow::Result<Value> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let (_, body) = connection
            .get(&format!("/channel/message/{}", message.id))
            .await?;
        let found: Value = serde_json::from_slice(&body)?;
        if found["state"] == state {
            return Ok(found);
        }
        ensure!(
            Instant::now() < deadline,
            "{} is not {state}: {found}",
            message.id
        );
        sleep(LOOK_EVERY).await;
    }
}

/// The first entry of a message's timeline for which this holds.
fn entry(message: &Value, is_it: impl Fn(&Value) -> bool) -> Option<&Value> {
    let mut entries = message["timeline"].as_array()?.iter();
    entries.find(|entry| is_it(entry))
}

/// How many messages are overdue.
async fn overdue(connection: &mut Connection) -> anyhow::Result<usize> {
    let (mut count, mut cursor) = (0, String::new());
    loop {
        let path = format!("/messages?state=overdue&limit={MAX_PAGE}{cursor}");
        let (_, body) = connection.get(&path).await?;
        let page: Value = serde_json::from_slice(&body)?;
        count += page["messages"].as_array().context("no messages")?.len();
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(count),
        }
    }
}
