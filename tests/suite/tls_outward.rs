//! TLS to the operator's own servers: RabbitMQ and MongoDB under a private certificate authority.
//! Each refused connection has a counterpart that differs in one thing and succeeds, so the
//! certificate is the cause.

use std::{error::Error, net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::Context;
use harness::{
    gateway::{Plan, Setup},
    scripted::Reply,
    servers::Server,
    test_namespace::TestNamespace,
    tls::{Authority, TlsFront},
};
use roundtrip_broker::Status;
use roundtrip_model::SystemClock;
use roundtrip_store::Unavailable;
use tempfile::TempDir;
use uuid::Uuid;

/// RabbitMQ under TLS, and MongoDB behind a TLS proxy. Both are `localhost` under the same
/// authority.
struct UnderTls {
    ca_file: PathBuf,
    mongodb: TlsFront,
    // Before its folder, which is needed to end it: fields drop in this order.
    rabbitmq: Server,
    folder: TempDir,
}

async fn under_tls() -> anyhow::Result<UnderTls> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::new()?;
    let identity = authority.identity("localhost")?;
    Ok(UnderTls {
        ca_file: authority.write(folder.path())?,
        rabbitmq: Server::start_with_tls(&folder.path().join("rabbitmq"), &identity).await?,
        mongodb: TlsFront::start(mongodb_itself().await?, &identity).await?,
        folder,
    })
}

async fn mongodb_itself() -> anyhow::Result<SocketAddr> {
    let url = TestNamespace::fresh()?.store;
    let host = url.host_str().context("a host")?;
    let port = url.port().unwrap_or(27017);
    let mut found = tokio::net::lookup_host((host, port)).await?;
    found.next().context("an address")
}

impl UnderTls {
    /// Another authority's certificate, in a file.
    fn stranger(&self) -> anyhow::Result<PathBuf> {
        let folder = self.folder.path().join("stranger");
        std::fs::create_dir_all(&folder)?;
        Authority::new()?.write(&folder)
    }

    fn amqps(&self, host: &str) -> anyhow::Result<String> {
        let port = self.rabbitmq.tls_port()?;
        Ok(format!("amqps://guest:guest@{host}:{port}/%2f"))
    }

    fn mongodb(&self, host: &str) -> String {
        let port = self.mongodb.port();
        // Without `directConnection` the driver would follow the server's own address, past the
        // proxy.
        format!("mongodb://{host}:{port}/?directConnection=true&tls=true")
    }

    /// What the broker's crate reports for RabbitMQ.
    async fn broker(&self, host: &str, ca_file: Option<PathBuf>) -> anyhow::Result<Status> {
        let config = roundtrip_broker::Config {
            url: self.amqps(host)?,
            ca_file,
            namespace: format!("test-{}", Uuid::now_v7().simple()),
            ..roundtrip_broker::Config::default()
        };
        let broker = roundtrip_broker::open(&config, Arc::new(SystemClock)).await?;
        let status = broker.status();
        broker.close().await;
        Ok(status)
    }

    /// What the store's crate reports for MongoDB.
    async fn store(
        &self,
        host: &str,
        ca_file: Option<PathBuf>,
    ) -> anyhow::Result<Result<(), String>> {
        let config = roundtrip_store::Config {
            url: self.mongodb(host),
            ca_file,
            ..roundtrip_store::Config::default()
        };
        let pinged = roundtrip_store::open(&config).await?.ping().await;
        Ok(pinged.map_err(|error| chain(&error)))
    }
}

/// An error's text, with its sources.
pub(crate) fn chain(error: &Unavailable) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_goes_round_over_rabbitmq_and_mongodb_under_tls() -> anyhow::Result<()> {
    let servers = under_tls().await?;
    let ca_file = servers.ca_file.display();
    let (gateway, channel, sessions) = Plan::new(Setup::Servers)?
        .env("BROKER_URL", servers.amqps("localhost")?)
        .env("ROUNDTRIP__BROKER__CA_FILE", &ca_file)
        .env("STORE_URL", servers.mongodb("localhost"))
        .env("ROUNDTRIP__STORE__CA_FILE", &ca_file)
        .start_with_servers(|_| Reply::answering("1"))
        .await?;
    gateway.send("c", "s").await?;
    let forwards = sessions.taken_at_least(1).await?;
    assert_eq!(forwards[0].field("session_id"), "s");
    gateway.finish(&[&channel, &sessions]).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_prove_itself_is_unavailable() -> anyhow::Result<()> {
    let servers = under_tls().await?;
    let own = || Some(servers.ca_file.clone());

    assert_eq!(servers.broker("localhost", own()).await?, Status::Ready);
    assert_eq!(servers.store("localhost", own()).await?, Ok(()));
    for (why, host, ca_file) in [
        ("another authority", "localhost", Some(servers.stranger()?)),
        ("the public ones", "localhost", None),
        ("another name", "127.0.0.1", own()),
    ] {
        let status = servers.broker(host, ca_file.clone()).await?;
        let Status::Unavailable(reason) = status else {
            anyhow::bail!("RabbitMQ was trusted, and should not by {why}: {status:?}")
        };
        assert!(reason.contains("certificate"), "{why}: {reason}");
        let reason = servers.store(host, ca_file).await?.expect_err(why);
        assert!(reason.contains("certificate"), "{why}: {reason}");
    }
    Ok(())
}
