//! How a test plans its gateway: the setup, and what differs from the defaults.
//!
//! Invariant: every gateway has its own ports, files and namespace, so tests never affect each
//! other.

use std::path::PathBuf;

use anyhow::Context;

use super::{Plan, TestGateway};
use crate::{
    http::plain_client,
    process::gateway_binary,
    proxy::Proxy,
    scripted::{Received, Reply, ScriptedServer},
    stack::{Engines, Stack},
    test_namespace::TestNamespace,
};

/// The key that [`Plan::production`] configures, an operator's.
pub const OPERATOR_KEY: &str = "the-tests'-own-operator-key-of-32-bytes-or-more";

/// A closed port: it is reserved.
const NOWHERE: &str = "http://127.0.0.1:1/";

/// What production requires, without its own keys.
const PRODUCTION: [(&str, &str); 6] = [
    ("ROUNDTRIP__ENVIRONMENT", "production"),
    ("SESSIONS_SERVER", NOWHERE),
    ("OPERATOR_KEY", OPERATOR_KEY),
    (
        "SESSIONS_SECRET",
        "whsec_dGhlLXRlc3RzJy1vd24tc2Vzc2lvbnMtc2VjcmV0LSE=",
    ),
    (
        "ENCRYPTION_KEYS",
        "dGhlLXRlc3RzJy1vd24tZW5jcnlwdGlvbi1rZXktITI=",
    ),
    ("ROUNDTRIP__EGRESS__ALLOW", "127.0.0.0/8"),
];

/// The time limits on server calls: a busy machine's slow server must not count as unavailable.
const SERVER_LIMITS: [(&str, &str, &str); 2] = [
    ("BROKER_URL", "ROUNDTRIP__BROKER__PUBLISH_TIMEOUT", "20s"),
    ("STORE_URL", "ROUNDTRIP__STORE__TIMEOUT", "20s"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// SQLite files, all roles in one process.
    Embedded,
    /// RabbitMQ and MongoDB, a process for each role.
    Servers,
}

impl Plan {
    /// A gateway on this setup, with a namespace of its own. Its folder comes with its start.
    pub fn new(setup: Setup) -> anyhow::Result<Self> {
        let engines = match setup {
            Setup::Embedded => Engines::Embedded,
            Setup::Servers => {
                let servers = TestNamespace::fresh()?;
                return Self::on(servers.engines(), &servers.name);
            }
        };
        Self::on(engines, "test")
    }

    /// A gateway on these engines, with this namespace.
    pub fn on(engines: Engines, name: &str) -> anyhow::Result<Self> {
        Ok(Self {
            binary: gateway_binary()?,
            engines,
            folder: PathBuf::new(),
            name: name.to_owned(),
            sessions_server: String::new(),
            env: Vec::new(),
        })
    }

    /// With this variable in every process's environment.
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    /// With these variables in every process's environment.
    pub fn envs(self, env: &[(&str, &str)]) -> Self {
        env.iter()
            .fold(self, |plan, (name, value)| plan.env(name, value))
    }

    /// With these variables, if they are not set otherwise.
    pub(crate) fn defaults(mut self, defaults: &[(&str, &str)]) -> Self {
        let own = std::mem::take(&mut self.env);
        let mut plan = self.envs(defaults);
        plan.env.extend(own);
        plan
    }

    /// With this `SESSIONS_SERVER`.
    pub fn sessions_server(self, url: impl ToString) -> Self {
        self.env("SESSIONS_SERVER", url)
    }

    /// With this schedule of retries for messages: durations, separated by commas.
    pub fn schedule(self, schedule: &str) -> Self {
        self.env("ROUNDTRIP__DISPATCHER__RETRY__SCHEDULE", schedule)
    }

    /// In the production environment, where every call needs a key. The gateway's own requests
    /// ([`TestGateway::request`] and the methods that use it) send [`OPERATOR_KEY`]. Channels on
    /// this machine are allowed.
    pub fn production(self) -> Self {
        self.defaults(&PRODUCTION)
    }

    /// With a proxy between the gateway and RabbitMQ. The time limit is that of production.
    pub async fn broker_by_proxy(self) -> anyhow::Result<(Self, Proxy)> {
        let (url, proxy) = self.test_namespace()?.broker_by_proxy().await?;
        Ok((self.env("BROKER_URL", url), proxy))
    }

    /// The same for MongoDB.
    pub async fn store_by_proxy(self) -> anyhow::Result<(Self, Proxy)> {
        let (url, proxy) = self.test_namespace()?.store_by_proxy().await?;
        Ok((self.env("STORE_URL", url), proxy))
    }

    /// Starts every process and waits until all are ready. If one is not, the error shows its log's
    /// end.
    pub async fn start(self) -> anyhow::Result<TestGateway> {
        let mut gateway = self.prepare().await?;
        gateway.start_all().await?;
        Ok(gateway)
    }

    /// Starts the process with the ingress alone: no other process consumes the queues. The embedded
    /// broker's one process has every role, so there deliveries and forwards must fail: the test's
    /// channels need closed ports.
    pub async fn start_ingress(self) -> anyhow::Result<TestGateway> {
        let mut gateway = self.sessions_server(NOWHERE).prepare().await?;
        gateway.start(gateway.stack.roles()[0]).await?;
        Ok(gateway)
    }

    /// Starts the gateway, with the channel `c` at a server with this script.
    pub async fn start_with_channel(
        self,
        script: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> anyhow::Result<(TestGateway, ScriptedServer)> {
        let channel = ScriptedServer::start(script).await?;
        let gateway = self.start().await?;
        gateway.register("c", &channel.url()).await?;
        Ok((gateway, channel))
    }

    /// The same, with a sessions server that accepts every answer.
    pub async fn start_with_servers(
        self,
        script: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> anyhow::Result<(TestGateway, ScriptedServer, ScriptedServer)> {
        let sessions = ScriptedServer::start(|_| Reply::ok()).await?;
        let plan = self.sessions_server(sessions.url());
        let (gateway, channel) = plan.start_with_channel(script).await?;
        Ok((gateway, channel, sessions))
    }

    /// Makes all that the processes need, and starts none.
    pub async fn prepare(self) -> anyhow::Result<TestGateway> {
        let folder = tempfile::tempdir().context("making a folder")?;
        let has = |name: &str| self.env.iter().any(|(set, _)| set == name);
        // With a proxy, a test makes a server unavailable; use production's time limit there.
        let direct = SERVER_LIMITS.into_iter().filter(|(url, ..)| !has(url));
        let limits: Vec<_> = direct.map(|(_, name, limit)| (name, limit)).collect();
        let production = |(name, value): &(String, String)| (&**name, &**value) == PRODUCTION[0];
        let in_production = self.env.iter().any(production);
        let mut plan = self.defaults(&limits);
        folder.path().clone_into(&mut plan.folder);
        let mut stack = Stack::new(plan)?;
        stack.make_collections().await?;
        Ok(TestGateway {
            stack,
            folder,
            client: plain_client()?,
            in_production,
            account: std::sync::Mutex::default(),
            finished: false,
        })
    }
}
