//! What was answered 202 outlives the crash of any process, and of the broker. `tests/faults` runs
//! the same with ten times the messages, and prints what it saw.

use std::time::Duration;

use harness::{
    faults::{self, FaultPlan, FaultReport},
    process::gateway_binary,
    realm::Realm,
    servers::{Kind, Server},
    stack::{Engines, Plan},
};
use tempfile::TempDir;

const MESSAGES: usize = 500;

/// Far beyond what it takes; a node's restart alone takes 20 s on a busy machine.
const LIMIT: Duration = Duration::from_mins(3);

async fn run(engines: Engines, name: &str, broker: Option<Server>) -> anyhow::Result<FaultReport> {
    let folder = TempDir::new()?;
    let report = faults::run(FaultPlan {
        stack: Plan {
            binary: gateway_binary()?,
            engines,
            folder: folder.path().to_owned(),
            name: name.to_owned(),
            sessions_server: String::new(),
            env: Vec::new(),
        },
        messages: MESSAGES,
        limit: LIMIT,
        broker,
    })
    .await?;
    // The runner shows it where a test fails.
    println!("{report}");
    Ok(report)
}

fn lost_nothing(report: &FaultReport, kills: usize) {
    assert_eq!(report.kills.len(), kills);
    assert_eq!(report.accepted, MESSAGES as u64);
    assert_eq!(report.lost(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_kills_of_the_one_process_lose_nothing() -> anyhow::Result<()> {
    let report = run(Engines::Embedded, "faults", None).await?;
    lost_nothing(&report, 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_of_every_role_and_of_the_rabbitmq_node_lose_nothing() -> anyhow::Result<()> {
    let realm = Realm::fresh()?;
    // A node of its own: the other tests' must not die with it.
    let folder = TempDir::new()?;
    let node = Server::start(Kind::Rabbitmq, folder.path()).await?;
    let engines = Engines::Servers {
        broker: node.url().to_owned(),
        store: realm.store.to_string(),
    };
    let report = run(engines, &realm.name, Some(node)).await?;
    lost_nothing(&report, 4);
    realm
        .channels()
        .await?
        .client()
        .database(&realm.name)
        .drop()
        .await?;
    Ok(())
}
