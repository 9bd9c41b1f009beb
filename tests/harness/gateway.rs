//! The gateway as a test sees it: real processes, on the embedded engines or on RabbitMQ and
//! MongoDB, and an account of everything that they accepted.
//!
//! Invariant: a test ends with an account. [`TestGateway::finish`] fails where something that was
//! answered 202 was neither delivered nor is a dead letter, and a test cannot end well without it,
//! for an [`Accounted`] is made by nothing else.

mod answer;
mod plan;
mod raw;
mod remains;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Output,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use reqwest::{Method, RequestBuilder, header::CONTENT_TYPE};
use roundtrip_broker::Queue;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    audit::Audit,
    collections::make_collections,
    http::plain_client,
    process::{Process, Program, free_port, run_to_end},
    realm::Realm,
    scripted::{Received, ScriptedServer},
    wait,
};

pub use answer::Answer;
pub use plan::{CALLBACK_SECRET, OPERATOR_KEY, Plan, Setup};
pub use raw::Raw;

/// How long a process may take to drain and end.
const STOP_LIMIT: Duration = Duration::from_secs(40);

/// How long a request may take to be answered.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// A running gateway.
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

/// What was answered 202.
#[derive(Debug, Default)]
struct Account {
    messages: BTreeSet<String>,
    callbacks: BTreeSet<String>,
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
        if let Some(realm) = &self.realm {
            make_collections(realm.store.as_str(), &realm.name).await?;
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

    /// What it runs on.
    #[must_use]
    pub const fn setup(&self) -> Setup {
        self.plan.setup
    }

    /// The realm, where there are servers.
    ///
    /// # Errors
    /// On the embedded engines.
    pub fn realm(&self) -> anyhow::Result<&Realm> {
        self.plan.realm()
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

    /// The names of its processes.
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

    /// Exchanges a request for its answer; what it accepted goes into the account. Where the gateway
    /// asks for keys, an operator's is presented.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: impl Into<String>,
    ) -> anyhow::Result<Answer> {
        let key = self.plan.in_production.then_some(OPERATOR_KEY);
        self.request_with(key, method, path, headers, body).await
    }

    /// As [`TestGateway::request`], with this key or with none.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn request_with(
        &self,
        key: Option<&str>,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: impl Into<String>,
    ) -> anyhow::Result<Answer> {
        let body = body.into();
        let mut request = self
            .client
            .request(method, self.url(path))
            .body(body.clone());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        let answer = self.exchange(request).await?;
        self.enter(path, &body, &answer);
        Ok(answer)
    }

