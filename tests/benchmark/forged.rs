//! The forged run: how ten thousand forged answers in a row slow the honest ones.
//!
//! Invariant: a round measures the honest answers three times, on the same gateway at the same
//! rate: alone, beside the forged ones, and as long beside a neighbour. The neighbour sends the
//! same requests to another server. The sender takes CPU from a gateway on the same machine in any
//! case, so only the excess over the neighbour is the gateway's own. An answer's time runs from
//! when it was due to be posted, so a stall counts for every answer that it delays.

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
    stack::{CALLBACK_SECRET, Engines, Stack},
};
use hyper::StatusCode;
use roundtrip_broker::Queue;
use roundtrip_model::{Clock, MessageId, SystemClock, TokenKeys, token::Claims};
use tokio::time::{Instant, sleep_until};

use crate::{options::Forged, plan, results::percentile};

/// How long the tokens are valid.
const TIME_TO_LIVE: Duration = Duration::from_hours(1);
/// The connections of the honest answers.
const HONEST_CONNECTIONS: u32 = 32;
/// How long the connections have to open before the first answer is due.
const SETTLE: Duration = Duration::from_millis(100);
const CHANNEL: &str = "channel-0";
const SESSION: &str = "abc123";
const ANSWER: &[u8] = br#"{"session_id":"abc123","response_data":{"text":"Message received"}}"#;

/// The times of the honest answers over all rounds; one round has too few for a percentile.
#[derive(Debug, Default)]
struct Times {
    alone: Vec<Duration>,
    forged: Vec<Duration>,
    neighbour: Vec<Duration>,
}

/// Runs it on these engines, prints the table, and returns whether every forged answer was refused
/// and none was enqueued.
pub(crate) async fn run(
    options: &Forged,
    engines: &[(&str, &str, Engines)],
) -> anyhow::Result<bool> {
    let mut good = true;
    for (title, key, engines) in engines {
        println!("== {title} ==");
        good &= measure(options, engines, &format!("forged-{key}")).await?;
    }
    let pace = match options.pace {
        0 => "each as soon as the one before it is answered".to_owned(),
        rate => format!("{rate} a second in all"),
    };
    println!(
        "\nHow it was measured\n  {} forged answers in a row in each of {} rounds, over {} connections, {pace};\n  \
         honest ones at {} a second, from when one was due to be posted until its 202;\n  a neighbour sends \
         the same, for as long, to another server on this machine",
        options.count, options.repeat, options.forgers, options.rate
    );
    Ok(good)
}

async fn measure(options: &Forged, engines: &Engines, name: &str) -> anyhow::Result<bool> {
    let sessions = CountingServer::unused().await?;
    let plan = plan(&options.common, engines.clone(), name)?
        .sessions_server(sessions.url())
        .env("ROUNDTRIP__CALLBACK_AUTH", "signed");
    let mut stack = Stack::new(plan)?;
    stack.start_all().await?;
    stack.register(1, &[sessions.url()]).await?;
    let ingress = &stack.ingress();
    let server = sessions.peer();
    let (mut times, mut refused) = (Times::default(), 0);
    for number in 1..=options.repeat {
        eprintln!("round {number} of {}", options.repeat);
        let alone = honest(ingress, options.rate, options.honest, Arc::default()).await?;
        let began = Instant::now();
        let forged = in_a_row(ingress, options, StatusCode::UNAUTHORIZED, None);
        let (forged, count) = beside(ingress, options.rate, forged).await?;
        let until = Some(Instant::now() + began.elapsed());
        let neighbour = in_a_row(&server, options, StatusCode::OK, until);
        let (neighbour, _) = beside(ingress, options.rate, neighbour).await?;
        refused += count;
        times.alone.extend(alone);
        times.forged.extend(forged);
        times.neighbour.extend(neighbour);
    }
    stack.stop_all().await?;
    let broker = stack.open_broker().await?;
    let waiting =
        broker.ready(Queue::Callbacks).await? + broker.ready(Queue::CallbacksDead).await?;
    broker.close().await;
    table(times)?;
    println!("{refused} forged answers: {refused} times 401; {waiting} answers wait in the queue");
    stack.remove().await?;
    Ok(waiting == 0 && refused == options.count * options.repeat)
}

