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

    let (mut overdue, mut lateness) = (0_u64, Vec::new());
    let mut connection = Connection::open(&stack.ingress()).await?;
    for message in progress.accepted_ids() {
        let is_silent = message.message % 2 == 1;
        let end = if is_silent { "overdue" } else { "forwarded" };
        let found = until(&mut connection, &message, end).await?;
        let late = late(&found)?;
        ensure!(late.is_some() == is_silent, "{}: {found}", message.id);
        if let Some(late) = late {
            overdue += 1;
            lateness.push(late);
        }
    }
    lateness.sort_unstable();
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    for notice in notices.received() {
        *kinds.entry(notice.field("type")).or_default() += 1;
    }
    let at = |part: usize| {
        let place = (lateness.len() * part / 100).min(lateness.len() - 1);
        lateness[place].as_seconds_f64()
    };
    println!(
        "{} messages accepted in {:.1} s, {overdue} overdue; after their time: p50 {:.2} s, p99 {:.2} s, \
         most {:.2} s; notices: {kinds:?}",
        tally.messages(),
        accepted_in.as_secs_f64(),
        at(50),
        at(99),
        at(100),
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

/// How long after its time the message became overdue, if it did.
fn late(message: &Value) -> anyhow::Result<Option<time::Duration>> {
    let entries = message["timeline"].as_array().context("no timeline")?;
    let at = |entry: &Value| -> anyhow::Result<OffsetDateTime> {
        let at = entry["at"].as_str().context("no time")?;
        Ok(OffsetDateTime::parse(at, &Rfc3339)?)
    };
    let find = |is_it: &dyn Fn(&Value) -> bool| entries.iter().find(|entry| is_it(entry));
    let Some(overdue) = find(&|entry| entry["type"] == "overdue") else {
        return Ok(None);
    };
    let delivered = find(&|entry| entry["type"] == "attempted" && entry["next"]["type"] == "done");
    let due = at(delivered.context("overdue and not delivered")?)? + ANSWER_WITHIN;
    Ok(Some(at(overdue)? - due))
}
