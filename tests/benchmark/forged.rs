//! The forged run: what ten thousand forged answers in a row cost the honest ones.
//!
//! Invariant: a round measures the honest answers alone and then beside the forged ones, on the
//! same gateway, at the same pace. An answer's time counts from when it was due to be posted, so
//! that a stall counts for every answer that it held up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use harness::{
    counting::CountingServer,
    http::{Connection, Peer},
    stack::{CALLBACK_SECRET, Engines, Plan, Stack},
    tally::Tally,
};
use hyper::StatusCode;
use roundtrip_broker::{Queue, Status};
use roundtrip_model::{Clock, MessageId, SystemClock, TokenKeys, token::Claims};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::{
    options::Forged,
    plan,
    results::{Spread, percentile},
};

/// How long the tokens are good.
const TIME_TO_LIVE: Duration = Duration::from_hours(1);
/// How long the queue may take to be empty, and the broker to be there.
const LIMIT: Duration = Duration::from_mins(1);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The connections that honest answers come over.
const HONEST_CONNECTIONS: u32 = 32;
/// How long they have to stand before the first answer is due.
const SETTLE: Duration = Duration::from_millis(100);
/// The session that is answered.
const SESSION: &str = "abc123";
const ANSWER: &[u8] = br#"{"session_id":"abc123","response_data":{"text":"Message received"}}"#;

/// The honest answers' times in one round, in milliseconds: alone, and beside the forged ones.
#[derive(Debug, Clone, Copy)]
struct Times {
    alone: (f64, f64),
    beside: (f64, f64),
}

/// Runs it on these engines and prints the table; whether every forged answer was refused and none
/// was enqueued.
///
/// # Errors
/// If an honest answer is not taken, or a forged one is answered anything but 401.
pub(crate) async fn run(
    options: &Forged,
    engines: &[(&str, &str, Engines)],
) -> anyhow::Result<bool> {
    let mut good = true;
    for (title, key, engines) in engines {
        println!("== {title} ==");
        good &= measure(options, engines, &format!("forged-{key}")).await?;
    }
    println!(
        "\nHow it was measured\n  {} forged answers in a row in each of {} rounds, over {} connections; honest ones \
         at {} a second,\n  from when one was due to be posted until its 202",
        options.count, options.repeat, options.forgers, options.rate
    );
    Ok(good)
}

async fn measure(options: &Forged, engines: &Engines, name: &str) -> anyhow::Result<bool> {
    let sessions = CountingServer::start(Arc::new(Tally::new("nothing", 0))).await?;
    let mut plan = Plan {
        sessions_server: sessions.url(),
        ..plan(&options.common, engines.clone(), name)?
    };
    let signed = ("ROUNDTRIP__CALLBACK_AUTH".to_owned(), "signed".to_owned());
    plan.env.push(signed);
    let folder = plan.folder.clone();
    let mut stack = Stack::new(plan)?;
    stack.start_all().await?;
    let ingress = &stack.ingress();
    let (mut rounds, mut refused) = (Vec::new(), 0);
    for number in 1..=options.repeat {
        eprintln!("round {number} of {}", options.repeat);
        let forging = Arc::new(AtomicBool::new(true));
        let at_least = options.honest;
        let alone = honest(ingress, options.rate, at_least, Arc::default()).await?;
        let beside = honest(ingress, options.rate, 1, Arc::clone(&forging));
        let forged = async {
            let forged = forge_all(ingress, options).await;
            forging.store(false, Ordering::Relaxed);
            forged
        };
        let (beside, forged) = tokio::try_join!(beside, forged)?;
        refused += forged;
        rounds.push(Times {
            alone: of(alone)?,
            beside: of(beside)?,
        });
    }
    stack.stop_all().await?;
    let waiting = waiting(engines, &folder.join("broker.db"), name).await?;
    table(&rounds)?;
    println!("{refused} forged answers: {refused} times 401; {waiting} answers wait in the queue");
    stack.remove().await?;
    Ok(waiting == 0 && refused == options.count * options.repeat)
}

