//! A whole gateway as its operator runs it: one process on the embedded engines, or a process for
//! each role on RabbitMQ and MongoDB.
//!
//! Invariant: every stack has its own folder, namespace and database, so stacks on one server
//! never affect each other.

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use hyper::StatusCode;
use serde_json::json;

use crate::{
    audit::Audit,
    collections::make_collections,
    http::{Connection, Peer},
    process::{Process, Program, free_port},
    procfs::Usage,
    test_namespace::TestNamespace,
};

/// The secret of the tokens in response URLs: the dispatcher signs them, the ingress verifies them.
pub const CALLBACK_SECRET: &str = "the-tests'-own-secret-of-32-bytes-or-more";

/// The time limit on the drain and exit of a process.
const STOP_LIMIT: Duration = Duration::from_mins(1);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Engines {
    /// SQLite files, all roles in one process.
    Embedded,
    /// Servers, and a process for each role.
    Servers { broker: String, store: String },
}

/// A part of the gateway that runs as a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Every role in one process.
    All,
    /// The HTTP API.
    Ingress,
    /// Delivers to channels.
    Dispatcher,
    /// Forwards answers to the sessions server.
    Forwarder,
    /// Writes the journal and dead letters to the store, and runs replays.
    Recorder,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::All => "all roles",
            Self::Ingress => "ingress",
            Self::Dispatcher => "dispatcher",
            Self::Forwarder => "forwarder",
            Self::Recorder => "recorder",
        })
    }
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub binary: PathBuf,
    pub engines: Engines,
    /// The folder of its processes and their logs.
    pub folder: PathBuf,
    /// Its queues' prefix and its database's name.
    pub name: String,
    pub sessions_server: String,
    /// Further environment for every process.
    pub env: Vec<(String, String)>,
}

#[derive(Debug)]
pub struct Stack {
    plan: Plan,
    ingress: Peer,
    has_collections: bool,
    processes: BTreeMap<Role, Process>,
}

