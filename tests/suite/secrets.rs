//! The audit at every test's end: a secret in a log, or in what refuses a request, fails the test.

use harness::gateway::{Plan, Setup};
use reqwest::Method;

/// What every log begins with.
const LOGGED: &str = "ingress listens";

#[tokio::test]
async fn a_secret_in_a_log_fails_the_test() -> anyhow::Result<()> {
    let plan = Plan::new(Setup::Embedded)?.env("TEST_SECRET", LOGGED);
    let gateway = plan.start().await?;
    let ended = gateway.finish_unaccounted("nothing was accepted").await;
    let error = ended.expect_err("its log has it").to_string();
    assert!(error.contains("has the secret"), "{error}");
    assert!(!error.contains(LOGGED), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_secret_in_an_answer_that_refuses_fails_the_test() -> anyhow::Result<()> {
    let plan = Plan::new(Setup::Embedded)?.env("TEST_SECRET", "the-channels-id");
    let gateway = plan.start().await?;
    let path = "/channel/the-channels-id";
    gateway.request(Method::GET, path, &[], "").await?;
    let ended = gateway.finish_unaccounted("nothing was accepted").await;
    let error = ended.expect_err("the answer has it").to_string();
    assert!(error.contains("an answer has the secret"), "{error}");
    Ok(())
}
