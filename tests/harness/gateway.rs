//! The gateway under test: a [`Stack`], a client of its API, and an account of everything that it
//! accepted.
//!
//! Invariant: a test ends with an account. [`TestGateway::finish`] fails if a message that was
//! answered 202 was neither delivered nor became a dead letter. A test must return an
//! [`Accounted`], which only `finish` and [`TestGateway::finish_unaccounted`] create.

mod plan;
mod raw;
mod remains;
mod requests;
mod response;

use std::{path::Path, process::Output, sync::Mutex};

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::{
    account::Account,
    contents::{database_holds, files_hold},
    process::{Process, run_to_end},
    scripted::{Received, ScriptedServer},
    stack::{Engines, STOP_LIMIT, Stack},
    test_namespace::TestNamespace,
    wait,
};

pub use plan::{OPERATOR_KEY, Setup};
pub use raw::Raw;
pub use requests::{attempts, events};
pub use response::Response;

pub use crate::stack::{CALLBACK_SECRET, Plan, Role};

#[derive(Debug)]
pub struct TestGateway {
    stack: Stack,
    folder: TempDir,
    client: reqwest::Client,
    in_production: bool,
    account: Mutex<Account>,
    finished: bool,
}

/// Everything that was accepted is accounted for.
#[derive(Debug)]
#[must_use]
pub struct Accounted(());

impl TestGateway {
    /// Starts every process and waits until all are ready.
    pub async fn start_all(&mut self) -> anyhow::Result<()> {
        self.stack.start_all().await
    }

    /// Starts a process and waits until it is ready.
    pub async fn start(&mut self, role: Role) -> anyhow::Result<()> {
        self.stack.start(role).await
    }

    /// Starts every process, and does not wait until they are ready.
    pub fn launch_all(&mut self) -> anyhow::Result<()> {
        let roles = self.stack.roles().iter();
        roles.copied().try_for_each(|role| self.stack.launch(role))
    }

    /// Starts the process that has the ingress, which is expected to end by itself.
    pub async fn refused_start(&self) -> anyhow::Result<Output> {
        let role = self.stack.roles().first().context("no role")?;
        let program = self.stack.program(*role)?;
        let arguments: Vec<&str> = program.args.iter().map(String::as_str).collect();
        self.run(&arguments, &program.env).await
    }

    /// Its namespace, if it has servers.
    pub fn test_namespace(&self) -> anyhow::Result<TestNamespace> {
        self.stack.plan().test_namespace()
    }

    /// The URL of a path of the API.
    pub fn url(&self, path: &str) -> String {
        self.stack.url(path)
    }

    /// Where its processes work and log.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The processes that were started.
    pub fn roles(&self) -> Vec<Role> {
        self.stack.started()
    }

    /// The process that has this role.
    pub fn process(&mut self, role: Role) -> anyhow::Result<&mut Process> {
        self.stack.process(role)
    }

    /// Asks a process to end, and waits until it has drained and ended well.
    pub async fn stop(&mut self, role: Role) -> anyhow::Result<()> {
        self.stack.stop(role).await
    }

    /// Drains a process, and starts it again.
    pub async fn restart(&mut self, role: Role) -> anyhow::Result<()> {
        self.stop(role).await?;
        self.process(role)?.restart().await
    }

    /// Kills every process, and then starts them again.
    pub async fn kill_and_restart_all(&mut self) -> anyhow::Result<()> {
        for role in self.roles() {
            self.process(role)?.kill().await?;
        }
        self.start_all().await
    }

    /// All that the process with this role has logged.
    pub fn log(&self, role: Role) -> anyhow::Result<String> {
        self.stack.log(role)
    }

    /// How many lines of this role's log contain all these words.
    pub fn logged(&self, role: Role, words: &[&str]) -> usize {
        let log = self.log(role).unwrap_or_default();
        let has_all = |line: &&str| words.iter().all(|word| line.contains(word));
        log.lines().filter(has_all).count()
    }

    /// Waits until this role's log has this many lines with all these words.
    pub async fn until_logged(
        &self,
        role: Role,
        words: &[&str],
        count: usize,
    ) -> anyhow::Result<()> {
        let what = format!("{count} log lines of the {role} with {words:?}");
        wait::until(what, async || {
            (self.logged(role, words) >= count).then_some(())
        })
        .await
    }