/// The times of the honest answers while another task runs, and the result of that task.
async fn beside<T>(
    ingress: &Peer,
    rate: u32,
    other: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<(Vec<Duration>, T)> {
    let goes_on = Arc::new(AtomicBool::new(true));
    let honest = honest(ingress, rate, 1, Arc::clone(&goes_on));
    let other = async {
        let other = other.await;
        goes_on.store(false, Ordering::Relaxed);
        other
    };
    tokio::try_join!(honest, other)
}

/// Posts honest answers at this rate while the task runs, at least this many. They come over many
/// connections, as from many channel servers, so none waits for another.
async fn honest(
    ingress: &Peer,
    rate: u32,
    at_least: u32,
    goes_on: Arc<AtomicBool>,
) -> anyhow::Result<Vec<Duration>> {
    let every = Duration::from_secs(1) / rate;
    let start = Instant::now() + SETTLE;
    let servers = (0..HONEST_CONNECTIONS).map(async |first| {
        let mut connection = Connection::open(ingress).await?;
        let mut times = Vec::new();
        for number in (first..).step_by(HONEST_CONNECTIONS as usize) {
            if number >= at_least && !goes_on.load(Ordering::Relaxed) {
                break;
            }
            let due = start + every * number;
            sleep_until(due).await;
            // One delivery each: a repeated answer to the same delivery is published once.
            let path = path(CHANNEL, SESSION)?;
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

/// Posts the forged answers, or as many as time allows. Returns how many got this status, which is
/// the only one allowed.
async fn in_a_row(
    server: &Peer,
    options: &Forged,
    expected: StatusCode,
    until: Option<Instant>,
) -> anyhow::Result<usize> {
    let start = Instant::now();
    let senders = (0..options.forgers).map(async |first| {
        let good = path(CHANNEL, SESSION)?;
        let (without_mac, _) = good.rsplit_once('.').context("a token")?;
        let mut connection = Connection::open(server).await?;
        let mut answered = 0;
        for number in (first..).step_by(options.forgers) {
            if until.map_or(number >= options.count, |until| Instant::now() >= until) {
                break;
            }
            if options.pace != 0 {
                let due = f64::from(u32::try_from(number)?) / f64::from(options.pace);
                sleep_until(start + Duration::from_secs_f64(due)).await;
            }
            // With the right form and key name, so the gateway does all the work that a forged
            // token can cause.
            let path = format!("{without_mac}.{number:043}");
            let (status, _) = connection.post(&path, Bytes::from_static(ANSWER)).await?;
            ensure!(status == expected, "a forged answer: {status}");
            answered += 1;
        }
        anyhow::Ok(answered)
    });
    Ok(try_join_all(senders).await?.into_iter().sum())
}

/// The path of an answer to a new message of this channel and session, with a valid token.
pub(crate) fn path(channel: &str, session: &str) -> anyhow::Result<String> {
    let keys = TokenKeys::new([CALLBACK_SECRET.as_bytes()])?;
    let claims = Claims {
        message_id: MessageId::generate(),
        channel_id: channel.parse()?,
        replay_count: 0,
    };
    let token = keys.sign(
        &claims,
        &session.parse()?,
        None,
        SystemClock.now() + TIME_TO_LIVE,
    );
    Ok(format!("/webhook-response?token={token}"))
}

fn table(times: Times) -> anyhow::Result<()> {
    println!("{:<28}{:>10}{:>10}{:>10}", "", "answers", "p50", "p99");
    let row = |name: &str, times: Vec<Duration>| {
        let (count, times) = (times.len(), of(times)?);
        println!("{name:<28}{count:>10}{:>10.2}{:>10.2} ms", times.0, times.1);
        anyhow::Ok(times)
    };
    let alone = row("honest alone", times.alone)?;
    let forged = row("beside forged", times.forged)?;
    let neighbour = row("beside a neighbour", times.neighbour)?;
    let ratio = |name: &str, (p50, p99): (f64, f64)| {
        println!("{name:<38}{:>10.2}{:>10.2}", forged.0 / p50, forged.1 / p99);
    };
    ratio("beside forged / alone", alone);
    ratio("beside forged / beside a neighbour", neighbour);
    Ok(())
}

/// The median and the 99th percentile, in milliseconds.
fn of(mut times: Vec<Duration>) -> anyhow::Result<(f64, f64)> {
    times.sort_unstable();
    let of = |percent| percentile(&times, percent).context("nothing was measured");
    Ok((of(50)?, of(99)?))
}
