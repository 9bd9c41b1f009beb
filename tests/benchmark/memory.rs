//! The memory run: many messages queued for endpoints that are dead, and what every role holds.
//!
//! Invariant: an endpoint that refuses and one that never answers are never mixed, for waiting for
//! the one would spare the dispatcher most of its work with the other.

use std::{net::Ipv4Addr, sync::Arc};

use anyhow::ensure;
use harness::{
    loader::{BodyShape, Load, post_all},
    process::free_port,
    stack::{Role, Stack},
    tally::Tally,
};
use tokio::{
    net::TcpListener,
    time::{Duration, Instant, sleep},
};

use crate::options::{Dead, Memory};

/// How many channels the messages are for.
const CHANNELS: usize = 8;

/// How long the posting may take.
const LIMIT: Duration = Duration::from_mins(10);

/// How often the roles are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

const BYTES_PER_MB: u64 = 1_000_000;

/// Runs it on one stack, with endpoints that are dead in one way, and prints the peak of every
/// role; whether all stayed under the limit.
///
/// # Errors
/// If not every message is accepted, or a role ends.
pub(crate) async fn run(memory: &Memory, dead: Dead, mut stack: Stack) -> anyhow::Result<bool> {
    // Connections wait in its backlog, or stay open, and nobody ever answers.
    let black_hole = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let endpoint = if dead == Dead::Silent {
        format!("http://{}/silent", black_hole.local_addr()?)
    } else {
        format!("http://127.0.0.1:{}/refused", free_port()?)
    };
    stack.start_all().await?;
    let channels = stack.register(CHANNELS, &[endpoint]).await?;
    let tally = Arc::new(Tally::new("memory", usize::try_from(memory.messages)?));
    let loaded = post_all(&Load {
        address: stack.ingress(),
        path: "/channel/message",
        tally,
        body: BodyShape {
            channels,
            response_url: stack.response_url(),
            bytes: memory.body_bytes,
        },
        in_flight: memory.in_flight,
        limit: LIMIT,
    })
    .await?;
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
        for &role in stack.roles() {
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
    // Killed, not drained: what is under way waits for endpoints that never answer.
    let roles: Vec<Role> = stack.roles().to_vec();
    for role in roles {
        stack.process(role)?.kill().await?;
    }
    Ok(under)
}
