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
use serde_json::Value;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

on_both_setups! { its_answer_reaches_the_development_inbox }

/// The running example; it ends with this.
struct FlaskChannel {
    _child: Child,
    endpoint_url: String,
}

impl FlaskChannel {
    async fn start() -> anyhow::Result<Self> {
        let root = root()?;
        let python = root.join(".servers/venv/bin/python");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        // By Flask's own command, for `python app.py` has one fixed port for all tests.
        let child = Command::new(&python)
            .args(["-m", "flask", "--app", "app", "run", "--port"])
            .arg(address.port().to_string())
            .current_dir(root.join("examples/flask_channel"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
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
            endpoint_url: format!("http://{address}/incoming"),
        })
    }
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
