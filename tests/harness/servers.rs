//! Private servers, by the command `tests/servers`.
//!
//! Invariant: a server never outlives its [`Server`], and is the tests' own: a free port, a folder
//! of its own.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};
use tokio::task::spawn_blocking;

use crate::{
    procfs::{self, Usage},
    tls::Identity,
};

/// What there is to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Rabbitmq,
    /// A server that speaks MongoDB's wire protocol.
    Mongodb,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rabbitmq => "rabbitmq",
            Self::Mongodb => "mongodb",
        })
    }
}

/// A running server, or one that was killed and may be started again.
#[derive(Debug)]
pub struct Server {
    kind: Kind,
    folder: PathBuf,
    url: String,
}

impl Server {
    /// Starts a server in this folder and waits until it answers.
    pub async fn start(kind: Kind, folder: &Path) -> anyhow::Result<Self> {
        let mut server = Self {
            kind,
            folder: folder.to_owned(),
            url: String::new(),
        };
        server.restart().await?;
        Ok(server)
    }

    /// Starts a RabbitMQ that listens under TLS too, on a port of its own.
    pub async fn start_with_tls(folder: &Path, identity: &Identity) -> anyhow::Result<Self> {
        let tls = folder.join("tls");
        fs::create_dir_all(&tls)?;
        fs::write(tls.join("certificate.pem"), &identity.certificate)?;
        fs::write(tls.join("key.pem"), &identity.key)?;
        Self::start(Kind::Rabbitmq, folder).await
    }

    /// Starts a RabbitMQ with these settings of its application `rabbit`, as Erlang terms.
    pub async fn start_with_settings(folder: &Path, settings: &str) -> anyhow::Result<Self> {
        let config = format!("[{{rabbit, [{settings}]}}].\n");
        fs::write(folder.join("advanced.config"), config)?;
        Self::start(Kind::Rabbitmq, folder).await
    }

    /// The port on which it listens under TLS.
    pub fn tls_port(&self) -> anyhow::Result<u16> {
        let port = fs::read_to_string(self.folder.join("tls/port"));
        Ok(port.context("it has no TLS port")?.trim().parse()?)
    }

    /// Its URL; the same after a restart.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Starts it again with its data and its port.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        // Port 0: the one it had, or a free one.
        let mut command = command(&["start", &self.kind.to_string()], &self.folder);
        command.arg("0");
        self.url = spawn_blocking(|| run(command)).await??;
        Ok(())
    }

    /// Kills the server with SIGKILL, so that it ends as in a crash.
    pub async fn kill(&self) -> anyhow::Result<()> {
        let command = command(&["kill"], &self.folder);
        spawn_blocking(|| run(command)).await??;
        Ok(())
    }

    /// What its processes have used since the start. Empty if the server runs in a container.
    pub fn usage(&self) -> Usage {
        let session = fs::read_to_string(self.folder.join("session")).unwrap_or_default();
        session
            .trim()
            .parse()
            .map(procfs::processes_of_session)
            .unwrap_or_default()
            .into_iter()
            // A process that has ended meanwhile only helped to start the server.
            .filter_map(|pid| procfs::usage(pid).ok())
            .fold(Usage::default(), Usage::and)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = run(command(&["kill"], &self.folder)) {
            tracing::error!(folder = %self.folder.display(), %error, "a server was left behind");
        }
    }
}

pub(crate) fn command(verbs: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("servers"));
    command.args(verbs).arg(folder).stdin(Stdio::null());
    command
}

pub(crate) fn run(mut command: Command) -> anyhow::Result<String> {
    let output = command.output().context("running tests/servers")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
