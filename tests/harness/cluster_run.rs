//! The cluster run: RabbitMQ nodes are killed or frozen under load. Afterwards the same processes
//! must deliver, answer and forward every accepted message.
//!
//! Invariant: the load keeps its rate throughout. A refused message is posted again, so the account
//! covers every message.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use lapin::{ConnectionProperties, options::QueueDeclareOptions, types::FieldTable};
use roundtrip_model::State;
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    account::{self, End},
    cluster::{Cluster, NODES},
    counting::CountingServer,
    loader::{self, BodyShape, Load, Progress},
    stack::{Engines, Plan, Role, Stack},
    tally::Tally,
    test_namespace::TestNamespace,
    wait::until,
};

/// How many channels the messages are for.
const CHANNELS: usize = 8;

/// The most concurrent posts: enough to keep the rate while each waits for its timeout.
const IN_FLIGHT: usize = 200;

/// The size of a posted body.
const BODY_BYTES: usize = 400;

/// How often the number of accepted messages is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// SIGKILL, and a start after the duration of the fault.
    Kill,
    /// SIGSTOP, and SIGCONT after a while.
    Freeze,
}

/// The nodes that a fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Victims {
    /// The one that the ingress publishes to.
    Publishers,
    /// The same, if it leads no queue that the ingress publishes to.
    PublishersOnly,
    /// The node that the dispatcher receives from.
    Receivers,
    /// The one that leads the queue of outbound messages.
    Leaders,
    /// Two of the three.
    Majority,
}

/// A fault, and how long it lasts.
#[derive(Debug, Clone, Copy)]
pub struct Blow {
    pub fault: Fault,
    pub victims: Victims,
    pub lasts: Duration,
}

/// The settings of a cluster run.
#[derive(Debug)]
pub struct ClusterPlan {
    /// The gateway; the cluster replaces the broker of its engines.
    pub stack: Plan,
    /// The faults, in order.
    pub blows: Vec<Blow>,
    /// The time before, between and after the faults.
    pub between: Duration,
    pub messages: usize,
    /// Messages a second.
    pub rate: u32,
    /// The time limit on the account, from the return of the last node.
    pub limit: Duration,
}

#[derive(Debug, Clone)]
pub struct BlowReport {
    pub blow: Blow,
    pub nodes: Vec<&'static str>,
    /// The longest time without a message accepted, from the blow until the nodes were back.
    pub longest_wait: Duration,
    /// From the first post that was not answered 202 to the last one, in the same time.
    pub refused_for: Duration,
}

/// The result of a cluster run.
#[derive(Debug, Clone)]
pub struct ClusterReport {
    /// The faults.
    pub blows: Vec<BlowReport>,
    /// Messages that were answered 202.
    pub accepted: u64,
    /// Posts that were not answered 202, and were made again.
    pub refused: u64,
    /// Messages whose timeline ends as forwarded and whose answer the sessions server has.
    pub forwarded: u64,
    /// The ids of the other accepted messages, with their state.
    pub missing: Vec<(String, Option<State>)>,
    /// From the last node's return until the last answer was first forwarded.
    pub caught_up: Duration,
    /// The queues without exactly one consumer, and their number of consumers.
    pub consumers: BTreeMap<String, u32>,
    /// The log lines of the processes, without those of attempts.
    pub log_lines: usize,
    /// Deliveries beyond each message's first.
    pub duplicates: u64,
}

impl fmt::Display for ClusterReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for report in &self.blows {
            let Blow {
                fault,
                victims,
                lasts,
            } = report.blow;
            writeln!(
                f,
                "{fault:?} {victims:?} {:?} for {lasts:?}: longest time without a 202 {:.1} s, from the \
                 first refusal to the last {:.1} s",
                report.nodes,
                report.longest_wait.as_secs_f64(),
                report.refused_for.as_secs_f64()
            )?;
        }
        for (name, count) in [
            ("accepted", self.accepted),
            ("posts not answered 202", self.refused),
            ("forwarded", self.forwarded),
            ("missing", self.missing.len() as u64),
            ("duplicate deliveries", self.duplicates),
            ("log lines without attempts", self.log_lines as u64),
        ] {
            writeln!(f, "{name:<40}{count:>6}")?;
        }
        writeln!(
            f,
            "queues without exactly one consumer: {:?}",
            self.consumers
        )?;
        write!(
            f,
            "{:<40}{:>6.1}",
            "seconds from the return to the last forward",
            self.caught_up.as_secs_f64()
        )
    }
}

