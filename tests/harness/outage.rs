//! The outage run: the store is unreachable for a while under load. Cached channels must work, and
//! afterwards every timeline must be complete.
//!
//! Invariant: the load keeps its rate throughout. Otherwise a slower load would hide the effect of
//! the outage.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::bail;
use roundtrip_model::State;
use tokio::time::{Instant, sleep};

use crate::{
    account::{self, End},
    counting::CountingServer,
    loader::{self, Progress},
    stack::{Engines, Plan, Stack},
    tally::Tally,
    test_namespace::TestNamespace,
};

/// How many channels the messages are for.
const CHANNELS: usize = 8;

/// The duration of the load before and after the outage.
const AROUND: Duration = Duration::from_secs(3);

/// The settings of an outage run.
#[derive(Debug)]
pub struct OutagePlan {
    /// The gateway, on servers.
    pub stack: Plan,
    /// How long the store is unavailable.
    pub outage: Duration,
    /// Messages a second.
    pub rate: u32,
    /// The time limit on the account, from the return of the store.
    pub limit: Duration,
}

/// The result of an outage run.
#[derive(Debug, Clone)]
pub struct OutageReport {
    /// How long the store was unavailable.
    pub outage: Duration,
    /// Messages that were answered 202.
    pub accepted: u64,
    /// Messages that were accepted while the store was unavailable.
    pub accepted_meanwhile: u64,
    /// Messages that were delivered while the store was unavailable.
    pub delivered_meanwhile: u64,
    /// Posts that were not answered 202.
    pub refused: u64,
    /// Messages whose timeline ends as delivered.
    pub delivered: u64,
    /// The ids of the other accepted messages.
    pub missing: Vec<String>,
    /// From the store's return until the last timeline was complete.
    pub caught_up: Duration,
}

impl fmt::Display for OutageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |f: &mut fmt::Formatter<'_>, name, time: Duration| {
            writeln!(f, "{name:<34}{:>6.1}", time.as_secs_f64())
        };
        seconds(f, "seconds without the store", self.outage)?;
        let counts = [
            ("accepted", self.accepted),
            ("accepted meanwhile", self.accepted_meanwhile),
            ("delivered meanwhile", self.delivered_meanwhile),
            ("posts not answered 202", self.refused),
            ("delivered, by their timelines", self.delivered),
            ("timelines that lack their end", self.missing.len() as u64),
        ];
        for (name, count) in counts {
            writeln!(f, "{name:<34}{count:>6}")?;
        }
        let took = self.caught_up.as_secs_f64();
        write!(f, "{:<34}{took:>6.1}", "seconds until all was recorded")
    }
}

/// Executes the run.
pub async fn run(plan: OutagePlan) -> anyhow::Result<OutageReport> {
    let Engines::Servers { broker, store } = plan.stack.engines else {
        bail!("the embedded store is part of the process: it cannot be unavailable");
    };
    let (store, proxy) = TestNamespace::nameless(&broker, &store)?
        .store_by_proxy()
        .await?;
    let lasts = plan.outage + AROUND * 2;
    let messages = usize::try_from(lasts.as_secs() * u64::from(plan.rate))?;
    let tally = Arc::new(Tally::new(&plan.stack.name, messages));
    let channel = CountingServer::start(Arc::clone(&tally)).await?;
    let mut stack = Stack::new(Plan {
        engines: Engines::Servers { broker, store },
        sessions_server: channel.url(),
        ..plan.stack
    })?;
    stack.start_all().await?;
    let channels = stack.register(CHANNELS, &[channel.url()]).await?;
    let load = stack.load(&tally, &channels, lasts + plan.limit);

    let progress = Arc::new(Progress::keeping_ids());
    let every = Duration::from_secs(1) / plan.rate;
    let outage = async {
        let counts = || (progress.accepted.load(Ordering::Acquire), tally.distinct());
        sleep(AROUND).await;
        proxy.refuse();
        let before = counts();
        sleep(plan.outage).await;
        let after = counts();
        proxy.resume();
        anyhow::Ok((after.0 - before.0, after.1 - before.1, Instant::now()))
    };
    let loaded = loader::post_paced(&load, &progress, every);
    let (loaded, (accepted_meanwhile, delivered_meanwhile, back)) =
        tokio::try_join!(loaded, outage)?;

    let deadline = Instant::now() + plan.limit;
    let accepted = progress.accepted_ids();
    let ended = account::settle(&load.address, accepted, End::Delivered, deadline).await;
    let caught_up = back.elapsed();
    // A dead letter counts as missing: no channel refuses a message here.
    let (delivered, missing): (Vec<_>, Vec<_>) = ended
        .into_iter()
        .partition(|ended| ended.state == Some(State::Delivered));
    stack.stop_all().await?;
    Ok(OutageReport {
        outage: plan.outage,
        accepted: progress.accepted.load(Ordering::Acquire),
        accepted_meanwhile,
        delivered_meanwhile,
        refused: loaded.repeated,
        delivered: delivered.len() as u64,
        missing: missing.into_iter().map(|ended| ended.message.id).collect(),
        caught_up,
    })
}
