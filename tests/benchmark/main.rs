//! The benchmark, and the runs with kills and dead endpoints: `tests/bench`, `tests/faults`.
//!
//! Invariant: it ends every server and gateway that it starts, whether it ends by success, by an
//! error or by a signal that can be caught.

mod answers;
mod awaited;
mod forged;
mod isolation;
mod measure;
mod memory;
mod options;
mod overdue;
mod queries;
mod raw_rabbitmq;
mod raw_sqlite;
mod releases;
mod results;
mod table;
mod waiting;

use std::{fs, path::Path, process::ExitCode, thread::available_parallelism, time::Duration};

use anyhow::{Context, bail};
use clap::Parser;
use harness::{
    cluster::Cluster,
    cluster_run::{self, Blow, BlowReport, ClusterPlan, Fault},
    counting::CountingServer,
    faults::{self, FaultPlan},
    outage::{self, OutagePlan},
    replay::{self, ReplayPlan},
    servers::{Kind, Server},
    stack::{Engines, Plan, Stack},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
};

use crate::{
    measure::Bench,
    options::{
        ClusterAway, Command, Common, Faults, Memory, Options, Replay, Run, StoreUnavailable,
    },
    results::{Measure, Round},
    table::EngineResults,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EMBEDDED: &str = "Embedded: SQLite, one process with every role";
const RABBITMQ: &str = "RabbitMQ and MongoDB's wire, a process for each role";

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing::Level::WARN)
        .init();
    let options = Options::parse();
    let work = async {
        match options.command {
            Command::Run(options) => run(&options).await,
            Command::Faults(options) => faults(&options).await,
            Command::Replay(options) => replay(&options).await,
            Command::Store(options) => store(&options).await,
            Command::Cluster(options) => cluster(&options).await,
            Command::Isolation(options) => {
                let (engines, _servers) = engines(&options.common).await?;
                isolation::run(&options, &engines).await.map(exit_code)
            }
            Command::Forged(options) => {
                let (engines, _servers) = engines(&options.common).await?;
                forged::run(&options, &engines).await.map(exit_code)
            }
            Command::Answers(options) => {
                let (engines, _servers) = engines(&options.common).await?;
                answers::run(&options, &engines).await.map(exit_code)
            }
            Command::Awaited(options) => {
                let (engines, _servers) = engines(&options.common).await?;
                awaited::run(&options, &engines).await?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Memory(options) => memory(&options).await,
            Command::Waiting(options) => {
                let (engines, _servers) = engines(&options.common).await?;
                waiting::run(&options, &engines).await?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Releases(options) => {
                let (engines, _servers) = engines(&options.common).await?;
                releases::run(&options, &engines).await?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Overdue(options) => {
                let (engines, _servers) = engines(&options.common).await?;
                overdue::run(&options, &engines).await?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Queries(options) => {
                queries::run(&options).await?;
                Ok(ExitCode::SUCCESS)
            }
        }
    };
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // The other branch is dropped, and with it everything that it started.
    tokio::select! {
        done = work => done,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    }
}

/// The servers of RabbitMQ and MongoDB.
struct Servers {
    rabbitmq: Server,
    mongodb: Server,
}

impl Servers {
    async fn start(folder: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            rabbitmq: Server::start(Kind::Rabbitmq, &folder.join("rabbitmq")).await?,
            mongodb: Server::start(Kind::Mongodb, &folder.join("mongodb")).await?,
        })
    }

    fn engines(&self) -> Engines {
        Engines::Servers {
            broker: self.rabbitmq.url().to_owned(),
            store: self.mongodb.url().to_owned(),
        }
    }
}

fn plan(common: &Common, engines: Engines, name: &str) -> anyhow::Result<Plan> {
    Ok(Plan {
        folder: common.folder.join(name),
        env: common.env.clone(),
        ..Plan::on(engines, name)?
    })
}

async fn run(run: &Run) -> anyhow::Result<ExitCode> {
    let cores = available_parallelism()?.get();
    let servers = if run.common.engine.rabbitmq() {
        Some(Servers::start(&run.common.folder).await?)
    } else {
        None
    };
    let mut benches = Vec::new();
    if run.common.engine.embedded() {
        let bench = bench(run, Engines::Embedded, "embedded", Vec::new()).await?;
        benches.push((bench, results("embedded", EMBEDDED, false)));
    }
    if let Some(servers) = &servers {
        let named = vec![
            ("RabbitMQ", &servers.rabbitmq),
            ("MongoDB's wire", &servers.mongodb),
        ];
        let bench = bench(run, servers.engines(), "rabbitmq", named).await?;
        benches.push((bench, results("rabbitmq", RABBITMQ, true)));
    }
    // The engines alternate, so that a slow minute of the machine affects both.
    for number in 1..=run.repeat {
        for (bench, results) in &mut benches {
            eprintln!("{}, run {number} of {}", results.key, run.repeat);
            let mut round = Round::default();
            let ceiling = measure::ceiling(run, &bench.channel_server).await?;
            round.values.insert(Measure::Ceiling, ceiling);
            raw(
                run,
                servers.as_ref().filter(|_| results.has_target),
                &mut round,
            )
            .await?;
            bench.round(number, &mut round).await?;
            results.rounds.push(round);
        }
    }
    let results: Vec<EngineResults> = benches.into_iter().map(|(_, results)| results).collect();
    if let Some(path) = &run.json {
        let json = table::json(run, cores, &results);
        fs::write(path, format!("{json:#}\n"))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    print!("{}", table::text(run, cores, &results));
    Ok(ExitCode::SUCCESS)
}

async fn raw(run: &Run, servers: Option<&Servers>, round: &mut Round) -> anyhow::Result<()> {
    let size = run.size();
    let Some(servers) = servers else {
        let folder = run.common.folder.clone();
        let rate = spawn_blocking(move || raw_sqlite::measure(&folder, size)).await??;
        round.values.insert(Measure::RawInsert, rate);
        return Ok(());
    };
    let rates = raw_rabbitmq::measure(servers.rabbitmq.url(), size).await?;
    round.values.extend([
        (Measure::RawPublish, rates.publish),
        (Measure::RawConsumeEach, rates.consume_each),
        (Measure::RawConsumeMultiple, rates.consume_multiple),
    ]);
    Ok(())
}

async fn bench<'a>(
    run: &'a Run,
    engines: Engines,
    name: &str,
    servers: Vec<(&'static str, &'a Server)>,
) -> anyhow::Result<Bench<'a>> {
    let sessions_server = CountingServer::unused().await?;
    let plan = plan(&run.common, engines, name)?.sessions_server(sessions_server.url());
    Ok(Bench {
        run,
        stack: Stack::new(plan)?,
        channel_server: CountingServer::unused().await?,
        sessions_server,
        servers,
        channels: Vec::new(),
    })
}