/// Executes the run.
///
/// # Errors
/// If something does not start, the load does not end in time, or a process ends by itself.
pub async fn run(cluster: &Cluster, plan: ClusterPlan) -> anyhow::Result<ClusterReport> {
    let Engines::Servers { store, .. } = plan.stack.engines else {
        bail!("a cluster is no embedded engine");
    };
    let name = plan.stack.name.clone();
    let delivered = Arc::new(Tally::new(&name, plan.messages));
    let forwarded = Arc::new(Tally::new(&name, plan.messages));
    let channels = CountingServer::start(Arc::clone(&delivered)).await?;
    channels.answer(true);
    let sessions = CountingServer::start(Arc::clone(&forwarded)).await?;
    let folder = plan.stack.folder.clone();
    let mut env = plan.stack.env.clone();
    // MongoDB's stand-in is slow on a busy machine, and is not what this run tests.
    env.push(("ROUNDTRIP__STORE__TIMEOUT".to_owned(), "20s".to_owned()));
    let mut stack = Stack::new(Plan {
        engines: Engines::Servers {
            broker: cluster.url().to_owned(),
            store: store.clone(),
        },
        sessions_server: sessions.url(),
        env,
        ..plan.stack
    })?;
    stack.start_all().await?;
    let blows_last: Duration = plan
        .blows
        .iter()
        .map(|blow| blow.lasts + plan.between)
        .sum();
    let load = Load {
        address: stack.ingress(),
        path: "/channel/message",
        tally: Arc::clone(&delivered),
        body: BodyShape {
            channels: stack.register(CHANNELS, &[channels.url()]).await?,
            response_url: stack.response_url(),
            fields: String::new(),
            bytes: BODY_BYTES,
        },
        in_flight: IN_FLIGHT,
        limit: blows_last
            + plan.between
            + plan.limit
            + (Duration::from_secs(1) / plan.rate) * u32::try_from(plan.messages)?,
    };

    let progress = Arc::new(Progress::keeping_ids());
    let blows = async {
        let mut reports = Vec::new();
        for &blow in &plan.blows {
            sleep(plan.between).await;
            reports.push(strike(cluster, blow, &name, &folder, &mut stack, &progress).await?);
        }
        anyhow::Ok((reports, Instant::now()))
    };
    let every = Duration::from_secs(1) / plan.rate;
    let loaded = loader::post_paced(&load, &progress, every);
    let (loaded, (blows, back)) = tokio::try_join!(loaded, blows)?;

    let deadline = Instant::now().max(back) + plan.limit;
    let caught_up = match timeout_at(deadline, forwarded.full(plan.limit * 2)).await {
        Ok(full) => full?.saturating_duration_since(back),
        Err(_) => plan.limit,
    };
    let accepted = progress.accepted_ids();
    let ended = account::settle(&load.address, accepted, End::Forwarded, deadline).await;
    let is_there = |message| forwarded.arrived_at(message).is_some();
    let (at_sessions, missing): (Vec<_>, Vec<_>) = ended.into_iter().partition(|ended| {
        ended.state == Some(State::Forwarded) && is_there(ended.message.message)
    });
    let consumers = consumers(cluster, &name, Instant::now() + plan.limit).await?;
    let log_lines = log_lines(&folder)?;
    stack.audit().take_in(channels.audit());
    // A process that has ended by itself fails this.
    stack.usage()?;
    stack.stop_all().await?;
    TestNamespace {
        name,
        broker: cluster.node_url(NODES[0])?.parse()?,
        store: store.parse()?,
    }
    .remove()
    .await?;
    Ok(ClusterReport {
        blows,
        accepted: progress.accepted.load(Ordering::Acquire),
        refused: loaded.repeated,
        forwarded: at_sessions.len() as u64,
        missing: missing
            .into_iter()
            .map(|ended| (ended.message.id, ended.state))
            .collect(),
        caught_up,
        consumers,
        log_lines,
        duplicates: delivered.duplicates(),
    })
}

