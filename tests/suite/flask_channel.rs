//! The example in `examples/flask_channel`, and the channel server of the client's specification
//! (`tests/seed/app.py`), each unchanged behind a gateway, on both setups.

use std::net::SocketAddr;

use harness::{
    child::{ChildServer, free_address, python, root},
    gateway::{Accounted, Plan, Setup, TestGateway, attempts},
};
use serde_json::json;
use tokio::process::Command;

on_both_setups! {
    its_answer_reaches_the_development_inbox,
    the_specifications_own_server_works_unmodified,
    a_message_of_zero_or_false_is_answered_and_a_repeat_is_dropped,
    with_a_secret_only_signed_requests_are_accepted,
}

const EXAMPLE: &str = "examples/flask_channel";

/// The folder of the client's own server.
const SPECIFIED: &str = "tests/seed";

/// Starts the Flask server in this folder.
async fn flask(
    folder: &str,
    address: SocketAddr,
    env: &[(&str, &str)],
) -> anyhow::Result<ChildServer> {
    // By Flask's command: `python app.py` has one fixed port for all tests.
    let mut command = Command::new(python());
    command
        .args(["-m", "flask", "--app", "app", "run", "--port"])
        .arg(address.port().to_string())
        .current_dir(root().join(folder))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env_remove("SIGNING_SECRET")
        .envs(env.iter().copied());
    ChildServer::start(command, address).await
}

/// A gateway with the channel `slack-sim` at the Flask server in this folder.
async fn started(setup: Setup, folder: &str) -> anyhow::Result<(TestGateway, ChildServer)> {
    let server = flask(folder, free_address()?, &[]).await?;
    let gateway = Plan::new(setup)?.start().await?;
    let endpoint = server.url("/incoming");
    gateway.register("slack-sim", &endpoint).await?;
    Ok((gateway, server))
}

/// Ends a test: neither the example nor the inbox keeps a record.
async fn end(gateway: TestGateway) -> anyhow::Result<Accounted> {
    let reason = "neither the example nor the inbox keeps a record";
    gateway.finish_unaccounted(reason).await
}

async fn its_answer_reaches_the_development_inbox(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, _server) = started(setup, EXAMPLE).await?;
    gateway.send("slack-sim", "abc123").await?;
    let answers = gateway.until_in_inbox("abc123", 1).await?;
    assert_eq!(answers[0]["text"], "Received message: 'Hello, abc123!'");
    assert_eq!(answers[0]["platform"], "Slack (simulated)");
    end(gateway).await
}

async fn the_specifications_own_server_works_unmodified(setup: Setup) -> anyhow::Result<Accounted> {
    let (gateway, _server) = started(setup, SPECIFIED).await?;
    gateway.send("slack-sim", "abc123").await?;
    let answers = gateway.until_in_inbox("abc123", 1).await?;
    assert_eq!(answers[0]["text"], "Received message: 'Hello, abc123!'");
    end(gateway).await
}

async fn a_message_of_zero_or_false_is_answered_and_a_repeat_is_dropped(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (gateway, _server) = started(setup, EXAMPLE).await?;
    for (message, session, text) in [(json!(0), "zero", "0"), (json!(false), "no", "False")] {
        let message = json!({"channel_id": "slack-sim", "session_id": session, "message": message});
        let sent = gateway.post("/channel/message", message).await?;
        let id = sent.expect(202)?.field("message_id")?;
        let first = gateway.until_in_inbox(session, 1).await?;
        assert_eq!(first[0]["text"], format!("Received message: '{text}'"));
        // A replay leaves alone what is still on its way.
        gateway.until_state(&id, "forwarded").await?;
        let again = gateway.post("/messages/replay", json!({"ids": [id]}));
        again.await?.expect(202)?;
        let repeated = gateway.until_message(&id, |message| {
            message["replay_count"] == 1 && message["state"] == "delivered"
        });
        repeated.await?;
        // And no second answer.
        assert_eq!(gateway.until_in_inbox(session, 1).await?.len(), 1);
    }
    end(gateway).await
}

async fn with_a_secret_only_signed_requests_are_accepted(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let gateway = Plan::new(setup)?.start().await?;
    let address = free_address()?;
    let endpoint = format!("http://{address}/incoming");
    // Both channels use this server; it has the secret of the first one.
    let secret = gateway.register("slack-sim", &endpoint).await?;
    gateway.register("stranger", &endpoint).await?;
    let _server = flask(EXAMPLE, address, &[("SIGNING_SECRET", &secret)]).await?;

    let refused = gateway.send("stranger", "stranger").await?;
    gateway.send("slack-sim", "slack-sim").await?;
    let refused = gateway.until_message(&refused, |message| {
        message["state"] == "retrying" && !attempts(message).is_empty()
    });
    assert_eq!(attempts(&refused.await?)[0]["status"], 401);
    // The answer to what was signed.
    gateway.until_in_inbox("slack-sim", 1).await?;
    end(gateway).await
}
