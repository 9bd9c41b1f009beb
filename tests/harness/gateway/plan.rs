//! The plan of a gateway: its setup, its processes, their environment.
//!
//! Invariant: every gateway has its own ports, files and test_namespace, so tests never affect each
//! other.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use anyhow::Context;

use crate::{
    audit::Audit,
    process::{Program, free_port, gateway_binary},
    test_namespace::TestNamespace,
};

/// The secret of the tokens in response URLs: the dispatcher signs them, the ingress verifies them.
pub const CALLBACK_SECRET: &str = "the-tests'-own-secret-of-32-bytes-or-more";

/// The key that [`Plan::production`] configures, an operator's.
pub const OPERATOR_KEY: &str = "the-tests'-own-operator-key-of-32-bytes-or-more";

/// Further secrets that production needs: one signs forwards, one encrypts channels' secrets.
const SESSIONS_SECRET: &str = "whsec_dGhlLXRlc3RzJy1vd24tc2Vzc2lvbnMtc2VjcmV0LSE=";
const ENCRYPTION_KEY: &str = "dGhlLXRlc3RzJy1vd24tZW5jcnlwdGlvbi1rZXktITI=";

/// A closed port: it is reserved.
const NOWHERE: &str = "http://127.0.0.1:1/";

/// The time limit on server calls: a busy machine's slow server must not count as unavailable.
const SERVER_LIMIT: &str = "20s";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// SQLite files, all roles in one process.
    Embedded,
    /// RabbitMQ and MongoDB, a process for each role.
    Servers,
}

/// A gateway to be started.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(super) setup: Setup,
    dispatchers: usize,
    ingress_only: bool,
    pub(super) in_production: bool,
    pub(super) test_namespace: Option<TestNamespace>,
    env: BTreeMap<String, String>,
}

impl Plan {
    /// A gateway on this setup, with a test_namespace of its own.
    ///
    /// # Errors
    /// If the servers are not there.
    pub fn new(setup: Setup) -> anyhow::Result<Self> {
        Ok(Self {
            setup,
            dispatchers: 1,
            ingress_only: false,
            in_production: false,
            test_namespace: match setup {
                Setup::Embedded => None,
                Setup::Servers => Some(TestNamespace::fresh()?),
            },
            env: BTreeMap::new(),
        })
    }

    /// With this variable in every process's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    /// With this `SESSIONS_SERVER`.
    #[must_use]
    pub fn sessions_server(self, url: impl Into<String>) -> Self {
        self.env("SESSIONS_SERVER", url)
    }

    /// With this schedule of retries for messages: durations, separated by commas.
    #[must_use]
    pub fn schedule(self, schedule: &str) -> Self {
        self.env("ROUNDTRIP__DISPATCHER__RETRY__SCHEDULE", schedule)
    }

    /// With this number of dispatchers, if each role is a process.
    #[must_use]
    pub const fn dispatchers(mut self, count: usize) -> Self {
        self.dispatchers = count;
        self
    }

    /// Without a consumer of the queues: the ingress alone. The embedded broker's one process has
    /// every role, so there deliveries must fail: the test's channels need closed ports.
    #[must_use]
    pub const fn ingress_only(mut self) -> Self {
        self.ingress_only = true;
        self
    }

    /// In the production environment, where every call needs a key. The gateway's own requests
    /// ([`super::TestGateway::request`] and the methods that use it) send [`OPERATOR_KEY`].
    /// Channels on this machine are allowed.
    #[must_use]
    pub fn production(mut self) -> Self {
        self.in_production = true;
        for (name, value) in [
            ("ROUNDTRIP__ENVIRONMENT", "production"),
            ("SESSIONS_SERVER", NOWHERE),
            ("OPERATOR_KEY", OPERATOR_KEY),
            ("SESSIONS_SECRET", SESSIONS_SECRET),
            ("ENCRYPTION_KEYS", ENCRYPTION_KEY),
            ("ROUNDTRIP__EGRESS__ALLOW", "127.0.0.0/8"),
        ] {
            let name = name.to_owned();
            self.env.entry(name).or_insert_with(|| value.to_owned());
        }
        self
    }

