//! The gateway under test: real processes, on the embedded engines or on RabbitMQ and MongoDB, and
//! an account of everything that they accepted.
//!
//! Invariant: a test ends with an account. [`TestGateway::finish`] fails if a message that was
//! answered 202 was neither delivered nor became a dead letter. A test must return an
//! [`Accounted`], which only `finish` and [`TestGateway::finish_unaccounted`] create.

mod account;
mod answer;
mod plan;
mod raw;
mod remains;
mod requests;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Output,
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use tempfile::TempDir;

use crate::{
    audit::Audit,
    collections::make_collections,
    http::plain_client,
    process::{Process, Program, free_port, run_to_end},
    test_namespace::TestNamespace,
};

use account::Account;

pub use answer::Answer;
pub use plan::{CALLBACK_SECRET, OPERATOR_KEY, Plan, Setup};
pub use raw::Raw;

/// How long a process may take to drain and end.
const STOP_LIMIT: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub struct TestGateway {
    plan: Plan,
    folder: TempDir,
    ingress: SocketAddr,
    client: reqwest::Client,
    programs: Vec<Program>,
    processes: BTreeMap<String, Process>,
    account: Mutex<Account>,
    audit: Audit,
    finished: bool,
}

/// Everything that was accepted is accounted for.
#[derive(Debug)]
#[must_use]
pub struct Accounted(());

impl Plan {
    /// Starts every process and waits until all are ready.
    ///
    /// # Errors
    /// If one is not; the error shows its log's end.
    pub async fn start(self) -> anyhow::Result<TestGateway> {
        let mut gateway = self.prepare().await?;
        gateway.start_all().await?;
        Ok(gateway)
    }

    /// Makes all that the processes need, and starts none.
    ///
    /// # Errors
    /// If no port is free, or the store does not answer.
    pub async fn prepare(self) -> anyhow::Result<TestGateway> {
        let folder = tempfile::tempdir().context("making a folder")?;
        let ingress = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let audit = Audit::default();
        let programs = self.programs(folder.path(), ingress, &audit)?;
        if let Some(test_namespace) = &self.test_namespace {
            make_collections(test_namespace.store.as_str(), &test_namespace.name).await?;
        }
        Ok(TestGateway {
            plan: self,
            folder,
            ingress,
            client: plain_client()?,
            programs,
            processes: BTreeMap::new(),
            account: Mutex::default(),
            audit,
            finished: false,
        })
    }
}

impl TestGateway {
    /// Starts every process and waits until all are ready.
    ///
    /// # Errors
    /// As [`Plan::start`].
    pub async fn start_all(&mut self) -> anyhow::Result<()> {
        // The first declares the queues; then the others have less to wait for each other.
        let mut programs = self.programs.clone().into_iter();
        if let Some(first) = programs.next() {
            let process = Process::start(first).await?;
            self.keep(process);
        }
        for process in try_join_all(programs.map(Process::start)).await? {
            self.keep(process);
        }
        Ok(())
    }

    /// Starts every process, and does not wait until they are ready.
    ///
    /// # Errors
    /// If one cannot be started.
    pub fn launch_all(&mut self) -> anyhow::Result<()> {
        for program in self.programs.clone() {
            let process = Process::launched(program)?;
            self.keep(process);
        }
        Ok(())
    }

    /// Starts the process that has the ingress, which is expected to end by itself, and says how it
    /// did.
    ///
    /// # Errors
    /// If it does not end.
    pub async fn refused_start(&self) -> anyhow::Result<Output> {
        let program = self.programs.first().context("no process")?;
        let arguments: Vec<&str> = program.args.iter().map(String::as_str).collect();
        self.run(&arguments, &program.env).await
    }

    #[must_use]
    pub const fn setup(&self) -> Setup {
        self.plan.setup
    }

    /// The test_namespace, where there are servers.
    ///
    /// # Errors
    /// On the embedded engines.
    pub fn test_namespace(&self) -> anyhow::Result<&TestNamespace> {
        self.plan.test_namespace()
    }

    /// The URL of a path of the API.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.ingress)
    }

    /// Where its processes work and log.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.processes.keys().cloned().collect()
    }

    /// The process of this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn process(&mut self, name: &str) -> anyhow::Result<&mut Process> {
        self.processes
            .get_mut(name)
            .with_context(|| format!("no process {name}"))
    }

    /// The name of the process that has this role: its own, or the one that has all.
    #[must_use]
    pub fn having(&self, role: &str) -> String {
        match self.plan.setup {
            Setup::Embedded => "all".to_owned(),
            Setup::Servers if role == "dispatcher" => "dispatcher-0".to_owned(),
            Setup::Servers => role.to_owned(),
        }
    }

    /// All that a process has logged.
    ///
    /// # Errors
    /// If there is no such log.
    pub fn log(&self, name: &str) -> anyhow::Result<String> {
        let path = self.folder().join(format!("{name}.log"));
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// Asks a process to end, and waits until it has drained and ended well.
    ///
    /// # Errors
    /// If it does not end, or not with success.
    pub async fn stop(&mut self, name: &str) -> anyhow::Result<()> {
        let process = self.process(name)?;
        let status = process.stop(STOP_LIMIT).await?;
        ensure!(
            status.success(),
            "{name} ended with {status}\n{}",
            process.tail()
        );
        Ok(())
    }

    /// Runs a command of the executable's on the gateway's store, beside its processes.
    ///
    /// # Errors
    /// If it cannot be run, or does not end in time.
    pub async fn command(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let env = self.plan.store_env(self.folder());
        self.run(arguments, &env).await
    }

    async fn run(&self, arguments: &[&str], env: &[(String, String)]) -> anyhow::Result<Output> {
        run_to_end(arguments, env, self.folder(), STOP_LIMIT, &self.audit).await
    }

    /// Stops the gateway without an account, for a test that leaves a message undelivered;
    /// `_reason` documents why.
    ///
    /// # Errors
    /// If a process does not end well.
    pub async fn finish_unaccounted(mut self, _reason: &str) -> anyhow::Result<Accounted> {
        self.stop_all().await?;
        self.end().await
    }

    async fn end(mut self) -> anyhow::Result<Accounted> {
        let names = self.processes.keys().map(String::as_str);
        self.audit.check(self.folder.path(), names)?;
        self.finished = true;
        if let Some(test_namespace) = &self.plan.test_namespace {
            test_namespace.remove().await.context("cleaning up")?;
        }
        Ok(Accounted(()))
    }

    async fn stop_all(&mut self) -> anyhow::Result<()> {
        for name in self.names() {
            if self.process(&name)?.is_running() {
                self.stop(&name).await?;
            }
        }
        Ok(())
    }

    fn keep(&mut self, process: Process) {
        self.processes
            .insert(process.program().name.clone(), process);
    }
}

impl Drop for TestGateway {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // The test has failed; the runner shows this beside its error.
        for (name, process) in &self.processes {
            eprintln!("--- the end of {name}'s log\n{}", process.tail());
        }
    }
}
