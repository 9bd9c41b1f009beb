//! The replay run: dead letters are replayed, the replaying process is killed half-way and
//! restarted, and all letters must be delivered.
//!
//! Invariant: the run reads the progress throughout, also across the kill, and checks that it is
//! correct.

use std::{fmt, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    counting::CountingServer,
    http::{Connection, Peer},
    loader,
    stack::{Plan, Role, Stack},
    tally::Tally,
};

/// The interval between reads of the progress.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The most messages that a crash may put back twice, as the recorder guarantees.
const PAGE: u64 = 100;

/// The dispatcher's default limit on concurrent deliveries to one channel.
const UNDER_DELIVERY: u64 = 64;

/// The settings of a replay run.
#[derive(Debug)]
pub struct ReplayPlan {
    pub stack: Plan,
    /// How many dead letters there are.
    pub letters: usize,
    /// `rate_per_second`.
    pub rate: u32,
    /// The time limit on the run.
    pub limit: Duration,
}

/// The result of a replay run.
#[derive(Debug, Clone)]
pub struct ReplayReport {
    /// Dead letters that matched.
    pub matched: u64,
    /// The progress when the process was killed.
    pub at_kill: u64,
    /// The progress when the replay was done.
    pub replayed: u64,
    /// Letters that could not be put back.
    pub skipped: u64,
    /// Messages that were delivered.
    pub delivered: u64,
    /// Deliveries beyond each message's first.
    pub duplicates: u64,
    /// The most duplicates that the kill can cause: the messages in flight.
    pub excused: u64,
    /// Whether the progress ever decreased, or exceeded the matches.
    pub monotonic: bool,
    /// The time from the request until the replay was done and every message was delivered.
    pub took: Duration,
}

impl ReplayReport {
    /// Letters that were not delivered.
    pub const fn lost(&self) -> u64 {
        self.matched.saturating_sub(self.delivered)
    }

    /// Whether every guarantee holds.
    pub const fn kept_its_promise(&self) -> bool {
        self.lost() == 0
            && self.monotonic
            && self.replayed + self.skipped == self.matched
            && self.duplicates <= self.excused
    }
}

impl fmt::Display for ReplayReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            ("dead letters", self.matched),
            ("progress at the kill", self.at_kill),
            ("progress at the end", self.replayed),
            ("skipped", self.skipped),
            ("delivered", self.delivered),
            ("lost", self.lost()),
            ("duplicate deliveries", self.duplicates),
            ("of which the kill excuses", self.excused),
        ];
        for (name, count) in counts {
            writeln!(f, "{name:<34}{count:>6}")?;
        }
        let monotonic = if self.monotonic { "yes" } else { "NO" };
        writeln!(f, "{:<34}{monotonic:>6}", "progress only ever grew")?;
        write!(
            f,
            "{:<34}{:>6.1}",
            "seconds in all",
            self.took.as_secs_f64()
        )
    }
}

/// A replay in the API's response.
#[derive(Debug, Deserialize)]
struct ReplayState {
    replay_id: String,
    status: String,
    matched: u64,
    progress: ReplayProgress,
}

#[derive(Debug, Deserialize)]
struct ReplayProgress {
    replayed: u64,
    skipped: u64,
}

/// Executes the run.
pub async fn run(plan: ReplayPlan) -> anyhow::Result<ReplayReport> {
    let deadline = Instant::now() + plan.limit;
    let letters = plan.letters as u64;
    let tally = Arc::new(Tally::new(&plan.stack.name, plan.letters));
    let channel = CountingServer::start(Arc::clone(&tally)).await?;
    let mut stack = Stack::new(Plan {
        sessions_server: channel.url(),
        ..plan.stack
    })?;
    stack.start_all().await?;

    // Each is rejected at its first attempt.
    channel.fail(StatusCode::BAD_REQUEST);
    let channels = stack.register(1, &[channel.url()]).await?;
    let load = stack.load(&tally, &channels, plan.limit);
    let loaded = loader::post_all(&load).await?;
    ensure!(loaded.repeated == 0, "a post was not accepted");
    let dead = async {
        let dry_run = json!({"dry_run": true});
        while ask(&load.address, &dry_run).await?["matched"].as_u64() != Some(letters) {
            sleep(LOOK_EVERY).await;
        }
        anyhow::Ok(())
    };
    timeout_at(deadline, dead)
        .await
        .context("not every message was dead in time")??;
    channel.recover();

    let since = Instant::now();
    let request = json!({"rate_per_second": plan.rate});
    let replay: ReplayState = serde_json::from_value(ask(&load.address, &request).await?)?;
    let followed = follow(&mut stack, &replay, letters);
    let followed = timeout_at(deadline, followed)
        .await
        .context("the replay was not done in time")??;
    tally.full(deadline - Instant::now()).await?;
    let took = since.elapsed();
    // Duplicates in flight arrive before their process exits.
    stack.stop_all().await?;
    Ok(ReplayReport {
        matched: replay.matched,
        at_kill: followed.at_kill,
        replayed: followed.last.progress.replayed,
        skipped: followed.last.progress.skipped,
        delivered: tally.distinct(),
        duplicates: tally.duplicates(),
        // The one process also dispatches, so its deliveries under way repeat as well.
        excused: match stack.roles() {
            [Role::All] => PAGE + UNDER_DELIVERY,
            _ => PAGE,
        },
        monotonic: followed.monotonic,
        took,
    })
}

struct Followed {
    at_kill: u64,
    monotonic: bool,
    last: ReplayState,
}

/// Follows a replay until it is done; half-way its process is killed and restarted.
async fn follow(stack: &mut Stack, replay: &ReplayState, letters: u64) -> anyhow::Result<Followed> {
    let path = format!("/replays/{}", replay.replay_id);
    let (mut seen, mut at_kill, mut monotonic) = (0, None, true);
    loop {
        let mut connection = Connection::open(&stack.ingress()).await?;
        let (status, body) = connection.get(&path).await?;
        if status == StatusCode::SERVICE_UNAVAILABLE {
            // The store is slow under this load: read again.
            sleep(LOOK_EVERY).await;
            continue;
        }
        ensure!(status == StatusCode::OK, "the replay was met with {status}");
        let state: ReplayState = serde_json::from_slice(&body)?;
        let now = state.progress.replayed + state.progress.skipped;
        monotonic &= now >= seen && now <= letters;
        seen = now;
        if state.status != "running" {
            ensure!(state.status == "done", "the replay is {}", state.status);
            return Ok(Followed {
                at_kill: at_kill.context("the replay was done before the kill")?,
                monotonic,
                last: state,
            });
        }
        if at_kill.is_none() && now >= letters / 2 {
            at_kill = Some(now);
            let process = stack.process(Role::Recorder)?;
            process.kill().await?;
            process.restart().await?;
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn ask(ingress: &Peer, request: &Value) -> anyhow::Result<Value> {
    let mut connection = Connection::open(ingress).await?;
    let body = request.to_string().into();
    let (status, answer) = connection.post("/dead-letters/replay", body).await?;
    ensure!(
        status.is_success(),
        "the request was met with {status}: {}",
        String::from_utf8_lossy(&answer)
    );
    Ok(serde_json::from_slice(&answer)?)
}
