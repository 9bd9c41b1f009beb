//! The example in `examples/flask_channel`, as it is, behind a gateway: what a newcomer is told to
//! try works on both setups.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::Context;
use harness::{
    gateway::{Accounted, Plan, Setup},
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
    with_a_secret_it_takes_what_is_signed_by_it_and_nothing_else,
}

/// The running example; it ends with this.
struct FlaskChannel {
    _child: Child,
    endpoint_url: String,
}

impl FlaskChannel {
    async fn start() -> anyhow::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        Self::start_at(address, &[]).await
    }

    async fn start_at(address: SocketAddr, env: &[(&str, &str)]) -> anyhow::Result<Self> {
        let root = root()?;
        let python = root.join(".servers/venv/bin/python");
        // By Flask's own command, for `python app.py` has one fixed port for all tests.
        let child = Command::new(&python)
            .args(["-m", "flask", "--app", "app", "run", "--port"])
            .arg(address.port().to_string())
            .current_dir(root.join("examples/flask_channel"))
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

    let answer = wait::until("the answer", async || {
        let inbox = gateway.get("/dev/sessions/abc123").await.ok()?.json();
        inbox["responses"].as_array()?.first().cloned()
    })
    .await?;
    assert_eq!(
        answer["text"],
        Value::from("Received message: 'Hello, abc123!'")
    );
    assert_eq!(answer["platform"], Value::from("Slack (simulated)"));
    gateway
        .finish_unaccounted("neither the example nor the inbox keeps a record")
        .await
}

async fn with_a_secret_it_takes_what_is_signed_by_it_and_nothing_else(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let gateway = Plan::new(setup)?.start().await?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let mut secrets = Vec::new();
    // Both lead to it; it is started with the first one's secret.
    for id in ["slack-sim", "stranger"] {
        let metadata = json!({"endpoint_url": endpoint_url(address)});
        let channel = json!({"channel_id": id, "channel_metadata": metadata});
        let made = gateway.post("/channel", channel.to_string()).await?;
        let secret = made.expect(201)?.json()["signing_secret"].clone();
        secrets.push(secret.as_str().context("a secret")?.to_owned());
    }
    let env = [("SIGNING_SECRET", secrets[0].as_str())];
    let _channel = FlaskChannel::start_at(address, &env).await?;

    for id in ["stranger", "slack-sim"] {
        gateway.send(id, id).await?;
    }
    let refused = wait::until("the stranger's message to be dead", async || {
        let letters = gateway.get("/dead-letters").await.ok()?.json();
        letters["dead_letters"].as_array()?.first().cloned()
    })
    .await?;
    assert_eq!(refused["channel_id"], "stranger");
    assert_eq!(refused["reason"]["kind"], "refused");
    let detail = refused["reason"]["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("401"), "{refused}");
    wait::until("the answer to what was signed", async || {
        let inbox = gateway.get("/dev/sessions/slack-sim").await.ok()?.json();
        inbox["responses"].as_array()?.first().cloned()
    })
    .await?;
    gateway
        .finish_unaccounted("neither the example nor the inbox keeps a record")
        .await
}
