//! A replay outlives the crash of its process. `tests/faults replay` runs the same with 10,000 dead
//! letters.

use std::time::Duration;

use harness::{
    replay::{self, ReplayPlan},
    stack::{Engines, Plan},
    test_namespace::TestNamespace,
};
use tempfile::TempDir;

const LETTERS: usize = 300;

const RATE: u32 = 100;

/// Far more than needed; another process takes over after 30 s.
const LIMIT: Duration = Duration::from_mins(3);

async fn run(engines: Engines, name: &str) -> anyhow::Result<()> {
    let folder = TempDir::new()?;
    let report = replay::run(ReplayPlan {
        stack: Plan {
            folder: folder.path().to_owned(),
            ..Plan::on(engines, name)?
        },
        letters: LETTERS,
        rate: RATE,
        limit: LIMIT,
    })
    .await?;
    // The test runner shows it on a failure.
    println!("{report}");
    assert_eq!(report.matched, LETTERS as u64);
    assert!(report.kept_its_promise());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_continues_after_a_crash_on_the_embedded_engines() -> anyhow::Result<()> {
    run(Engines::Embedded, "replay").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_continues_after_a_crash_on_rabbitmq_and_mongodb() -> anyhow::Result<()> {
    let test_namespace = TestNamespace::fresh()?;
    run(test_namespace.engines(), &test_namespace.name).await?;
    test_namespace.remove().await
}
