//! Child processes: started with their own environment, measured, killed and restarted.
//!
//! Invariant: a process never outlives its [`Process`]. Of the tests' environment it gets only
//! `PATH` and `HOME`.

use std::{
    fs::{self, File, OpenOptions},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    ops::Range,
    path::{Path, PathBuf},
    process::{ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use hyper::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::{
    audit::Audit,
    http::{Connection, Peer},
    procfs::{self, Usage},
};

/// How long a process may take to become ready.
const READY_LIMIT: Duration = Duration::from_mins(1);

/// The interval between readiness checks.
const READY_EVERY: Duration = Duration::from_millis(20);

/// How much of a log an error shows.
const LOG_TAIL_BYTES: usize = 4_000;

/// Below the range from which the kernel takes ports for outgoing connections: one of those must
/// not sit on the port of a process that is being restarted. The ports above are those of `tests/servers`.
const PORTS: Range<u16> = 20_000..26_000;

/// The distance between the first ports of concurrent test processes; not a divisor of the range's
/// length.
const PORTS_APART: u32 = 37;

/// The program to start. The process keeps it for restarts.
#[derive(Debug, Clone)]
pub struct Program {
    pub name: String,
    pub path: PathBuf,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Its working folder, created if missing; its output goes to `NAME.log` there.
    pub folder: PathBuf,
    /// The address whose `/readyz` returns 200 when it is ready.
    pub operations: SocketAddr,
    /// Learns its environment's secrets, and its answers.
    pub audit: Audit,
}

/// A running process, or one that was killed and may be started again.
#[derive(Debug)]
pub struct Process {
    program: Program,
    child: Option<Child>,
    /// The resources of its killed predecessors, so that totals include them.
    used_before: Usage,
}

impl Process {
    /// Starts a program and waits until it is ready.
    pub async fn start(program: Program) -> anyhow::Result<Self> {
        let mut process = Self::new(program)?;
        process.restart().await?;
        Ok(process)
    }

    /// Sets a variable of its environment, from its next start on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        let env = &mut self.program.env;
        env.retain(|(known, _)| known != name);
        env.push((name.to_owned(), value.to_owned()));
        self.program.audit.environment(pairs(&self.program.env));
    }

    pub const fn program(&self) -> &Program {
        &self.program
    }

    /// Whether it was started, and neither stopped nor killed since. It may have ended by itself.
    pub const fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// Whether it was started and has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Starts it (again), as it was, and waits until it is ready.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.launch()?;
        self.ready().await
    }

    /// A process that is not started yet.
    pub fn new(program: Program) -> anyhow::Result<Self> {
        program.audit.environment(pairs(&program.env));
        fs::create_dir_all(&program.folder)
            .with_context(|| format!("making {}", program.folder.display()))?;
        Ok(Self {
            program,
            child: None,
            used_before: Usage::default(),
        })
    }

    /// Starts it (again) and does not wait until it is ready.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        if self.is_running() {
            bail!("{} is running already", self.program.name);
        }
        let log = self.log()?;
        let child = Command::new(&self.program.path)
            .args(&self.program.args)
            .env_clear()
            .envs(std::env::vars().filter(|(name, _)| matches!(name.as_str(), "PATH" | "HOME")))
            .envs(self.program.env.iter().cloned())
            .current_dir(&self.program.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", self.program.path.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// The operations port.
    pub fn operations(&self) -> Peer {
        Peer {
            address: self.program.operations,
            audit: self.program.audit.clone(),
        }
    }

    /// What `/readyz` answers.
    pub async fn readiness(&self) -> anyhow::Result<(StatusCode, Bytes)> {
        let operations = self.operations();
        Connection::open(&operations).await?.get("/readyz").await
    }

    /// Waits until it is ready.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            let asked = self.readiness();
            match timeout_at(deadline, asked).await {
                Ok(Ok((status, _))) if status.is_success() => return Ok(()),
                Err(_) => bail!(
                    "{} was not ready in time\n{}",
                    self.program.name,
                    self.tail()
                ),
                Ok(_) if !self.is_running() => {
                    bail!("{} ended at its start\n{}", self.program.name, self.tail())
                }
                Ok(_) => sleep(READY_EVERY).await,
            }
        }
    }

    /// Kills it with SIGKILL, as a crash or the kernel's memory killer would.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.used_before = self.usage()?;
        let mut child = self.take()?;
        child.kill().await.context("killing")
    }

    /// Sends SIGTERM and waits for the exit.
    pub async fn stop(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let mut child = self.take()?;
        let pid = child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
            .with_context(|| format!("{} has ended already", self.program.name))?;
        kill_process(pid, Signal::TERM)?;
        if let Ok(status) = timeout_at(Instant::now() + limit, child.wait()).await {
            return Ok(status?);
        }
        child.kill().await?;
        bail!(
            "{} did not end in {limit:?}\n{}",
            self.program.name,
            self.tail()
        )
    }

    /// The processor time it has used, with that of the predecessors that were killed, and the
    /// most memory that it held.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        let pid = self
            .pid()
            .with_context(|| format!("{} is not running", self.program.name))?;
        Ok(self.used_before.and(procfs::usage(pid)?))
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// The end of its log, for an error that a human reads.
    pub fn tail(&self) -> String {
        let log = fs::read(self.log_path()).unwrap_or_default();
        let from = log.len().saturating_sub(LOG_TAIL_BYTES);
        String::from_utf8_lossy(&log[from..]).into_owned()
    }

    fn take(&mut self) -> anyhow::Result<Child> {
        self.child
            .take()
            .with_context(|| format!("{} is not running", self.program.name))
    }

    fn log(&self) -> anyhow::Result<File> {
        let path = self.log_path();
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))
    }

    pub fn log_path(&self) -> PathBuf {
        self.program
            .folder
            .join(format!("{}.log", self.program.name))
    }
}

/// Runs a command of the executable that exits by itself, without the tests' environment, and
/// returns its output.
pub async fn run_to_end(
    arguments: &[&str],
    env: &[(String, String)],
    folder: &Path,
    limit: Duration,
    audit: &Audit,
) -> anyhow::Result<Output> {
    audit.environment(pairs(env));
    let ended = Command::new(gateway_binary()?)
        .args(arguments)
        .env_clear()
        .envs(env.iter().cloned())
        .current_dir(folder)
        .kill_on_drop(true)
        .output();
    let output = timeout(limit, ended)
        .await
        .context("a command did not end")?
        .context("running a command")?;
    audit.output(&output);
    Ok(output)
}

fn pairs(env: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> {
    env.iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
}

/// A port that was just free, and that this function has not returned before.
pub fn free_port() -> anyhow::Result<u16> {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    for _ in PORTS {
        // Concurrent test processes start at different ports.
        let number = std::process::id()
            .wrapping_mul(PORTS_APART)
            .wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + u16::try_from(number % u32::try_from(PORTS.len())?)?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port of {PORTS:?} is free")
}

/// The gateway's executable: `ROUNDTRIP_BINARY`, or the one beside the tests' own.
pub fn gateway_binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("ROUNDTRIP_BINARY") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    // target/PROFILE/benchmark, or target/PROFILE/deps/suite-HASH.
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("roundtrip"))
        .find(|path| Path::is_file(path))
        .with_context(|| {
            format!(
                "no roundtrip executable near {}: build it with `cargo build -p roundtrip`, \
                 or name it in ROUNDTRIP_BINARY",
                own.display()
            )
        })
}
