//! The answers run: how one channel's answers slow those of the others, when the sessions server
//! fails over them and when they flood one token.
//!
//! Invariant: each measurement has its own gateway and the same rate, with and without the
//! disturbance. The flood is also measured against another server ("neighbour"), as its sender
//! takes CPU from a gateway on the same machine in any case. An answer's time runs from when it was
//! due to be posted until it reaches the sessions server.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use harness::{
    counting::CountingServer,
    http::{Connection, Peer},
    stack::{Engines, Stack},
    tally::Tally,
};
use hyper::StatusCode;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::{forged::path, options::Answers, plan, results::percentile};

/// The greatest ratio of the others' p99 beside a channel over whose answers the server fails.
const POISON_TARGET: f64 = 1.5;
/// The greatest ratio of the others' p99 beside a flood to that beside a neighbour.
const FLOOD_TARGET: f64 = 2.0;
/// The most bytes that the gateway accepts for one delivery: 16 bodies of 1 MiB.
const FLOOD_BYTES: u64 = 16 << 20;
/// The disk may hold each byte twice: in the write-ahead log and in the file.
const COPIES: u64 = 2;
/// The connections of the honest answers.
const CONNECTIONS: u32 = 32;
/// How long the connections have to open before the first answer is due.
const SETTLE: Duration = Duration::from_millis(100);
const LIMIT: Duration = Duration::from_mins(2);
/// The prefix of the sessions over whose answers the sessions server fails.
const POISON: &str = "poison";

/// What disturbs the honest answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// Answers of one channel over which the sessions server fails.
    Poison,
    /// Answers through one token, as fast as they are answered.
    Flood,
    /// The same flood to a server that is not the gateway.
    Neighbour,
}

const ALL: [Beside; 4] = [
    Beside::Nothing,
    Beside::Poison,
    Beside::Flood,
    Beside::Neighbour,
];

/// The measurements beside one disturbance.
#[derive(Debug, Default)]
struct Measured {
    times: Vec<Duration>,
    disk: u64,
    disturbing: u64,
}

/// Runs it on these engines, prints the table, and returns whether the targets were reached.
pub(crate) async fn run(
    options: &Answers,
    engines: &[(&str, &str, Engines)],
) -> anyhow::Result<bool> {
    ensure!(options.channels > 1, "more than one channel is needed");
    let mut reached = true;
    for (title, key, engines) in engines {
        let mut all: [Measured; 4] = Default::default();
        for number in 1..=options.repeat {
            for (beside, all) in ALL.into_iter().zip(&mut all) {
                eprintln!(
                    "{key}, beside {beside:?}, run {number} of {}",
                    options.repeat
                );
                let name = format!("answers-{key}-{beside:?}-{number}").to_lowercase();
                let one = measure(options, engines, &name, beside).await?;
                all.times.extend(one.times);
                all.disk = all.disk.max(one.disk);
                all.disturbing += one.disturbing;
            }
        }
        println!("== {title} ==");
        reached &= table(all, *engines == Engines::Embedded)?;
    }
    println!(
        "\nHow it was measured\n  {} answers of {} channels at {} a second, in each of {} runs, from when \
         one was due to be posted until it is at the sessions server\n  poison: {} answers a second of one \
         more channel, over which that server fails\n  flood: answers of {} bytes through one token over {} \
         connections, each as soon as the one before it is met; neighbour: the same to another server",
        options.answers,
        options.channels - 1,
        options.rate,
        options.repeat,
        options.poison_rate,
        options.flood_bytes,
        options.flooders
    );
    Ok(reached)
}

async fn measure(
    options: &Answers,
    engines: &Engines,
    name: &str,
    beside: Beside,
) -> anyhow::Result<Measured> {
    let tally = Arc::new(Tally::new("good", options.answers));
    let sessions = CountingServer::start(Arc::clone(&tally)).await?;
    sessions.fail_for(POISON);
    let plan = plan(&options.common, engines.clone(), name)?
        .sessions_server(sessions.url())
        .env("ROUNDTRIP__CALLBACK_AUTH", "signed");
    let folder = plan.folder.clone();
    let mut stack = Stack::new(plan)?;
    stack.start_all().await?;
    let channels = stack.register(options.channels, &[sessions.url()]).await?;
    let (disturbs, honest) = channels.split_first().context("no channel")?;
    let ingress = stack.ingress();
    let neighbour = CountingServer::unused().await?;
    let disturbing = AtomicU64::new(0);
    let goes_on = AtomicBool::new(true);
    let before = bytes_in(&folder)?;
    let disturb = async {
        match beside {
            Beside::Nothing => Ok(()),
            Beside::Poison => poison(options, &ingress, disturbs, &goes_on, &disturbing).await,
            Beside::Flood => flood(options, &ingress, disturbs, &goes_on, &disturbing).await,
            Beside::Neighbour => {
                let peer = neighbour.peer();
                flood(options, &peer, disturbs, &goes_on, &disturbing).await
            }
        }
    };
    let post = async {
        let posted = post(options, &ingress, honest, &tally).await;
        goes_on.store(false, Ordering::Relaxed);
        posted
    };
    let (since, ()) = tokio::try_join!(post, disturb)?;
    tally.full(LIMIT).await?;
    let disk = bytes_in(&folder)?.saturating_sub(before);
    let every = Duration::from_secs(1) / options.rate;
    let times = (0u32..)
        .zip(0..tally.messages())
        .filter_map(|(number, answer)| Some(tally.arrived_at(answer)? - (since + every * number)))
        .collect();
    stack.stop_all().await?;
    stack.remove().await?;
    Ok(Measured {
        times,
        disk,
        disturbing: disturbing.into_inner(),
    })
}