async fn strike(
    cluster: &Cluster,
    blow: Blow,
    name: &str,
    folder: &Path,
    stack: &mut Stack,
    progress: &Progress,
) -> anyhow::Result<BlowReport> {
    let outbound = format!("{name}.outbound.0");
    let publishers = async || connected(cluster, folder, Role::Ingress, "publishing").await;
    let nodes = match blow.victims {
        Victims::Publishers => vec![publishers().await?],
        Victims::PublishersOnly => {
            let led = cluster.leader(&outbound).await?;
            let mut node = publishers().await?;
            // Each start begins with a random node.
            while node == led {
                let ingress = stack.process(Role::Ingress)?;
                ingress.kill().await?;
                ingress.restart().await?;
                node = publishers().await?;
            }
            vec![node]
        }
        Victims::Receivers => {
            vec![connected(cluster, folder, Role::Dispatcher, "receiving").await?]
        }
        Victims::Leaders => vec![cluster.leader(&outbound).await?],
        Victims::Majority => {
            let led = cluster.leader(&outbound).await?;
            let others = NODES.into_iter().filter(|node| *node != led);
            std::iter::once(led).chain(others.take(1)).collect()
        }
    };
    match blow.fault {
        Fault::Kill => cluster.kill(&nodes).await?,
        Fault::Freeze => {
            for node in &nodes {
                cluster.freeze(node).await?;
            }
        }
    }
    let (longest_wait, refused_for) = watch(progress, blow.lasts).await;
    match blow.fault {
        Fault::Kill => cluster.start(&nodes).await?,
        Fault::Freeze => {
            for node in &nodes {
                cluster.thaw(node).await?;
            }
        }
    }
    Ok(BlowReport {
        blow,
        nodes,
        longest_wait,
        refused_for,
    })
}

/// The longest time in which no message was accepted, and the time from the first refusal to the
/// last.
async fn watch(progress: &Progress, lasts: Duration) -> (Duration, Duration) {
    let until = Instant::now() + lasts;
    let (mut longest, mut since) = (Duration::ZERO, Instant::now());
    let counts =
        || [&progress.accepted, &progress.repeated].map(|count| count.load(Ordering::Acquire));
    let [mut accepted, mut refused] = counts();
    let mut refusals: Option<(Instant, Instant)> = None;
    while Instant::now() < until {
        sleep(LOOK_EVERY).await;
        let [accepted_now, refused_now] = counts();
        longest = longest.max(since.elapsed());
        if accepted_now != accepted {
            (accepted, since) = (accepted_now, Instant::now());
        }
        if refused_now != refused {
            refused = refused_now;
            let first = refusals.map_or_else(Instant::now, |(first, _)| first);
            refusals = Some((first, Instant::now()));
        }
    }
    let refused_for = refusals.map(|(first, last)| last.duration_since(first));
    (longest, refused_for.unwrap_or_default())
}

/// The node that a process connected to last, according to its log.
async fn connected(
    cluster: &Cluster,
    folder: &Path,
    role: Role,
    by: &str,
) -> anyhow::Result<&'static str> {
    let path = folder.join(format!("{role}.log"));
    let by = format!("role={by}");
    until(format!("a connection in {}", path.display()), async || {
        // The log's format quotes some values.
        let log = fs::read_to_string(&path).ok()?.replace('"', "");
        let line = log
            .lines()
            .rev()
            .find(|line| line.contains("connected to RabbitMQ") && line.contains(&by))?;
        let port = line.split("node=127.0.0.1:").nth(1)?;
        let port = port.split_whitespace().next()?;
        cluster.node_at(port.parse().ok()?)
    })
    .await
}

/// The queues whose number of consumers is not one, and that number. In this run one process consumes
/// each queue. An unused queue may get its consumer late, so this waits for it until `deadline`.
async fn consumers(
    cluster: &Cluster,
    namespace: &str,
    deadline: Instant,
) -> anyhow::Result<BTreeMap<String, u32>> {
    let url = cluster.node_url(NODES[0])?;
    let connection = lapin::Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let wrong = loop {
        let mut wrong = BTreeMap::new();
        for end in [
            "outbound.0",
            "outbound.retry",
            "callbacks",
            "journal",
            "waiting",
            "outbound.dead",
            "callbacks.dead",
        ] {
            let name = format!("{namespace}.{end}");
            let queue = channel
                .queue_declare(name.into(), passive, FieldTable::default())
                .await?;
            if queue.consumer_count() != 1 {
                wrong.insert(end.to_owned(), queue.consumer_count());
            }
        }
        if wrong.is_empty() || Instant::now() >= deadline {
            break wrong;
        }
        sleep(LOOK_EVERY).await;
    };
    connection.close(200, "OK".into()).await?;
    Ok(wrong)
}

fn log_lines(folder: &Path) -> anyhow::Result<usize> {
    let mut lines = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let log = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            lines += log
                .lines()
                .filter(|line| !line.contains(".attempted"))
                .count();
        }
    }
    ensure!(lines > 0, "the processes have logged nothing");
    Ok(lines)
}