    /// The test_namespace, where there are servers.
    ///
    /// # Errors
    /// On the embedded engines.
    pub fn test_namespace(&self) -> anyhow::Result<&TestNamespace> {
        self.test_namespace
            .as_ref()
            .context("this setup has no servers")
    }

    pub(super) fn programs(
        &self,
        folder: &Path,
        ingress: SocketAddr,
        audit: &Audit,
    ) -> anyhow::Result<Vec<Program>> {
        let program = |name: &str, roles: &[&str]| {
            let audit = audit.clone();
            self.program(name, roles, folder, ingress, audit)
        };
        if self.ingress_only && self.setup == Setup::Embedded {
            let mut all = program("ingress", &[])?;
            all.env
                .push(("SESSIONS_SERVER".to_owned(), NOWHERE.to_owned()));
            return Ok(vec![all]);
        }
        let ingress_alone = program("ingress", &["ingress"])?;
        if self.ingress_only {
            return Ok(vec![ingress_alone]);
        }
        if self.setup == Setup::Embedded {
            return Ok(vec![program("all", &[])?]);
        }
        let mut programs = vec![ingress_alone];
        for number in 0..self.dispatchers {
            programs.push(program(&format!("dispatcher-{number}"), &["dispatcher"])?);
        }
        for role in ["forwarder", "recorder"] {
            programs.push(program(role, &[role])?);
        }
        Ok(programs)
    }

    fn program(
        &self,
        name: &str,
        roles: &[&str],
        folder: &Path,
        ingress: SocketAddr,
        audit: Audit,
    ) -> anyhow::Result<Program> {
        let operations = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let mut args = vec!["serve".to_owned()];
        for role in roles {
            args.extend(["--role".to_owned(), (*role).to_owned()]);
        }
        let mut env = BTreeMap::from([
            ("BROKER_URL".to_owned(), self.broker_url(folder)),
            ("ROUNDTRIP__INGRESS__LISTEN".to_owned(), ingress.to_string()),
            (
                "ROUNDTRIP__OPERATIONS__LISTEN".to_owned(),
                operations.to_string(),
            ),
            ("CALLBACK_SECRET".to_owned(), CALLBACK_SECRET.to_owned()),
            (
                "ROUNDTRIP__PUBLIC_URL".to_owned(),
                format!("http://{ingress}"),
            ),
        ]);
        if let Some(test_namespace) = &self.test_namespace {
            let name = &test_namespace.name;
            env.insert("ROUNDTRIP__BROKER__NAMESPACE".to_owned(), name.clone());
        }
        env.extend(self.store_env(folder));
        // With a proxy, a test makes a server unavailable; use production's time limit there.
        for (server, limit) in [
            ("BROKER_URL", "ROUNDTRIP__BROKER__PUBLISH_TIMEOUT"),
            ("STORE_URL", "ROUNDTRIP__STORE__TIMEOUT"),
        ] {
            if !self.env.contains_key(server) {
                env.insert(limit.to_owned(), SERVER_LIMIT.to_owned());
            }
        }
        env.extend(self.env.clone());
        Ok(Program {
            name: name.to_owned(),
            path: gateway_binary()?,
            args,
            env: env.into_iter().collect(),
            folder: folder.to_owned(),
            operations,
            audit,
        })
    }

    pub(super) fn broker_url(&self, folder: &Path) -> String {
        match &self.test_namespace {
            None => format!("sqlite:{}", folder.join("broker.db").display()),
            Some(test_namespace) => test_namespace.broker.to_string(),
        }
    }

    /// What a process needs to come to the store.
    pub(super) fn store_env(&self, folder: &Path) -> Vec<(String, String)> {
        let mut env = vec![("STORE_URL".to_owned(), self.store_url(folder))];
        if let Some(test_namespace) = &self.test_namespace {
            let database = "ROUNDTRIP__STORE__DATABASE".to_owned();
            env.push((database, test_namespace.name.clone()));
        }
        env
    }

    pub(super) fn store_url(&self, folder: &Path) -> String {
        match &self.test_namespace {
            None => format!("sqlite:{}", folder.join("store.db").display()),
            Some(test_namespace) => test_namespace.store.to_string(),
        }
    }
}
