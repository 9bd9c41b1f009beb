//! The example in `examples/flask_channel`, and the channel server of the client's specification
//! (`tests/seed/app.py`), each unchanged behind a gateway, on both setups.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::Context;
use harness::{
    gateway::{Accounted, Plan, Setup, TestGateway},
    process::free_port,
    wait,
};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

on_both_setups! {
    its_answer_reaches_the_development_inbox,
    the_specifications_own_server_works_unmodified,
    a_message_of_zero_or_false_is_answered_and_a_repeat_is_dropped,
    with_a_secret_only_signed_requests_are_accepted,
}

const EXAMPLE: &str = "examples/flask_channel";

/// A running server; dropping it ends the server.
struct FlaskChannel {
    _child: Child,
    endpoint_url: String,
}

impl FlaskChannel {
    async fn start() -> anyhow::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        Self::start_at(EXAMPLE, address, &[]).await
    }

    async fn start_at(
        folder: &str,
        address: SocketAddr,
        env: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let root = root()?;
        let python = root.join(".servers/venv/bin/python");
        // By Flask's command: `python app.py` has one fixed port for all tests.
        let child = Command::new(&python)
            .args(["-m", "flask", "--app", "app", "run", "--port"])
            .arg(address.port().to_string())
            .current_dir(root.join(folder))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env_remove("SIGNING_SECRET")
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("no {}: run tests/servers install", python.display()))?;
        wait::until("the Flask server", async || {
            TcpStream::connect(address).await.ok()
        })
        .await?;
        Ok(Self {
            _child: child,
            endpoint_url: endpoint_url(address),
        })
    }
}

fn endpoint_url(address: SocketAddr) -> String {
    format!("http://{address}/incoming")
}

fn root() -> anyhow::Result<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(Path::to_owned)
        .context("the workspace's folder")
}

async fn its_answer_reaches_the_development_inbox(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = FlaskChannel::start().await?;
    let gateway = Plan::new(setup)?.start().await?;
    gateway.register("slack-sim", &channel.endpoint_url).await?;
    gateway.send("slack-sim", "abc123").await?;

    let answers = answers(&gateway, "abc123", 1).await?;
    assert_eq!(answers[0]["text"], "Received message: 'Hello, abc123!'");
    assert_eq!(answers[0]["platform"], "Slack (simulated)");
    gateway
        .finish_unaccounted("neither the example nor the inbox keeps a record")
        .await
}

async fn the_specifications_own_server_works_unmodified(setup: Setup) -> anyhow::Result<Accounted> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let channel = FlaskChannel::start_at("tests/seed", address, &[]).await?;
    let gateway = Plan::new(setup)?.start().await?;
    gateway.register("slack-sim", &channel.endpoint_url).await?;
    gateway.send("slack-sim", "abc123").await?;
    let answers = answers(&gateway, "abc123", 1).await?;
    assert_eq!(answers[0]["text"], "Received message: 'Hello, abc123!'");
    gateway
        .finish_unaccounted("neither the example nor the inbox keeps a record")
        .await
}

async fn a_message_of_zero_or_false_is_answered_and_a_repeat_is_dropped(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let channel = FlaskChannel::start().await?;
    let gateway = Plan::new(setup)?.start().await?;
    gateway.register("slack-sim", &channel.endpoint_url).await?;
    for (message, session, said) in [(json!(0), "zero", "0"), (json!(false), "no", "False")] {
        let message = json!({"channel_id": "slack-sim", "session_id": session, "message": message});
        let sent = gateway.post("/channel/message", message.to_string());
        let id = sent.await?.expect(202)?.json()["message_id"].clone();
        let first = answers(&gateway, session, 1).await?;
        assert_eq!(first[0]["text"], format!("Received message: '{said}'"));
        let path = format!("/channel/message/{}", id.as_str().context("an id")?);
        let message = async || gateway.get(&path).await.ok().map(|answer| answer.json());
        // A replay leaves alone what is still on its way.
        wait::until("the answer to be forwarded", async || {
            message()
                .await
                .filter(|message| message["state"] == "forwarded")
        })
        .await?;
        let again = json!({"ids": [id]}).to_string();
        gateway.post("/messages/replay", again).await?.expect(202)?;
        wait::until("the repeat to be delivered", async || {
            message()
                .await
                .filter(|message| message["replay_count"] == 1 && message["state"] == "delivered")
        })
        .await?;
        // And no second answer.
        assert_eq!(answers(&gateway, session, 1).await?.len(), 1);
    }
    gateway
        .finish_unaccounted("neither the example nor the inbox keeps a record")
        .await
}

/// The answers of a session in the inbox, once there are this many.
async fn answers(gateway: &TestGateway, session: &str, count: usize) -> anyhow::Result<Vec<Value>> {
    wait::until("the answers", async || {
        let inbox = gateway
            .get(&format!("/dev/sessions/{session}"))
            .await
            .ok()?
            .json();
        let answers = inbox["responses"].as_array()?.clone();
        (answers.len() >= count).then_some(answers)
    })
    .await
}

async fn with_a_secret_only_signed_requests_are_accepted(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let gateway = Plan::new(setup)?.start().await?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let mut secrets = Vec::new();
    // Both channels use this server; it has the secret of the first one.
    for id in ["slack-sim", "stranger"] {
        let metadata = json!({"endpoint_url": endpoint_url(address)});
        let channel = json!({"channel_id": id, "channel_metadata": metadata});
        let made = gateway.post("/channel", channel.to_string()).await?;
        let secret = made.expect(201)?.json()["signing_secret"].clone();
        secrets.push(secret.as_str().context("a secret")?.to_owned());
    }
    let env = [("SIGNING_SECRET", secrets[0].as_str())];
    let _channel = FlaskChannel::start_at(EXAMPLE, address, &env).await?;

    for id in ["stranger", "slack-sim"] {
        gateway.send(id, id).await?;
    }
    let refused = wait::until("the stranger's message to be refused", async || {
        let list = "/messages?channel_id=stranger&state=retrying";
        let messages = gateway.get(list).await.ok()?.json();
        let id = messages["messages"][0]["message_id"].as_str()?.to_owned();
        let message = gateway.get(&format!("/channel/message/{id}")).await;
        Some(message.ok()?.text)
    })
    .await?;
    assert!(refused.contains(r#""status":401"#), "{refused}");
    wait::until("the answer to what was signed", async || {
        let inbox = gateway.get("/dev/sessions/slack-sim").await.ok()?.json();
        inbox["responses"].as_array()?.first().cloned()
    })
    .await?;
    gateway
        .finish_unaccounted("neither the example nor the inbox keeps a record")
        .await
}
