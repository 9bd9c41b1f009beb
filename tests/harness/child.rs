//! Servers of other languages that a test starts: the example, the pages' code, the client's own.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::Context;
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use crate::{process::free_port, wait};

/// A running server; dropping it ends the server.
#[derive(Debug)]
pub struct ChildServer {
    _child: Child,
    output: TempDir,
    address: SocketAddr,
}

impl ChildServer {
    /// Starts a command that `tests/servers install` has installed, and waits until it accepts
    /// connections at this address.
    pub async fn start(mut command: Command, address: SocketAddr) -> anyhow::Result<Self> {
        let output = tempfile::tempdir()?;
        let file = File::create(output.path().join("output"))?;
        let program = command.as_std().get_program().to_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("no {}: run tests/servers install", program.display()))?;
        wait::until("the server to accept connections", async || {
            TcpStream::connect(address).await.ok()
        })
        .await?;
        Ok(Self {
            _child: child,
            output,
            address,
        })
    }

    /// All that it has printed.
    pub fn output(&self) -> String {
        let path = self.output.path().join("output");
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// A free address of the loopback.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)))
}

/// The workspace's folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The Python that `tests/servers install` has made.
pub fn python() -> PathBuf {
    root().join(".servers/venv/bin/python")
}