const fn results(key: &'static str, title: &'static str, has_target: bool) -> EngineResults {
    EngineResults {
        title,
        key,
        has_target,
        rounds: Vec::new(),
    }
}

async fn faults(options: &Faults) -> anyhow::Result<ExitCode> {
    let seed = options.seed.unwrap_or_else(rand::random);
    println!("seed {seed}\n");
    let mut lost = 0;
    if options.common.engine.embedded() {
        lost += fault_run(options, seed, Engines::Embedded, None, EMBEDDED).await?;
    }
    if options.common.engine.rabbitmq() {
        let servers = Servers::start(&options.common.folder).await?;
        let engines = servers.engines();
        // MongoDB's runs until the end.
        let Servers { rabbitmq, mongodb } = servers;
        lost += fault_run(options, seed, engines, Some(rabbitmq), RABBITMQ).await?;
        drop(mongodb);
    }
    Ok(exit_code(lost == 0))
}

fn exit_code(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

async fn fault_run(
    options: &Faults,
    seed: u64,
    engines: Engines,
    broker: Option<Server>,
    title: &str,
) -> anyhow::Result<usize> {
    println!("== {title} ==");
    let report = faults::run(FaultPlan {
        stack: plan(&options.common, engines, "faults")?,
        messages: options.messages,
        faults: options.count,
        kills_only: options.kills_only,
        seed,
        limit: options.limit,
        broker,
    })
    .await?;
    println!("{report}\n");
    Ok(report.lost.len() + report.unnoticed.len())
}

async fn replay(options: &Replay) -> anyhow::Result<ExitCode> {
    let (engines, _servers) = engines(&options.common).await?;
    let mut good = true;
    for (title, _, engines) in engines {
        println!("== {title} ==");
        let report = replay::run(ReplayPlan {
            stack: plan(&options.common, engines, "replay")?,
            letters: options.messages,
            rate: options.rate,
            limit: options.limit,
        })
        .await?;
        println!("{report}\n");
        good &= report.kept_its_promise();
    }
    Ok(exit_code(good))
}

async fn store(options: &StoreUnavailable) -> anyhow::Result<ExitCode> {
    let servers = Servers::start(&options.common.folder).await?;
    println!("== {RABBITMQ} ==");
    let report = outage::run(OutagePlan {
        stack: plan(&options.common, servers.engines(), "store")?,
        outage: options.outage,
        rate: options.rate,
        limit: options.limit,
    })
    .await?;
    println!("{report}");
    Ok(exit_code(report.refused == 0 && report.missing.is_empty()))
}

/// How long the load runs before the nodes fail.
const BEFORE: Duration = Duration::from_secs(5);

/// How long posts may be refused while one node is frozen.
const MAX_REFUSED: Duration = Duration::from_secs(5);

/// The most log lines of four processes, not counting attempts.
const MAX_LOG_LINES: usize = 300;

/// How much later than its forward a message's timeline may be complete. MongoDB's stand-in writes
/// slowly.
const RECORDED_AFTER: Duration = Duration::from_mins(3);

async fn cluster(options: &ClusterAway) -> anyhow::Result<ExitCode> {
    let folder = &options.common.folder;
    let mongodb = Server::start(Kind::Mongodb, &folder.join("mongodb")).await?;
    let cluster = Cluster::take().await?;
    let engines = Engines::Servers {
        broker: cluster.url().to_owned(),
        store: mongodb.url().to_owned(),
    };
    println!("== three nodes of RabbitMQ ==");
    let report = cluster_run::run(
        &cluster,
        ClusterPlan {
            stack: plan(&options.common, engines, "cluster")?,
            blows: vec![Blow {
                fault: options.fault,
                victims: options.victims,
                lasts: options.lasts,
            }],
            between: BEFORE,
            messages: options.messages,
            rate: options.rate,
            limit: options.limit + RECORDED_AFTER,
        },
    )
    .await?;
    println!("{report}");
    let is_complete = report.missing.is_empty() && report.consumers.is_empty();
    let is_soon = report.caught_up <= options.limit && report.log_lines <= MAX_LOG_LINES;
    let frozen = |blow: &BlowReport| blow.blow.fault == Fault::Freeze;
    let is_left = |blow: &BlowReport| blow.refused_for < MAX_REFUSED;
    let nodes_are_left = report.blows.iter().filter(|blow| frozen(blow)).all(is_left);
    Ok(exit_code(is_complete && is_soon && nodes_are_left))
}

/// The requested engines, and the servers that they need.
async fn engines(
    common: &Common,
) -> anyhow::Result<(Vec<(&'static str, &'static str, Engines)>, Option<Servers>)> {
    let servers = if common.engine.rabbitmq() {
        Some(Servers::start(&common.folder).await?)
    } else {
        None
    };
    let mut engines = Vec::new();
    if common.engine.embedded() {
        engines.push((EMBEDDED, "embedded", Engines::Embedded));
    }
    if let Some(servers) = &servers {
        engines.push((RABBITMQ, "rabbitmq", servers.engines()));
    }
    Ok((engines, servers))
}

async fn memory(options: &Memory) -> anyhow::Result<ExitCode> {
    let mut under = true;
    let unused = CountingServer::unused().await?;
    let stack = |engines, dead| {
        let name = format!("memory-{dead:?}").to_lowercase();
        let plan = plan(&options.common, engines, &name)?;
        Stack::new(plan.sessions_server(unused.url()))
    };
    if options.common.engine.embedded() {
        println!("== {EMBEDDED} ==");
        for &dead in options.dead.each() {
            under &= memory::run(options, dead, stack(Engines::Embedded, dead)?).await?;
        }
    }
    if options.common.engine.rabbitmq() {
        println!("== {RABBITMQ} ==");
        for &dead in options.dead.each() {
            // New servers: the old ones would go on with 100,000 waiting messages.
            let servers = Servers::start(&options.common.folder.join(format!("{dead:?}"))).await?;
            under &= memory::run(options, dead, stack(servers.engines(), dead)?).await?;
        }
    }
    Ok(exit_code(under))
}
