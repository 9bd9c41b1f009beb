//! Messages answered 202, inbound ones too, outlive the crash of any process and of the broker, cut
//! connections, an unavailable store and failing endpoints. Each is found and has ended, and of each
//! that its channel refused comes a notice. The channel server answers
//! up to 3 s late, so that most answers come after another fault. `tests/faults` runs the same with
//! more messages and faults.

use std::time::Duration;

use harness::{
    faults::{self, FaultPlan},
    servers::{Kind, Server},
    stack::{Engines, Plan},
    test_namespace::TestNamespace,
};
use tempfile::TempDir;

const MESSAGES: usize = 1_000;

const FAULTS: usize = 8;

/// Far more than needed; a run beside busy cores takes a minute and a half.
const LIMIT: Duration = Duration::from_mins(8);

async fn run(engines: Engines, name: &str, broker: Option<Server>) -> anyhow::Result<()> {
    let folder = TempDir::new()?;
    let seed = rand::random();
    // The test runner shows it on a failure, and `tests/faults --seed` repeats it.
    println!("seed {seed}");
    let report = faults::run(FaultPlan {
        stack: Plan {
            folder: folder.path().to_owned(),
            ..Plan::on(engines, name)?
        },
        messages: MESSAGES,
        faults: FAULTS,
        kills_only: false,
        seed,
        limit: LIMIT,
        broker,
    })
    .await?;
    println!("{report}");
    assert_eq!(report.faults.len(), FAULTS);
    assert_eq!(report.accepted, MESSAGES as u64);
    assert_eq!(report.refused_answers, 0);
    assert!(report.inbound > 0 && report.refused > 0);
    assert!(report.lost.is_empty(), "lost: {:?}", report.lost);
    assert!(
        report.unnoticed.is_empty(),
        "without a notice: {:?}",
        report.unnoticed
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_embedded_engines_faults_lose_nothing() -> anyhow::Result<()> {
    run(Engines::Embedded, "faults", None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn on_rabbitmq_and_mongodb_faults_lose_nothing() -> anyhow::Result<()> {
    let test_namespace = TestNamespace::fresh()?;
    // A separate node: the faults must not affect other tests.
    let folder = TempDir::new()?;
    let node = Server::start(Kind::Rabbitmq, folder.path()).await?;
    let engines = Engines::Servers {
        broker: node.url().to_owned(),
        store: test_namespace.store.to_string(),
    };
    run(engines, &test_namespace.name, Some(node)).await?;
    test_namespace.remove_database().await
}