/// Posts the honest answers, one to a delivery, and returns when the first was due.
async fn post(
    options: &Answers,
    ingress: &Peer,
    channels: &[String],
    tally: &Tally,
) -> anyhow::Result<Instant> {
    let every = Duration::from_secs(1) / options.rate;
    let start = Instant::now() + SETTLE;
    let answers = u32::try_from(options.answers)?;
    let posters = (0..CONNECTIONS).map(async |first| {
        let mut connection = Connection::open(ingress).await?;
        for number in (first..answers).step_by(CONNECTIONS as usize) {
            let session = tally.session(number.into());
            let channel = &channels[number as usize % channels.len()];
            let path = path(channel, &session)?;
            sleep_until(start + every * number).await;
            let body = json!({"session_id": session, "response_data": "honest"}).to_string();
            let (status, answer) = connection.post(&path, body.into()).await?;
            ensure!(
                status == StatusCode::ACCEPTED,
                "an honest answer: {status}: {}",
                String::from_utf8_lossy(&answer)
            );
        }
        anyhow::Ok(())
    });
    try_join_all(posters).await?;
    Ok(start)
}

/// Posts answers over which the sessions server fails, at their rate.
async fn poison(
    options: &Answers,
    ingress: &Peer,
    channel: &str,
    goes_on: &AtomicBool,
    posted: &AtomicU64,
) -> anyhow::Result<()> {
    let mut connection = Connection::open(ingress).await?;
    let every = Duration::from_secs(1) / options.poison_rate;
    let start = Instant::now();
    let body = json!({"session_id": POISON, "response_data": "poison"}).to_string();
    for number in 0.. {
        if !goes_on.load(Ordering::Relaxed) {
            break;
        }
        sleep_until(start + every * number).await;
        let path = path(channel, POISON)?;
        let (status, _) = connection.post(&path, body.clone().into()).await?;
        ensure!(
            status == StatusCode::ACCEPTED,
            "a poisonous answer: {status}"
        );
        posted.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Posts different answers through one token, as fast as they are answered.
async fn flood(
    options: &Answers,
    server: &Peer,
    channel: &str,
    goes_on: &AtomicBool,
    posted: &AtomicU64,
) -> anyhow::Result<()> {
    let path = &path(channel, "flood")?;
    let flooders = (0..options.flooders).map(async |_| {
        let mut connection = Connection::open(server).await?;
        while goes_on.load(Ordering::Relaxed) {
            let number = posted.fetch_add(1, Ordering::Relaxed);
            let text = format!("{number:0>width$}", width = options.flood_bytes);
            let body = json!({"session_id": "flood", "response_data": text}).to_string();
            connection.post(path, body.into()).await?;
        }
        anyhow::Ok(())
    });
    try_join_all(flooders).await?;
    Ok(())
}

/// The total size of the files in a folder.
fn bytes_in(folder: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // The log of the process is not counted.
        if entry
            .path()
            .extension()
            .is_none_or(|extension| extension != "log")
        {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes)
}

fn table(all: [Measured; 4], has_files: bool) -> anyhow::Result<bool> {
    println!(
        "{:<12}{:>10}{:>12}{:>10}{:>10}{:>14}",
        "beside", "answers", "disturbing", "p50", "p99", "disk"
    );
    let mut p99s = Vec::new();
    let mut disks = Vec::new();
    for (beside, mut one) in ALL.into_iter().zip(all) {
        one.times.sort_unstable();
        let of = |percent| percentile(&one.times, percent).context("nothing was measured");
        let (p50, p99) = (of(50)?, of(99)?);
        println!(
            "{:<12}{:>10}{:>12}{p50:>10.2}{p99:>10.2} ms{:>8} KiB",
            format!("{beside:?}"),
            one.times.len(),
            one.disturbing,
            one.disk >> 10
        );
        p99s.push(p99);
        disks.push(one.disk);
    }
    let [nothing, poison, flood, neighbour] = p99s[..] else {
        anyhow::bail!("not all was measured");
    };
    let mut reached = true;
    for (name, ratio, target) in [
        ("poison / nothing, p99", poison / nothing, POISON_TARGET),
        ("flood / neighbour, p99", flood / neighbour, FLOOD_TARGET),
    ] {
        let verdict = if ratio <= target { "reached" } else { "MISSED" };
        println!("{name:<28}{ratio:>8.2}, the target of {target} is {verdict}");
        reached &= ratio <= target;
    }
    if has_files {
        let grew = disks[2].saturating_sub(disks[0]);
        let verdict = if grew <= COPIES * FLOOD_BYTES {
            "within"
        } else {
            "BEYOND"
        };
        println!(
            "the flood took {} KiB of disk more, {verdict} {COPIES} times {} KiB",
            grew >> 10,
            FLOOD_BYTES >> 10
        );
        reached &= grew <= COPIES * FLOOD_BYTES;
    }
    Ok(reached)
}
