//! The processes of a gateway as its operator runs it: one process on the embedded engines, or a
//! process for each role on RabbitMQ and MongoDB. Everything that starts a gateway starts it here.
//!
//! Invariant: every stack has its own ports, folder, namespace and database, so stacks on one
//! server never affect each other.

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use hyper::StatusCode;
use roundtrip_broker::{SharedBroker, Status};
use roundtrip_model::SystemClock;
use roundtrip_store::SharedStore;
use serde_json::json;

use crate::{
    audit::Audit,
    collections::make_collections,
    http::{Connection, Peer},
    loader::{BodyShape, Load},
    process::{Process, Program, free_port},
    procfs::Usage,
    tally::Tally,
    test_namespace::TestNamespace,
    wait,
};

/// The secret of the tokens in response URLs: the dispatcher signs them, the ingress verifies them.
pub const CALLBACK_SECRET: &str = "the-tests'-own-secret-of-32-bytes-or-more";

/// The time limit on the drain and exit of a process.
pub(crate) const STOP_LIMIT: Duration = Duration::from_mins(1);

/// The usual size of a posted body, and the usual number of concurrent posts.
const BODY_BYTES: usize = 400;
pub(crate) const IN_FLIGHT: usize = 32;

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
    /// A further dispatcher, which no stack starts by itself.
    SecondDispatcher,
    /// Forwards answers to the sessions server.
    Forwarder,
    /// Writes the journal and dead letters to the store, and runs replays.
    Recorder,
}

impl Role {
    /// The name of its process and its log.
    pub(crate) const fn process_name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Ingress => "ingress",
            Self::Dispatcher => "dispatcher",
            Self::SecondDispatcher => "second-dispatcher",
            Self::Forwarder => "forwarder",
            Self::Recorder => "recorder",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.process_name())
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
    /// Empty for the development inbox.
    pub sessions_server: String,
    /// Further environment for every process; the last value of a name counts.
    pub env: Vec<(String, String)>,
}

impl Plan {
    /// Its namespace on the servers.
    pub fn test_namespace(&self) -> anyhow::Result<TestNamespace> {
        let Engines::Servers { broker, store } = &self.engines else {
            anyhow::bail!("the embedded engines have no servers");
        };
        let servers = TestNamespace::nameless(broker, store)?;
        Ok(TestNamespace {
            name: self.name.clone(),
            ..servers
        })
    }
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

    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The address of the HTTP API; the same after a restart.
    pub fn ingress(&self) -> Peer {
        self.ingress.clone()
    }

    /// The audit of its processes' logs and their responses.
    pub const fn audit(&self) -> &Audit {
        &self.ingress.audit
    }

