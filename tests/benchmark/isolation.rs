//! The isolation run: how a hung channel with a long backlog and a failing channel slow the others.
//!
//! Invariant: runs with and without the bad channels are otherwise the same. They alternate, so
//! that a slow minute of the machine affects both. A message's time runs from when it was due to be
//! posted, so a stall counts for every message that it delays.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use harness::{
    counting::CountingServer,
    loader::{Load, Progress, post_all, post_paced},
    scripted::{Reply, ScriptedServer},
    stack::{Engines, Stack},
    tally::Tally,
};

use crate::{
    options::Isolation,
    plan,
    results::{Spread, percentile},
};

/// The greatest ratio of the others' p99 beside the bad channels.
const TARGET: f64 = 1.5;

/// The number of bad channels: one hangs, one fails.
const BAD: usize = 2;

const IN_FLIGHT: usize = 64;

/// How long posting may take, and arriving.
const LIMIT: Duration = Duration::from_mins(5);

/// Seconds of the same load before the measurement: connections open, caches fill, and the store
/// builds its indexes.
const WARM_UP: usize = 5;

/// The times of the good channels in one run, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Times {
    p50: f64,
    p99: f64,
}

/// Runs it on these engines, prints the table, and returns whether all reached the target.
pub(crate) async fn run(
    options: &Isolation,
    engines: &[(&str, &str, Engines)],
) -> anyhow::Result<bool> {
    ensure!(
        options.channels > BAD,
        "more than {BAD} channels are needed"
    );
    let mut results = vec![Vec::new(); engines.len()];
    for number in 1..=options.repeat {
        for ((_, key, engine), results) in engines.iter().zip(&mut results) {
            let mut times = Vec::new();
            for bad in [false, true] {
                let kind = if bad { "bad" } else { "well" };
                eprintln!("{key}, {kind}, run {number} of {}", options.repeat);
                let name = format!("isolation-{key}-{kind}-{number}");
                times.push(measure(options, engine, &name, bad).await?);
            }
            results.extend(times.first().copied().zip(times.last().copied()));
        }
    }
    println!(
        "{} channels; {} messages at {} a second for {} of them; beside them, one that hangs \
         (time limit 30 s) with {} waiting and one that answers 500 with {}; {} runs of each",
        options.channels,
        options.messages,
        options.rate,
        options.channels - BAD,
        options.waiting,
        options.failing,
        options.repeat
    );
    let mut reached = true;
    for ((title, ..), results) in engines.iter().zip(&results) {
        reached &= table(title, results)?;
    }
    println!(
        "\nHow it was measured\n  the others' times, from when a message was due to be posted until \
         it is at its channel\n  bad / well: each run with the bad channels by the one before it \
         without them"
    );
    Ok(reached)
}

fn table(title: &str, results: &[(Times, Times)]) -> anyhow::Result<bool> {
    println!("\n== {title} ==");
    println!(
        "{:<24}{:>10}{:>10}{:>10}",
        "", "median", "least", "greatest"
    );
    let row = |name: &str, unit: &str, of: &dyn Fn(&(Times, Times)) -> f64| {
        let spread = Spread::of(results.iter().map(of)).context("nothing was measured")?;
        let Spread {
            median,
            least,
            greatest,
        } = spread;
        println!("{name:<24}{median:>10.2}{least:>10.2}{greatest:>10.2} {unit}");
        anyhow::Ok(median)
    };
    row("all well, p50", "ms", &|(well, _)| well.p50)?;
    row("two bad, p50", "ms", &|(_, bad)| bad.p50)?;
    row("all well, p99", "ms", &|(well, _)| well.p99)?;
    row("two bad, p99", "ms", &|(_, bad)| bad.p99)?;
    row("bad / well, p50", "", &|(well, bad)| bad.p50 / well.p50)?;
    let ratio = row("bad / well, p99", "", &|(well, bad)| bad.p99 / well.p99)?;
    let verdict = if ratio <= TARGET { "reached" } else { "MISSED" };
    println!("the target of {TARGET} is {verdict}");
    Ok(ratio <= TARGET)
}

/// One run on a gateway of its own.
async fn measure(
    options: &Isolation,
    engines: &Engines,
    name: &str,
    bad: bool,
) -> anyhow::Result<Times> {
    let good = options.channels - BAD;
    let tally = Arc::new(Tally::new("good", options.messages));
    let rate = usize::try_from(options.rate)?;
    let warm_up = Arc::new(Tally::new("warm", WARM_UP * rate));
    let server = CountingServer::start(Arc::clone(&warm_up)).await?;
    let hangs = ScriptedServer::start(|_| Reply::hang()).await?;
    let fails = ScriptedServer::start(|_| Reply::status(500)).await?;
    let plan = plan(&options.common, engines.clone(), name)?.sessions_server(server.url());
    let mut stack = Stack::new(plan)?;
    stack.start_all().await?;
    let mut endpoints = vec![hangs.url(), fails.url()];
    endpoints.extend(std::iter::repeat_n(server.url(), good));
    let channels = stack.register(options.channels, &endpoints).await?;
    let (bad_channels, good_channels) = channels.split_at(BAD);
    let load = |tally: &Arc<Tally>, channels: &[String]| {
        let mut load = stack.load(tally, channels, LIMIT);
        load.body.bytes = options.body_bytes;
        Load {
            in_flight: IN_FLIGHT,
            ..load
        }
    };

    let every = Duration::from_secs(1) / options.rate;
    post_paced(&load(&warm_up, good_channels), &Arc::default(), every).await?;
    warm_up.full(LIMIT).await?;
    server.count_into(Arc::clone(&tally));
    let paced = load(&tally, good_channels);
    let progress = Arc::new(Progress::default());
    let posted = post_paced(&paced, &progress, every);
    let loaded = if bad {
        for (channel, waiting) in bad_channels.iter().zip([options.waiting, options.failing]) {
            let backlog = Arc::new(Tally::new("bad", waiting));
            post_all(&load(&backlog, std::slice::from_ref(channel))).await?;
        }
        // The bad channels keep their share of the load.
        let share = Arc::new(Tally::new("bad", options.messages * BAD / good));
        let shared = load(&share, bad_channels);
        let their_progress = Arc::new(Progress::default());
        let apart = every * u32::try_from(good / BAD)?;
        let (loaded, _) = tokio::try_join!(posted, post_paced(&shared, &their_progress, apart))?;
        loaded
    } else {
        posted.await?
    };
    tally.full(LIMIT).await?;
    let times = loaded.times(&tally, every);
    // Close them first: the gateway would wait for the hung channel, and its backlog would burden
    // the next run.
    drop((hangs, fails));
    stack.stop_all().await?;
    stack.remove().await?;
    let of = |percent| percentile(&times, percent).context("nothing was measured");
    Ok(Times {
        p50: of(50)?,
        p99: of(99)?,
    })
}
