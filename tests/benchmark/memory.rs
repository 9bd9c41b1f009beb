//! The memory run: many messages wait for dead endpoints while the memory of every role is
//! measured.
//!
//! Invariant: a run has either refusing or silent endpoints. Waiting for silent ones would spare
//! the dispatcher most of its work with refusing ones.

use std::{net::Ipv4Addr, sync::Arc};

use anyhow::ensure;
use harness::{loader::post_all, process::free_port, stack::Stack, tally::Tally};
use tokio::{
    net::TcpListener,
    time::{Duration, Instant, sleep},
};

use crate::options::{Dead, Memory};

const CHANNELS: usize = 8;

const LIMIT: Duration = Duration::from_mins(10);

/// How often the memory is read.
const LOOK_EVERY: Duration = Duration::from_secs(1);

const BYTES_PER_MB: u64 = 1_000_000;

/// Runs it on one stack with one kind of dead endpoint, prints each role's peak, and returns
/// whether all stayed under the limit.
pub(crate) async fn run(memory: &Memory, dead: Dead, mut stack: Stack) -> anyhow::Result<bool> {
    // Connections stay in the backlog or open, and get no answer.
    let black_hole = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let endpoint = if dead == Dead::Silent {
        format!("http://{}/silent", black_hole.local_addr()?)
    } else {
        format!("http://127.0.0.1:{}/refused", free_port()?)
    };
    stack.start_all().await?;
    let channels = stack.register(CHANNELS, &[endpoint]).await?;
    let tally = Arc::new(Tally::new("memory", usize::try_from(memory.messages)?));
    let mut load = stack.load(&tally, &channels, LIMIT);
    load.body.bytes = memory.body_bytes;
    load.in_flight = memory.in_flight;
    let loaded = post_all(&load).await?;
    println!(
        "endpoint {dead:?}: {} messages accepted in {:.1} s, {} posts made again; \
         tries go on for {} s",
        memory.messages,
        loaded.took.as_secs_f64(),
        loaded.repeated,
        memory.observe.as_secs()
    );
    let until = Instant::now() + memory.observe;
    while Instant::now() < until {
        for role in stack.started() {
            let process = stack.process(role)?;
            ensure!(process.is_running(), "{role} has ended\n{}", process.tail());
        }
        sleep(LOOK_EVERY).await;
    }
    let limit = memory.limit_mb * BYTES_PER_MB;
    let mut under = true;
    for (role, usage) in stack.usage()? {
        let verdict = if usage.peak_memory < limit {
            ""
        } else {
            "  OVER THE LIMIT"
        };
        under &= usage.peak_memory < limit;
        println!(
            "{role:<12} peak resident memory {:>5} MB, {:>7.2} CPU seconds{verdict}",
            usage.peak_memory / BYTES_PER_MB,
            usage.cpu.as_secs_f64(),
        );
    }
    // Killed, not drained: the deliveries in progress wait for endpoints that never answer.
    for role in stack.started() {
        stack.process(role)?.kill().await?;
    }
    Ok(under)
}