    /// Exchanges a request of a test's own client for its answer; what it accepted goes into no
    /// account.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn exchange(&self, request: RequestBuilder) -> anyhow::Result<Answer> {
        let answer = Answer::of(request.timeout(ANSWER_LIMIT).send().await?).await?;
        self.audit.answer(answer.status, &answer.whole());
        Ok(answer)
    }

    /// Connects, for a test that writes byte by byte.
    ///
    /// # Errors
    /// If nobody listens.
    pub async fn connect(&self) -> anyhow::Result<Raw> {
        Raw::open(self.ingress, self.audit.clone()).await
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

    /// Posts JSON.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn post(&self, path: &str, body: impl Into<String>) -> anyhow::Result<Answer> {
        let json = [(CONTENT_TYPE.as_str(), "application/json")];
        self.request(Method::POST, path, &json, body).await
    }

    /// Gets.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.request(Method::GET, path, &[], "").await
    }

    /// Registers a channel at this endpoint.
    ///
    /// # Errors
    /// If it is not taken.
    pub async fn register(&self, id: &str, endpoint_url: &str) -> anyhow::Result<()> {
        let channel = json!({
            "channel_id": id,
            "channel_metadata": {"endpoint_url": endpoint_url},
        });
        let answer = self.post("/channel", channel.to_string()).await?;
        answer.expect(201).map(drop)
    }

    /// Sends a message and returns its id. Its `response_url` is the gateway's own.
    ///
    /// # Errors
    /// If it is not accepted.
    pub async fn send(&self, channel: &str, session: &str) -> anyhow::Result<String> {
        let body = json!({
            "channel_id": channel,
            "session_id": session,
            "message": format!("Hello, {session}!"),
        });
        let answer = self.post("/channel/message", body.to_string()).await?;
        let answer = answer.expect(202)?.json();
        Ok(text(&answer, "message_id"))
    }

    /// Waits until each message that was accepted has been taken by one of these servers.
    ///
    /// # Errors
    /// If one is not in time: which.
    pub async fn all_taken(&self, servers: &[&ScriptedServer]) -> anyhow::Result<()> {
        let accepted = self.account().messages.clone();
        let what = format!("{} accepted messages to be taken", accepted.len());
        wait::until(what, async || {
            let taken: Vec<_> = servers.iter().flat_map(|server| server.taken()).collect();
            let taken: BTreeSet<_> = taken.iter().map(Received::webhook_id).collect();
            accepted
                .iter()
                .all(|id| taken.contains(id.as_str()))
                .then_some(())
        })
        .await
    }

    /// Ends the gateway and draws up the account: each accepted message was taken by one of these
    /// servers or is a dead letter, and each accepted answer was taken by one of these servers.
    ///
    /// # Errors
    /// If one was not, or a process does not end well.
    pub async fn finish(mut self, servers: &[&ScriptedServer]) -> anyhow::Result<Accounted> {
        let dead: BTreeSet<String> = self
            .dead_letters(Queue::OutboundDead)
            .await?
            .into_iter()
            .map(|parcel| parcel.id)
            .collect();
        for server in servers {
            self.audit.take_in(server.audit());
        }
        let taken: Vec<_> = servers.iter().flat_map(|server| server.taken()).collect();
        let answered = servers.iter().flat_map(|server| server.answered());
        let (messages, callbacks) = {
            let mut account = self.account();
            account.callbacks.extend(answered);
            (
                std::mem::take(&mut account.messages),
                std::mem::take(&mut account.callbacks),
            )
        };
        let delivered: BTreeSet<_> = taken
            .iter()
            .map(|request| request.webhook_id().to_owned())
            .collect();
        let lost: Vec<_> = messages
            .iter()
            .filter(|id| !delivered.contains(*id) && !dead.contains(*id))
            .collect();
        ensure!(
            lost.is_empty(),
            "accepted, neither delivered nor dead: {lost:?}"
        );
        let forwarded: BTreeSet<_> = taken
            .iter()
            .filter(|request| request.webhook_id().starts_with("cb_"))
            .map(|request| request.field("session_id"))
            .collect();
        let lost: Vec<_> = callbacks.difference(&forwarded).collect();
        ensure!(
            lost.is_empty(),
            "answers accepted and not forwarded: {lost:?}"
        );
        self.end().await
    }

    /// Ends the gateway without an account, for a test in which something must stay undone; the
    /// reason is for its reader.
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
        if let Some(realm) = &self.plan.realm {
            realm.remove().await.context("cleaning up")?;
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

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&mut self, process: Process) {
        self.processes
            .insert(process.program().name.clone(), process);
    }

    fn enter(&self, path: &str, body: &str, answer: &Answer) {
        let mut account = self.account();
        let path = path.split('?').next().unwrap_or_default();
        match (path, answer.status) {
            ("/webhook-response", 202) => {
                let body = serde_json::from_str(body).unwrap_or_default();
                account.callbacks.insert(text(&body, "session_id"));
            }
            ("/channel/message", 202) => {
                account.messages.insert(text(&answer.json(), "message_id"));
            }
            ("/channel/messages", 200) => {
                let answer = answer.json();
                let results = answer["results"].as_array().into_iter().flatten();
                let accepted = results.filter(|result| result["status"] == "queued");
                let ids = accepted.map(|result| text(result, "message_id"));
                account.messages.extend(ids);
            }
            _ => {}
        }
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

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}