impl Stack {
    /// A stack without a running process.
    ///
    /// # Errors
    /// If no port is free.
    pub fn new(plan: Plan) -> anyhow::Result<Self> {
        Ok(Self {
            plan,
            ingress: Peer {
                address: SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)),
                audit: Audit::default(),
            },
            has_collections: false,
            processes: BTreeMap::new(),
        })
    }

    /// The address of the HTTP API; the same after a restart.
    #[must_use]
    pub fn ingress(&self) -> Peer {
        self.ingress.clone()
    }

    /// The audit of its processes' logs and their responses.
    #[must_use]
    pub const fn audit(&self) -> &Audit {
        &self.ingress.audit
    }

    /// The gateway's own response URL.
    #[must_use]
    pub fn response_url(&self) -> String {
        format!("http://{}/webhook-response", self.ingress.address)
    }

    /// The processes that make a whole gateway on these engines.
    #[must_use]
    pub fn roles(&self) -> &'static [Role] {
        match self.plan.engines {
            Engines::Embedded => &[Role::All],
            Engines::Servers { .. } => &[
                Role::Ingress,
                Role::Dispatcher,
                Role::Forwarder,
                Role::Recorder,
            ],
        }
    }

    /// Starts a process and waits until it is ready.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub async fn start(&mut self, role: Role) -> anyhow::Result<()> {
        if let Engines::Servers { store, .. } = &self.plan.engines
            && !self.has_collections
        {
            make_collections(store, &self.plan.name).await?;
            self.has_collections = true;
        }
        let process = Process::start(self.program(role)?).await?;
        self.processes.insert(role, process);
        Ok(())
    }

    /// Starts the processes of a whole gateway that do not run yet.
    ///
    /// # Errors
    /// As [`Stack::start`].
    pub async fn start_all(&mut self) -> anyhow::Result<()> {
        for &role in self.roles() {
            if !self.processes.contains_key(&role) {
                self.start(role).await?;
            }
        }
        Ok(())
    }

    /// A process of this stack.
    ///
    /// # Errors
    /// If it was not started.
    pub fn process(&mut self, role: Role) -> anyhow::Result<&mut Process> {
        self.processes
            .get_mut(&role)
            .with_context(|| format!("{role} was not started"))
    }

    /// Drains one process and ends it.
    ///
    /// # Errors
    /// If it does not end by itself, or not with success.
    pub async fn stop(&mut self, role: Role) -> anyhow::Result<()> {
        if let Some(mut process) = self.processes.remove(&role) {
            let status = process.stop(STOP_LIMIT).await?;
            ensure!(
                status.success(),
                "{role} ended with {status}\n{}",
                process.tail()
            );
        }
        Ok(())
    }

    /// Drains and stops every process, and searches logs and responses for secrets.
    ///
    /// # Errors
    /// As [`Stack::stop`]; if a secret was found.
    pub async fn stop_all(&mut self) -> anyhow::Result<()> {
        let running: Vec<Role> = self.processes.keys().copied().collect();
        for role in running {
            self.stop(role).await?;
        }
        let folder = &self.plan.folder;
        let names: Vec<_> = self.roles().iter().map(|role| file_name(*role)).collect();
        let names = names.iter().map(String::as_str);
        // One that was never started has none.
        let logs = names.filter(|name| folder.join(format!("{name}.log")).exists());
        self.audit().check(folder, logs)
    }

    /// Removes its data from the servers after it is stopped.
    ///
    /// # Errors
    /// If a server does not answer.
    pub async fn remove(self) -> anyhow::Result<()> {
        if let Engines::Servers { broker, store } = &self.plan.engines {
            let test_namespace = TestNamespace {
                name: self.plan.name.clone(),
                broker: broker.parse()?,
                store: store.parse()?,
            };
            test_namespace.remove().await?;
        }
        Ok(())
    }

    /// The resources that every running process has used since its start.
    ///
    /// # Errors
    /// If one has ended by itself.
    pub fn usage(&self) -> anyhow::Result<BTreeMap<Role, Usage>> {
        self.processes
            .iter()
            .map(|(&role, process)| Ok((role, process.usage()?)))
            .collect()
    }

    /// Registers so many channels at these endpoints, in turn, and returns their ids.
    ///
    /// # Errors
    /// If a channel is refused.
    pub async fn register(
        &self,
        channels: usize,
        endpoints: &[String],
    ) -> anyhow::Result<Vec<String>> {
        let endpoints = endpoints.iter().cycle().take(channels).enumerate();
        try_join_all(endpoints.map(async |(number, endpoint_url)| {
            let id = format!("channel-{number}");
            let body = json!({
                "channel_id": id,
                "channel_name": "A counting channel",
                "channel_metadata": {"endpoint_url": endpoint_url},
            });
            let mut connection = Connection::open(&self.ingress).await?;
            let (status, answer) = connection.post("/channel", body.to_string().into()).await?;
            ensure!(
                status == StatusCode::CREATED,
                "the channel was met with {status}: {}",
                String::from_utf8_lossy(&answer)
            );
            Ok(id)
        }))
        .await
    }

    fn program(&self, role: Role) -> anyhow::Result<Program> {
        let operations = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let (broker, store) = match &self.plan.engines {
            Engines::Embedded => ("sqlite:broker.db", "sqlite:store.db"),
            Engines::Servers { broker, store } => (broker.as_str(), store.as_str()),
        };
        let own = [
            ("BROKER_URL", broker.to_owned()),
            ("STORE_URL", store.to_owned()),
            ("SESSIONS_SERVER", self.plan.sessions_server.clone()),
            ("CALLBACK_SECRET", CALLBACK_SECRET.to_owned()),
            (
                "ROUNDTRIP__INGRESS__LISTEN",
                self.ingress.address.to_string(),
            ),
            ("ROUNDTRIP__OPERATIONS__LISTEN", operations.to_string()),
            ("ROUNDTRIP__BROKER__NAMESPACE", self.plan.name.clone()),
            ("ROUNDTRIP__STORE__DATABASE", self.plan.name.clone()),
        ];
        let mut args = vec!["serve".to_owned()];
        if role != Role::All {
            args.extend(["--role".to_owned(), role.to_string()]);
        }
        Ok(Program {
            name: file_name(role),
            path: self.plan.binary.clone(),
            args,
            env: own
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .chain(self.plan.env.iter().cloned())
                .collect(),
            folder: self.plan.folder.clone(),
            operations,
            audit: self.audit().clone(),
        })
    }
}

/// The name of a role's process and its log.
fn file_name(role: Role) -> String {
    role.to_string().replace(' ', "-")
}