/// Posts honest answers at this rate while somebody forges, and so many at the least. They come over
/// many connections, as from many channel servers: none waits for the one before it.
async fn honest(
    ingress: &Peer,
    rate: u32,
    at_least: u32,
    forging: Arc<AtomicBool>,
) -> anyhow::Result<Vec<Duration>> {
    let every = Duration::from_secs(1) / rate;
    let start = Instant::now() + SETTLE;
    let servers = (0..HONEST_CONNECTIONS).map(async |first| {
        let path = path(CALLBACK_SECRET)?;
        let mut connection = Connection::open(ingress).await?;
        let mut times = Vec::new();
        for number in (first..).step_by(HONEST_CONNECTIONS as usize) {
            if number >= at_least && !forging.load(Ordering::Relaxed) {
                break;
            }
            let due = start + every * number;
            sleep_until(due).await;
            let (status, body) = connection.post(&path, Bytes::from_static(ANSWER)).await?;
            ensure!(
                status == StatusCode::ACCEPTED,
                "an honest answer: {status}: {}",
                String::from_utf8_lossy(&body)
            );
            times.push(due.elapsed());
        }
        anyhow::Ok(times)
    });
    Ok(try_join_all(servers).await?.concat())
}

/// Posts the forged answers; how many were refused, which is all.
async fn forge_all(ingress: &Peer, options: &Forged) -> anyhow::Result<usize> {
    let forgers = (0..options.forgers).map(|number| {
        let share =
            options.count / options.forgers + usize::from(number < options.count % options.forgers);
        forge(ingress, share)
    });
    Ok(try_join_all(forgers).await?.into_iter().sum())
}

async fn forge(ingress: &Peer, count: usize) -> anyhow::Result<usize> {
    let good = path(CALLBACK_SECRET)?;
    let (without_mac, _) = good.rsplit_once('.').context("a token")?;
    let mut connection = Connection::open(ingress).await?;
    for number in 0..count {
        // Of the right form, under the right key's name: as much work as a forged one can be.
        let path = format!("{without_mac}.{number:043}");
        let (status, _) = connection.post(&path, Bytes::from_static(ANSWER)).await?;
        ensure!(
            status == StatusCode::UNAUTHORIZED,
            "a forged answer: {status}"
        );
    }
    Ok(count)
}

/// The way back of a message, with a token of this secret.
fn path(secret: &str) -> anyhow::Result<String> {
    let keys = TokenKeys::new([secret.as_bytes()])?;
    let claims = Claims {
        message_id: MessageId::generate(),
        channel_id: "c".parse()?,
        round: 0,
    };
    let token = keys.sign(&claims, &SESSION.parse()?, SystemClock.now() + TIME_TO_LIVE);
    Ok(format!("/webhook-response?token={token}"))
}

/// What waits in the callbacks queue and its dead queue of a gateway that was stopped.
async fn waiting(engines: &Engines, file: &std::path::Path, name: &str) -> anyhow::Result<u64> {
    let url = match engines {
        Engines::Embedded => format!("sqlite:{}", file.display()),
        Engines::Servers { broker, .. } => broker.clone(),
    };
    let config = roundtrip_broker::Config {
        url,
        namespace: name.to_owned(),
        ..roundtrip_broker::Config::default()
    };
    let broker = roundtrip_broker::open(&config, Arc::new(SystemClock)).await?;
    let ready = async {
        while broker.status() != Status::Ready {
            sleep(LOOK_EVERY).await;
        }
    };
    timeout(LIMIT, ready).await.context("no broker")?;
    let waiting =
        broker.ready(Queue::Callbacks).await? + broker.ready(Queue::CallbacksDead).await?;
    broker.close().await;
    Ok(waiting)
}

/// The median and the 99th percentile, in milliseconds.
fn of(mut times: Vec<Duration>) -> anyhow::Result<(f64, f64)> {
    times.sort_unstable();
    let of = |percent| percentile(&times, percent).context("nothing was measured");
    Ok((of(50)?, of(99)?))
}

fn table(rounds: &[Times]) -> anyhow::Result<()> {
    println!(
        "{:<28}{:>10}{:>10}{:>10}",
        "", "median", "least", "greatest"
    );
    let row = |name: &str, unit: &str, of: &dyn Fn(&Times) -> f64| {
        let spread = Spread::of(rounds.iter().map(of)).context("nothing was measured")?;
        let Spread {
            median,
            least,
            greatest,
        } = spread;
        println!("{name:<28}{median:>10.2}{least:>10.2}{greatest:>10.2} {unit}");
        anyhow::Ok(())
    };
    row("honest alone, p50", "ms", &|times| times.alone.0)?;
    row("beside forged, p50", "ms", &|times| times.beside.0)?;
    row("honest alone, p99", "ms", &|times| times.alone.1)?;
    row("beside forged, p99", "ms", &|times| times.beside.1)?;
    row("beside / alone, p50", "", &|times| {
        times.beside.0 / times.alone.0
    })?;
    row("beside / alone, p99", "", &|times| {
        times.beside.1 / times.alone.1
    })
}
