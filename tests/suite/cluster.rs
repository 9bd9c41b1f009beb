//! Messages outlive nodes of a RabbitMQ cluster that die or hang. Each message answered 202 is
//! delivered, answered and forwarded, and no process of the gateway is restarted.

use std::{collections::HashSet, fs, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use harness::{
    cluster::{Cluster, NODES},
    cluster_run::{self, Blow, ClusterPlan, ClusterReport, Fault, Victims},
    gateway::{self, Role, Setup},
    process::gateway_binary,
    stack::{Engines, Plan},
    test_namespace::remove_namespace,
    wait::until,
};
use roundtrip_broker::{Config, Status};
use roundtrip_model::SystemClock;
use tempfile::TempDir;
use uuid::Uuid;

/// How long a node is down.
const OUTAGE: Duration = Duration::from_secs(8);

/// The pause between two faults, in which a node joins again.
const BETWEEN: Duration = Duration::from_secs(4);

/// Messages a second; the acceptance run (`tests/faults cluster`) has 100.
const RATE: u32 = 25;

/// How long a message may take once every node is back. The promise is 30 s; a busy machine gets
/// more, and RabbitMQ itself holds a channel's first publish for 65 s if the queue's leader froze.
const LIMIT: Duration = Duration::from_mins(3);

/// How long posts may be refused while a node is frozen. The promise is 5 s; a busy machine gets
/// more.
const MAX_REFUSED: Duration = Duration::from_secs(12);

/// The most log lines of four processes, not counting attempts.
const MAX_LOG_LINES: usize = 300;

async fn run(blows: &[(Fault, Victims)], lasts: Duration) -> anyhow::Result<ClusterReport> {
    let cluster = Cluster::take().await?;
    let folder = TempDir::new()?;
    // A fault may need restarts first.
    let seconds = (lasts + 2 * BETWEEN).as_secs() * blows.len() as u64 + BETWEEN.as_secs();
    let report = cluster_run::run(
        &cluster,
        ClusterPlan {
            stack: Plan {
                binary: gateway_binary()?,
                engines: Engines::Servers {
                    broker: String::new(),
                    store: std::env::var("TEST_MONGODB_URL")
                        .context("TEST_MONGODB_URL is not set: run tests/run")?,
                },
                folder: folder.path().to_owned(),
                name: format!("test-{}", Uuid::now_v7().simple()),
                sessions_server: String::new(),
                env: Vec::new(),
            },
            blows: blows
                .iter()
                .map(|&(fault, victims)| Blow {
                    fault,
                    victims,
                    lasts,
                })
                .collect(),
            between: BETWEEN,
            messages: usize::try_from(seconds * u64::from(RATE))?,
            rate: RATE,
            limit: LIMIT,
        },
    )
    .await;
    let report = report.inspect_err(|_| show_logs(folder.path()))?;
    println!("{report}");
    if !report.missing.is_empty() {
        show_logs(folder.path());
    }
    Ok(report)
}

/// Prints the last log lines of the processes, without attempts.
fn show_logs(folder: &Path) {
    const LINES: usize = 30;
    for role in ["ingress", "dispatcher", "forwarder", "recorder"] {
        let log = fs::read_to_string(folder.join(format!("{role}.log"))).unwrap_or_default();
        let lines: Vec<&str> = log
            .lines()
            .filter(|line| !line.contains(".attempted"))
            .collect();
        println!("--- the end of {role}'s log");
        for line in lines.iter().skip(lines.len().saturating_sub(LINES)) {
            println!("{line}");
        }
    }
}

fn check(report: &ClusterReport) {
    assert!(report.missing.is_empty(), "{:?}", report.missing);
    assert_eq!(report.forwarded, report.accepted);
    assert!(report.consumers.is_empty(), "{:?}", report.consumers);
    assert!(report.log_lines <= MAX_LOG_LINES, "{}", report.log_lines);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_cluster_nodes_lose_no_message() -> anyhow::Result<()> {
    let victims = [Victims::Publishers, Victims::Receivers, Victims::Leaders];
    let report = run(&victims.map(|victims| (Fault::Kill, victims)), OUTAGE).await?;
    check(&report);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_cluster_nodes_lose_no_message() -> anyhow::Result<()> {
    let victims = [Victims::Publishers, Victims::Receivers, Victims::Leaders];
    let report = run(&victims.map(|victims| (Fault::Freeze, victims)), OUTAGE).await?;
    check(&report);
    Ok(())
}

/// Messages are accepted again while the node is still frozen.
async fn is_left_while_it_is_frozen(victims: Victims) -> anyhow::Result<()> {
    let report = run(&[(Fault::Freeze, victims)], 2 * OUTAGE).await?;
    check(&report);
    for blow in &report.blows {
        assert!(blow.refused_for < MAX_REFUSED, "{blow:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_node_that_leads_nothing_is_left() -> anyhow::Result<()> {
    is_left_while_it_is_frozen(Victims::PublishersOnly).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_node_that_leads_a_queue_is_left() -> anyhow::Result<()> {
    is_left_while_it_is_frozen(Victims::Leaders).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_majority_of_a_cluster_costs_no_message() -> anyhow::Result<()> {
    let report = run(&[(Fault::Kill, Victims::Majority)], 2 * OUTAGE).await?;
    check(&report);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_majority_of_a_cluster_costs_no_message() -> anyhow::Result<()> {
    let report = run(&[(Fault::Freeze, Victims::Majority)], OUTAGE).await?;
    check(&report);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shards_leaders_are_spread_over_the_nodes_of_a_cluster() -> anyhow::Result<()> {
    const SHARDS: u16 = 3;
    let cluster = Cluster::take().await?;
    let config = Config {
        url: cluster.url().to_owned(),
        namespace: format!("test-{}", Uuid::now_v7().simple()),
        outbound_shards: SHARDS,
        ..Config::default()
    };
    let broker = roundtrip_broker::open(&config, Arc::new(SystemClock)).await?;
    until("the queues to be declared", async || {
        (broker.status() == Status::Ready).then_some(())
    })
    .await?;
    let mut leaders = HashSet::new();
    for shard in 0..SHARDS {
        let queue = format!("{}.outbound.{shard}", config.namespace);
        leaders.insert(cluster.leader(&queue).await?);
    }
    broker.close().await;
    remove_namespace(&cluster.node_url(NODES[0])?, &config.namespace, SHARDS).await?;
    // A node that has just joined leads no queue and may get several.
    ensure!(leaders.len() > 1, "{leaders:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_has_fewer_members_than_the_cluster_allows_is_reported() -> anyhow::Result<()>
{
    let cluster = Cluster::take().await?;
    let config = Config {
        url: cluster.url().to_owned(),
        namespace: format!("test-{}", Uuid::now_v7().simple()),
        management_url: Some(cluster.management_url()?),
        ..Config::default()
    };
    let broker = roundtrip_broker::open(&config, Arc::new(SystemClock)).await?;
    until("the queues to be declared", async || {
        (broker.status() == Status::Ready).then_some(())
    })
    .await?;
    let queue = format!("{}.callbacks", config.namespace);
    cluster.remove_followers(&queue).await?;
    until("a warning that names the queue", async || {
        let expected = format!("{queue} has fewer than 3 members");
        let named = |warning: &String| warning.starts_with(&expected);
        broker.warnings().iter().any(named).then_some(())
    })
    .await?;
    broker.close().await;
    remove_namespace(&cluster.node_url(NODES[0])?, &config.namespace, 1).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_without_the_management_api_says_that_members_are_not_checked() -> anyhow::Result<()>
{
    let cluster = Cluster::take().await?;
    let namespace = format!("test-{}", Uuid::now_v7().simple());
    let mut gateway = gateway::Plan::new(Setup::Embedded)?
        .env("BROKER_URL", cluster.url())
        .env("ROUNDTRIP__BROKER__NAMESPACE", &namespace)
        .prepare()
        .await?;
    gateway.start(Role::Recorder).await?;
    let words = ["broker.management_url is not set", "rabbitmq-queues grow"];
    gateway.until_logged(Role::Recorder, &words, 1).await?;
    let ended = gateway.finish_unaccounted("nothing was accepted");
    ended.await.map(drop)?;
    remove_namespace(&cluster.node_url(NODES[0])?, &namespace, 1).await?;
    Ok(())
}