    /// The URL of a path of the API.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.ingress.address)
    }

    /// The gateway's own response URL.
    pub fn response_url(&self) -> String {
        self.url("/webhook-response")
    }

    /// The processes that make a whole gateway on these engines.
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

    /// The processes that were started, including those that were stopped since.
    pub fn started(&self) -> Vec<Role> {
        self.processes.keys().copied().collect()
    }

    /// Makes the store's collections, once.
    pub async fn make_collections(&mut self) -> anyhow::Result<()> {
        if let Engines::Servers { store, .. } = &self.plan.engines
            && !self.has_collections
        {
            make_collections(store, &self.plan.name).await?;
            self.has_collections = true;
        }
        Ok(())
    }

    /// Starts a process (again) and does not wait until it is ready.
    pub fn launch(&mut self, role: Role) -> anyhow::Result<()> {
        if !self.processes.contains_key(&role) {
            let process = Process::new(self.program(role)?)?;
            self.processes.insert(role, process);
        }
        self.process(role)?.launch()
    }

    /// Starts a process (again) and waits until it is ready.
    pub async fn start(&mut self, role: Role) -> anyhow::Result<()> {
        self.make_collections().await?;
        self.launch(role)?;
        self.process(role)?.ready().await
    }

    /// Starts the processes of a whole gateway that do not run yet.
    pub async fn start_all(&mut self) -> anyhow::Result<()> {
        let runs = |stack: &Self, role| {
            let process = stack.processes.get(&role);
            process.is_some_and(Process::is_started)
        };
        for (number, &role) in self.roles().iter().enumerate() {
            // The first declares the queues, so the others wait less for each other.
            match number {
                _ if runs(self, role) => {}
                0 => self.start(role).await?,
                _ => self.launch(role)?,
            }
        }
        let started = self.processes.values_mut();
        let started = started.filter(|process| process.is_started());
        try_join_all(started.map(Process::ready)).await?;
        Ok(())
    }

    /// The process that has this role: its own, or the one that has all.
    pub fn process(&mut self, role: Role) -> anyhow::Result<&mut Process> {
        let name = self.having(role);
        let process = self.processes.get_mut(&name);
        process.with_context(|| format!("{role} was not started"))
    }

    fn having(&self, role: Role) -> Role {
        if self.processes.contains_key(&role) {
            role
        } else {
            Role::All
        }
    }

    /// All that the process with this role has logged.
    pub fn log(&self, role: Role) -> anyhow::Result<String> {
        let name = self.having(role).process_name();
        let path = self.plan.folder.join(format!("{name}.log"));
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// Drains the process with this role and ends it.
    pub async fn stop(&mut self, role: Role) -> anyhow::Result<()> {
        let process = self.process(role)?;
        let status = process.stop(STOP_LIMIT).await?;
        ensure!(
            status.success(),
            "{role} ended with {status}\n{}",
            process.tail()
        );
        Ok(())
    }

    /// Drains and stops every process, and searches logs and responses for secrets.
    pub async fn stop_all(&mut self) -> anyhow::Result<()> {
        for role in self.started() {
            if self.process(role)?.is_started() {
                self.stop(role).await?;
            }
        }
        let names = self.processes.keys().map(|role| role.process_name());
        self.audit().check(&self.plan.folder, names)
    }

    /// The ends of its processes' logs, for an error that a human reads.
    pub fn tails(&self) -> impl Iterator<Item = (Role, String)> {
        let processes = self.processes.iter();
        processes.map(|(role, process)| (*role, process.tail()))
    }

    /// Removes its data from the servers after it is stopped.
    pub async fn remove(&self) -> anyhow::Result<()> {
        match self.plan.engines {
            Engines::Embedded => Ok(()),
            Engines::Servers { .. } => self.plan.test_namespace()?.remove().await,
        }
    }

    /// Opens its broker in this process, past any proxy. The embedded broker's file belongs to one
    /// process at a time, so stop the stack first.
    pub async fn open_broker(&self) -> anyhow::Result<SharedBroker> {
        let config = roundtrip_broker::Config {
            url: match &self.plan.engines {
                Engines::Embedded => self.file("broker.db"),
                Engines::Servers { broker, .. } => broker.clone(),
            },
            namespace: self.plan.name.clone(),
            ..roundtrip_broker::Config::default()
        };
        let broker = roundtrip_broker::open(&config, Arc::new(SystemClock)).await?;
        wait::until("the broker", async || {
            (broker.status() == Status::Ready).then_some(())
        })
        .await?;
        Ok(broker)
    }

    /// Opens its store in this process, past any proxy.
    pub async fn open_store(&self) -> anyhow::Result<SharedStore> {
        let config = roundtrip_store::Config {
            url: match &self.plan.engines {
                Engines::Embedded => self.file("store.db"),
                Engines::Servers { store, .. } => store.clone(),
            },
            database: self.plan.name.clone(),
            ..roundtrip_store::Config::default()
        };
        Ok(roundtrip_store::open(&config).await?)
    }

    fn file(&self, name: &str) -> String {
        format!("sqlite:{}", self.plan.folder.join(name).display())
    }

    /// The resources that every running process has used since its start. Fails if a process has
    /// ended by itself.
    pub fn usage(&self) -> anyhow::Result<BTreeMap<Role, Usage>> {
        let processes = self.processes.iter();
        processes
            .filter(|(_, process)| process.is_started())
            .map(|(&role, process)| Ok((role, process.usage()?)))
            .collect()
    }

    /// Registers so many channels at these endpoints, in turn, and returns their ids.
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

    /// A load of a run's messages for these channels.
    pub fn load(&self, tally: &Arc<Tally>, channels: &[String], limit: Duration) -> Load {
        Load {
            address: self.ingress(),
            path: "/channel/message",
            tally: Arc::clone(tally),
            body: BodyShape {
                channels: channels.to_vec(),
                response_url: self.response_url(),
                fields: String::new(),
                bytes: BODY_BYTES,
            },
            in_flight: IN_FLIGHT,
            limit,
        }
    }

    pub(crate) fn program(&self, role: Role) -> anyhow::Result<Program> {
        let operations = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let (broker, store) = match &self.plan.engines {
            Engines::Embedded => ("sqlite:broker.db", "sqlite:store.db"),
            Engines::Servers { broker, store } => (broker.as_str(), store.as_str()),
        };
        let own = [
            ("BROKER_URL", broker.to_owned()),
            ("STORE_URL", store.to_owned()),
            ("CALLBACK_SECRET", CALLBACK_SECRET.to_owned()),
            ("SESSIONS_SERVER", self.plan.sessions_server.clone()),
            ("ROUNDTRIP__PUBLIC_URL", self.url("")),
            (
                "ROUNDTRIP__INGRESS__LISTEN",
                self.ingress.address.to_string(),
            ),
            ("ROUNDTRIP__OPERATIONS__LISTEN", operations.to_string()),
            ("ROUNDTRIP__BROKER__NAMESPACE", self.plan.name.clone()),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value));
        let mut env: BTreeMap<_, _> = own.into_iter().collect();
        if matches!(self.plan.engines, Engines::Servers { .. }) {
            let name = "ROUNDTRIP__STORE__DATABASE".to_owned();
            env.insert(name, self.plan.name.clone());
        }
        env.extend(self.plan.env.clone());
        let args = match role {
            Role::All => "serve",
            Role::Ingress => "serve --role ingress",
            Role::Dispatcher | Role::SecondDispatcher => "serve --role dispatcher",
            Role::Forwarder => "serve --role forwarder",
            Role::Recorder => "serve --role recorder",
        };
        Ok(Program {
            name: role.to_string(),
            path: self.plan.binary.clone(),
            args: args.split(' ').map(str::to_owned).collect(),
            env: env.into_iter().collect(),
            folder: self.plan.folder.clone(),
            operations,
            audit: self.audit().clone(),
        })
    }
}
