//! The waiting run: what many messages that wait for a paused channel cost the other channels, the
//! processes and a start, and how fast they go after the resume.
//!
//! Invariant: the other channels have the same load before and while the messages wait, in one run.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use harness::{
    counting::CountingServer,
    http::Connection,
    loader::{Load, Progress, post_all, post_paced},
    stack::{Engines, Stack},
    tally::Tally,
};
use hyper::StatusCode;
use roundtrip_broker::Queue;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{options::Waiting, plan, results::percentile};

pub(crate) const IN_FLIGHT: usize = 64;

/// How long posting may take, and arriving.
pub(crate) const LIMIT: Duration = Duration::from_mins(30);

/// How long the idle processes are observed.
const IDLE: Duration = Duration::from_secs(10);

/// The wait before the count is read again.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// The other channels.
const OTHERS: usize = 20;

const BYTES_PER_MB: u64 = 1_000_000;

/// Runs it on these engines and prints a table for each.
pub(crate) async fn run(
    options: &Waiting,
    engines: &[(&str, &str, Engines)],
) -> anyhow::Result<()> {
    for (title, key, engine) in engines {
        println!("== {title} ==");
        let name = format!("waiting-{key}");
        one(options, engine, &name).await?;
    }
    Ok(())
}

async fn one(options: &Waiting, engines: &Engines, name: &str) -> anyhow::Result<()> {
    let backlog = Arc::new(Tally::new("waiting", options.waiting));
    let others = CountingServer::unused().await?;
    let resumed = CountingServer::start(Arc::clone(&backlog)).await?;
    let plan = plan(&options.common, engines.clone(), name)?.sessions_server(others.url());
    let mut stack = Stack::new(plan)?;
    stack.start_all().await?;
    let mut endpoints = vec![resumed.url()];
    endpoints.extend(std::iter::repeat_n(others.url(), OTHERS));
    let channels = stack.register(endpoints.len(), &endpoints).await?;
    let (paused, channels) = channels.split_first().context("no channel")?;

    for run in ["warm", "alone"] {
        let times = load_others(options, &stack, &others, channels, run).await?;
        if run == "alone" {
            print_times("others, none waiting", &times);
        }
    }
    request(&stack, &format!("/channel/{paused}/pause"), "").await?;
    let began = Instant::now();
    let waiting = Load {
        in_flight: IN_FLIGHT,
        ..stack.load(&backlog, std::slice::from_ref(paused), LIMIT)
    };
    let loaded = post_all(&waiting).await?;
    let stored = until_waiting(&stack, paused, options.waiting).await?;
    println!(
        "{} messages accepted in {:.1} s, in the store {:.1} s later; the count took {:.1} ms",
        options.waiting,
        loaded.took.as_secs_f64(),
        began.elapsed().saturating_sub(loaded.took).as_secs_f64(),
        stored.as_secs_f64() * 1e3
    );
    let times = load_others(options, &stack, &others, channels, "beside").await?;
    print_times("others, all waiting", &times);

    let before = stack.usage()?;
    sleep(IDLE).await;
    for (role, usage) in stack.usage()? {
        let cpu = usage
            .cpu
            .saturating_sub(before.get(&role).map_or(Duration::ZERO, |u| u.cpu));
        println!(
            "{role:<12} idle {:>5.2} % of a core, peak memory {:>4} MB",
            cpu.as_secs_f64() / IDLE.as_secs_f64() * 100.0,
            usage.peak_memory / BYTES_PER_MB
        );
    }
    stack.stop_all().await?;
    let began = Instant::now();
    stack.start_all().await?;
    println!("ready {:.1} s after a start", began.elapsed().as_secs_f64());

    if !options.without_resume {
        resume(&stack, paused, &backlog).await?;
    }
    stack.stop_all().await?;
    stack.remove().await
}

/// Resumes the channel, and prints how fast its messages go.
async fn resume(stack: &Stack, channel: &str, backlog: &Tally) -> anyhow::Result<()> {
    let began = Instant::now();
    request(stack, &format!("/channel/{channel}/resume"), "").await?;
    backlog.reach(1, LIMIT).await?;
    let first = began.elapsed();
    let full = backlog.full(LIMIT).await? - began;
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
    let rate = backlog.messages() as f64 / full.saturating_sub(first).as_secs_f64();
    println!(
        "resumed: the first after {:.2} s, all after {:.1} s, {rate:.0} a second, {} twice",
        first.as_secs_f64(),
        full.as_secs_f64(),
        backlog.duplicates()
    );
    Ok(())
}

/// Posts to the other channels on a timetable, and returns each message's time from when it was due
/// to be posted.
async fn load_others(
    options: &Waiting,
    stack: &Stack,
    server: &CountingServer,
    channels: &[String],
    run: &str,
) -> anyhow::Result<Vec<Duration>> {
    let tally = Arc::new(Tally::new(run, options.messages));
    server.count_into(Arc::clone(&tally));
    let load = Load {
        in_flight: IN_FLIGHT,
        ..stack.load(&tally, channels, LIMIT)
    };
    let every = Duration::from_secs(1) / options.rate;
    let loaded = post_paced(&load, &Arc::new(Progress::default()), every).await?;
    tally.full(LIMIT).await?;
    Ok(loaded.times(&tally, every))
}

fn print_times(what: &str, times: &[Duration]) {
    let of = |percent| percentile(times, percent).unwrap_or(f64::NAN);
    println!("{what:<24} p50 {:>8.2} ms, p99 {:>8.2} ms", of(50), of(99));
}

/// Waits until all wait in the store, and returns how long the last count took.
pub(crate) async fn until_waiting(
    stack: &Stack,
    channel: &str,
    count: usize,
) -> anyhow::Result<Duration> {
    let path = format!("/channel/{channel}/waiting");
    let deadline = Instant::now() + LIMIT;
    loop {
        let asked = Instant::now();
        let mut connection = Connection::open(&stack.ingress()).await?;
        let (status, body) = connection.get(&path).await?;
        let took = asked.elapsed();
        let summary: Value = serde_json::from_slice(&body)?;
        let are_stored = match summary["has_more"].as_bool() {
            // With MongoDB not all are counted. What is not stored yet is in the queue.
            Some(true) => {
                let broker = stack.open_broker().await?;
                let queued = broker.ready(Queue::Waiting).await?;
                broker.close().await;
                queued == 0
            }
            _ => summary["count"] == json!(count),
        };
        if status == StatusCode::OK && are_stored {
            return Ok(took);
        }
        ensure!(Instant::now() < deadline, "GET {path}: {status}, {summary}");
        sleep(ASK_EVERY).await;
    }
}

pub(crate) async fn request(stack: &Stack, path: &str, body: &'static str) -> anyhow::Result<()> {
    let mut connection = Connection::open(&stack.ingress()).await?;
    let (status, answer) = connection.post(path, body.into()).await?;
    ensure!(status.is_success(), "POST {path}: {status}, {answer:?}");
    Ok(())
}
