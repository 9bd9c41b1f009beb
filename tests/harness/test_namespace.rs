//! A test's own namespace in RabbitMQ and database in MongoDB, on the shared servers.
//!
//! Invariant: no other test uses it, and [`TestNamespace::remove`] removes all of it.

use anyhow::Context;
use lapin::{
    ConnectionProperties,
    options::{ExchangeDeleteOptions, QueueDeleteOptions},
};
use url::Url;
use uuid::Uuid;

use crate::{proxy::Proxy, stack::Engines};

/// The ports for URLs without a port.
const AMQP_PORT: u16 = 5672;
const MONGODB_PORT: u16 = 27017;

/// How many delay queues the broker has, each twice as long as the one before it.
const DELAYS: u32 = 16;

/// The queues that are neither delay queues nor shards.
const QUEUES: [&str; 9] = [
    "outbound.retry",
    "callbacks",
    "journal",
    "waiting",
    "notices",
    "outbound.dead",
    "callbacks.dead",
    "journal.dead",
    "notices.dead",
];

/// The names of the namespace and the database, and their servers.
#[derive(Debug, Clone)]
pub struct TestNamespace {
    /// The namespace, and the database's name.
    pub name: String,
    pub broker: Url,
    pub store: Url,
}

impl TestNamespace {
    /// A new namespace on the servers that `tests/run` has started.
    pub fn fresh() -> anyhow::Result<Self> {
        Ok(Self {
            name: format!("test-{}", Uuid::now_v7().simple()),
            broker: server_url("TEST_AMQP_URL")?,
            store: server_url("TEST_MONGODB_URL")?,
        })
    }

    /// The servers as a gateway's engines.
    pub fn engines(&self) -> Engines {
        Engines::Servers {
            broker: self.broker.to_string(),
            store: self.store.to_string(),
        }
    }

    /// The servers themselves, without a namespace.
    pub fn nameless(broker: &str, store: &str) -> anyhow::Result<Self> {
        Ok(Self {
            name: String::new(),
            broker: broker.parse()?,
            store: store.parse()?,
        })
    }

    /// RabbitMQ's URL through a new proxy, and the proxy.
    pub async fn broker_by_proxy(&self) -> anyhow::Result<(String, Proxy)> {
        by_proxy(&self.broker, AMQP_PORT).await
    }

    /// MongoDB's URL through a new proxy, and the proxy.
    pub async fn store_by_proxy(&self) -> anyhow::Result<(String, Proxy)> {
        let mut url = self.store.clone();
        if url.path().is_empty() {
            url.set_path("/");
        }
        // The server may report its own address; the driver would then bypass the proxy.
        url.query_pairs_mut()
            .append_pair("directConnection", "true");
        by_proxy(&url, MONGODB_PORT).await
    }

    /// The collection `channels`, as another client of the database sees it.
    pub async fn channels(&self) -> anyhow::Result<mongodb::Collection<bson::Document>> {
        self.collection("channels").await
    }

    /// The same for any collection.
    pub async fn collection(
        &self,
        name: &str,
    ) -> anyhow::Result<mongodb::Collection<bson::Document>> {
        Ok(self.database().await?.collection(name))
    }

    async fn database(&self) -> anyhow::Result<mongodb::Database> {
        let client = mongodb::Client::with_uri_str(self.store.as_str()).await?;
        Ok(client.database(&self.name))
    }

    /// Removes its queues, exchanges and database.
    pub async fn remove(&self) -> anyhow::Result<()> {
        remove_namespace(self.broker.as_str(), &self.name, 1).await?;
        self.remove_database().await
    }

    /// Removes its database alone.
    pub async fn remove_database(&self) -> anyhow::Result<()> {
        Ok(self.database().await?.drop().await?)
    }
}

/// The URL of a server, which this variable names.
pub fn server_url(variable: &str) -> anyhow::Result<Url> {
    let url = std::env::var(variable).with_context(|| {
        format!("{variable} is not set: run tests/run, which starts the servers, or name one there")
    })?;
    url.parse().with_context(|| format!("{variable} is no URL"))
}

/// Removes a namespace's queues and exchanges, with this number of outbound shards.
pub async fn remove_namespace(url: &str, namespace: &str, shards: u16) -> lapin::Result<()> {
    let connection = lapin::Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let delays = || (0..DELAYS).map(|tier| format!("delay.{}s", 1 << tier));
    let shards = (0..shards).map(|shard| format!("outbound.{shard}"));
    let queues = QUEUES.map(str::to_owned).into_iter();
    for end in queues.chain(shards).chain(delays()) {
        let name = format!("{namespace}.{end}").into();
        // A missing queue is not an error.
        let options = QueueDeleteOptions::default();
        channel.queue_delete(name, options).await?;
    }
    for end in std::iter::once("direct".to_owned()).chain(delays()) {
        let name = format!("{namespace}.{end}").into();
        let options = ExchangeDeleteOptions::default();
        channel.exchange_delete(name, options).await?;
    }
    connection.close(200, "done".into()).await
}

async fn by_proxy(url: &Url, usual_port: u16) -> anyhow::Result<(String, Proxy)> {
    let host = url.host_str().context("a URL without a host")?;
    let port = url.port().unwrap_or(usual_port);
    let target = tokio::net::lookup_host((host, port))
        .await?
        .next()
        .context("a host without an address")?;
    let proxy = Proxy::start(target).await?;
    let mut url = url.clone();
    // A URL that has a host takes another one, and a port.
    let _ = url.set_ip_host(proxy.address().ip());
    let _ = url.set_port(Some(proxy.address().port()));
    Ok((url.into(), proxy))
}