    /// Whether the text is found anywhere in the store's files or collections.
    pub async fn store_holds(&self, text: &str) -> anyhow::Result<bool> {
        let plan = self.stack.plan();
        match &plan.engines {
            Engines::Embedded => Ok(files_hold(self.folder(), text)?),
            Engines::Servers { store, .. } => database_holds(store, &plan.name, text).await,
        }
    }

    /// Runs a command of the executable's on the gateway's store, beside its processes.
    pub async fn command(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut env = self.stack.program(Role::All)?.env;
        env.retain(|(name, _)| name.contains("STORE"));
        self.run(arguments, &env).await
    }

    /// Runs a command of the executable's that calls the API, with these variables too. If the gateway
    /// needs keys, the command has an operator's.
    pub async fn client(&self, arguments: &[&str], env: &[(&str, &str)]) -> anyhow::Result<Output> {
        let url = self.url("");
        let key = self
            .in_production
            .then_some(("ROUNDTRIP_API_KEY", OPERATOR_KEY));
        let own = [("ROUNDTRIP_URL", url.as_str())].into_iter().chain(key);
        // The last value of a variable counts.
        let env: Vec<_> = own
            .chain(env.iter().copied())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        self.run(arguments, &env).await
    }

    async fn run(&self, arguments: &[&str], env: &[(String, String)]) -> anyhow::Result<Output> {
        let audit = self.stack.audit();
        run_to_end(arguments, env, self.folder(), STOP_LIMIT, audit).await
    }

    /// Waits until one of these servers has accepted each message.
    pub async fn all_taken(&self, servers: &[&ScriptedServer]) -> anyhow::Result<()> {
        wait::until("the accepted messages to be taken", async || {
            let (account, taken) = self.balance(servers);
            account.undelivered(&taken).is_empty().then_some(())
        })
        .await
    }

    /// Stops the gateway and checks the account: one of these servers accepted each message, or it
    /// is a dead letter; and one of these servers accepted each answer.
    pub async fn finish(mut self, servers: &[&ScriptedServer]) -> anyhow::Result<Accounted> {
        let everything_has_gone = wait::until("every message and answer to go", async || {
            let (account, taken) = self.balance(servers);
            let mut has_gone = account.unforwarded(&taken).is_empty();
            for id in account.undelivered(&taken) {
                has_gone &= !self.is_on_its_way(id).await;
            }
            has_gone.then_some(())
        });
        // Otherwise the balance below names what is left.
        let _ = everything_has_gone.await;
        let dead = self.all_dead_letters().await?;
        for server in servers {
            self.stack.audit().take_in(server.audit());
        }
        let (account, taken) = self.balance(servers);
        let mut lost = account.undelivered(&taken);
        lost.retain(|id| !dead.contains(*id));
        ensure!(
            lost.is_empty(),
            "accepted, neither delivered nor dead: {lost:?}"
        );
        let lost = account.unforwarded(&taken);
        ensure!(
            lost.is_empty(),
            "answers accepted and not forwarded: {lost:?}"
        );
        self.end().await
    }

    /// Whether a message is in a queue, or being delivered.
    async fn is_on_its_way(&self, id: &str) -> bool {
        let message = self.get(&format!("/channel/message/{id}")).await;
        message.is_ok_and(|message| {
            let state = &message.json()["state"];
            ["queued", "replayed", "delivering"]
                .iter()
                .any(|on_its_way| state == on_its_way)
        })
    }

    /// What was accepted so far, and what these servers took.
    fn balance(&self, servers: &[&ScriptedServer]) -> (Account, Vec<Received>) {
        let mut account = self.account().clone();
        for server in servers {
            account.answered(server.answered());
        }
        let taken = servers.iter().flat_map(|server| server.taken());
        (account, taken.collect())
    }

    /// Stops the gateway without an account, for a test that leaves a message undelivered;
    /// `_reason` documents why.
    pub async fn finish_unaccounted(self, _reason: &str) -> anyhow::Result<Accounted> {
        self.end().await
    }

    async fn end(mut self) -> anyhow::Result<Accounted> {
        self.stack.stop_all().await?;
        self.finished = true;
        self.stack.remove().await.context("cleaning up")?;
        Ok(Accounted(()))
    }
}

impl Drop for TestGateway {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // The test has failed; the runner shows this beside its error.
        for (role, tail) in self.stack.tails() {
            eprintln!("--- the end of {role}'s log\n{tail}");
        }
    }
}
