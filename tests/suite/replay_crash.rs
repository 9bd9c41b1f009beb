//! A replay outlives the crash of its process. `tests/faults replay` runs the same with 10,000 dead
//! letters.

use std::time::Duration;

use harness::{
    process::gateway_binary,
    replay::{self, ReplayPlan, ReplayReport},
    stack::{Engines, Plan},
    test_namespace::TestNamespace,
};
use tempfile::TempDir;

const LETTERS: usize = 300;

const RATE: u32 = 100;

/// Far more than needed; another process takes over after 30 s.
const LIMIT: Duration = Duration::from_mins(3);

async fn run(engines: Engines, name: &str) -> anyhow::Result<ReplayReport> {
    let folder = TempDir::new()?;
    let report = replay::run(ReplayPlan {
        stack: Plan {
            binary: gateway_binary()?,
            engines,
            folder: folder.path().to_owned(),
            name: name.to_owned(),
            sessions_server: String::new(),
            env: Vec::new(),
        },
        letters: LETTERS,
        rate: RATE,
        limit: LIMIT,
    })
    .await?;
    // The test runner shows it on a failure.
    println!("{report}");
    Ok(report)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_continues_after_a_crash_on_the_embedded_engines() -> anyhow::Result<()> {
    let report = run(Engines::Embedded, "replay").await?;
    assert_eq!(report.matched, LETTERS as u64);
    assert!(report.kept_its_promise());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_continues_after_a_crash_on_rabbitmq_and_mongodb() -> anyhow::Result<()> {
    let test_namespace = TestNamespace::fresh()?;
    let engines = Engines::Servers {
        broker: test_namespace.broker.to_string(),
        store: test_namespace.store.to_string(),
    };
    let report = run(engines, &test_namespace.name).await?;
    assert_eq!(report.matched, LETTERS as u64);
    assert!(report.kept_its_promise());
    test_namespace.remove().await
}
