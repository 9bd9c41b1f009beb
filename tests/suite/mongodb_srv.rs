//! `mongodb+srv://`: the DNS names the MongoDB hosts and the replica set, and TLS is on by default.
//! The driver uses the machine's resolver only, so each case runs in its own network namespace with
//! a nameserver of the test.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use anyhow::Context;
use bson::doc;
use harness::{
    apart::{self, NAMESERVER, PassedValues, WayOut},
    collections::make_collections,
    dns::{NameServer, Record},
    gateway::{Plan, Setup},
    scripted::Reply,
    test_namespace::TestNamespace,
    tls::{Authority, TlsFront},
};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::tls_outward::chain;

/// The name in the URL, and the host that the DNS gives for it, which must be in the same domain.
const CLUSTER: &str = "cluster.roundtrip.example";
const NODE: &str = "node.roundtrip.example";
/// The same host, but the DNS names another replica set.
const OTHER_SET: &str = "other-set.roundtrip.example";
/// The same host, under a name that its certificate lacks.
const MISNAMED: &str = "misnamed.roundtrip.example";
const UNPROVEN: &str = "unproven.roundtrip.example";
/// The same host, in another domain than the name's.
const ASTRAY: &str = "astray.roundtrip.example";
const UNKNOWN: &str = "unknown.roundtrip.example";
const FOREIGN: &str = "node.elsewhere.example";

/// The address of everything in the namespace.
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The tests' MongoDB.
#[derive(Debug, Serialize, Deserialize)]
struct Member {
    /// The host name that it announces, which the driver connects to.
    host: String,
    port: u16,
    set: Option<String>,
    /// A database for this test.
    database: String,
}

/// The servers within the namespace: DNS, certificates, and a proxy to MongoDB.
struct Cluster {
    member: Member,
    authority: Authority,
    folder: TempDir,
    _dns: NameServer,
    _front: TlsFront,
    _way_out: WayOut,
}

/// Runs a case in a network namespace with the tests' MongoDB.
async fn run_apart(test_namespace: &TestNamespace, case: &str) -> anyhow::Result<()> {
    let host = test_namespace.store.host_str().context("a host")?;
    let port = test_namespace.store.port().unwrap_or(27017);
    let client = mongodb::Client::with_uri_str(test_namespace.store.as_str()).await?;
    let admin = client.database("admin");
    let hello = admin.run_command(doc! {"hello": 1}).await?;
    let own = hello.get_str("me").ok().and_then(|me| me.rsplit_once(':'));
    let (own_host, own_port) = match own {
        Some((host, port)) => (host.to_owned(), port.parse()?),
        None => (host.to_owned(), port),
    };
    let member = Member {
        host: own_host,
        port: own_port,
        set: hello.get_str("setName").ok().map(str::to_owned),
        database: test_namespace.name.clone(),
    };
    let mut found = tokio::net::lookup_host((host, port)).await?;
    let server = found.next().context("an address")?;
    apart::run_again_with(module_path!(), case, server, member).await
}

async fn cluster(passed: PassedValues<Member>) -> anyhow::Result<Cluster> {
    let way_out = passed.way_out().await?;
    let member = passed.value;
    let folder = tempfile::tempdir()?;
    let authority = Authority::new()?;
    let identity = authority.identity_under(&[NODE, FOREIGN, &member.host])?;
    let front = SocketAddr::new(HERE, member.port);
    let front = TlsFront::start_at(front, way_out.address(), &identity).await?;
    let (host, port, set) = (member.host.clone(), member.port, member.set.clone());
    let dns = NameServer::start_at(NAMESERVER, move |name, _| {
        let of_set = |set: &str| Record::Text(format!("authSource=admin&replicaSet={set}"));
        if let Some(cluster) = name.strip_prefix("_mongodb._tcp.") {
            let node = match cluster {
                CLUSTER | OTHER_SET => NODE,
                MISNAMED => UNPROVEN,
                ASTRAY => FOREIGN,
                _ => return Vec::new(),
            };
            return vec![Record::Service(node.to_owned(), port)];
        }
        match name {
            CLUSTER | MISNAMED | ASTRAY => set.iter().map(|set| of_set(set)).collect(),
            OTHER_SET => vec![of_set("another")],
            NODE | UNPROVEN | FOREIGN => vec![Record::Address(HERE)],
            name if name == host => vec![Record::Address(HERE)],
            _ => Vec::new(),
        }
    })
    .await?;
    Ok(Cluster {
        member,
        authority,
        folder,
        _dns: dns,
        _front: front,
        _way_out: way_out,
    })
}

impl Cluster {
    /// A file with the certificate authority.
    fn ca_file(&self) -> anyhow::Result<PathBuf> {
        self.authority.write(self.folder.path())
    }

    /// A URL with a name and a database only.
    fn url(&self, name: &str) -> String {
        format!("mongodb+srv://{name}/{}", self.member.database)
    }

    /// What the store's crate reports for the cluster of this name.
    async fn ping(
        &self,
        name: &str,
        ca_file: Option<PathBuf>,
    ) -> anyhow::Result<Result<(), String>> {
        let config = roundtrip_store::Config {
            url: self.url(name),
            ca_file,
            ..roundtrip_store::Config::default()
        };
        let pinged = roundtrip_store::open(&config).await?.ping().await;
        Ok(pinged.map_err(|error| chain(&error)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_trip_works_over_a_mongodb_srv_url() -> anyhow::Result<()> {
    let Some(passed) = apart::passed_values()? else {
        let test_namespace = TestNamespace::fresh()?;
        make_collections(test_namespace.store.as_str(), &test_namespace.name).await?;
        let case = "a_round_trip_works_over_a_mongodb_srv_url";
        run_apart(&test_namespace, case).await?;
        let channels = test_namespace.channels().await?;
        let kept = channels.find_one(doc! {"channel_id": "c"}).await?;
        assert!(kept.is_some(), "the DNS led elsewhere");
        return test_namespace.remove().await;
    };
    let cluster = cluster(passed).await?;
    let (gateway, channel, sessions) = Plan::new(Setup::Embedded)?
        .env("STORE_URL", cluster.url(CLUSTER))
        .env("ROUNDTRIP__STORE__CA_FILE", cluster.ca_file()?.display())
        .start_with_servers(|_| Reply::answering("1"))
        .await?;
    gateway.send("c", "s").await?;
    let forwards = sessions.taken_at_least(1).await?;
    assert_eq!(forwards[0].field("session_id"), "s");
    gateway.finish(&[&channel, &sessions]).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_from_the_dns_needs_a_trusted_certificate() -> anyhow::Result<()> {
    let Some(passed) = apart::passed_values()? else {
        let case = "a_server_from_the_dns_needs_a_trusted_certificate";
        return run_apart(&TestNamespace::fresh()?, case).await;
    };
    let cluster = cluster(passed).await?;
    let own = || cluster.ca_file().map(Some);
    let folder = tempfile::tempdir()?;
    let stranger = Some(Authority::new()?.write(folder.path())?);

    assert_eq!(cluster.ping(CLUSTER, own()?).await?, Ok(()));
    for (why, name, ca_file, named) in [
        ("another authority", CLUSTER, stranger, "certificate"),
        ("the public ones", CLUSTER, None, "certificate"),
        ("another name", MISNAMED, own()?, "certificate"),
        ("another set", OTHER_SET, own()?, "none has the role"),
        ("another domain", ASTRAY, own()?, "does not match domain"),
        ("no such name", UNKNOWN, own()?, "no record"),
    ] {
        let reason = cluster.ping(name, ca_file).await?.expect_err(why);
        assert!(reason.contains(named), "{why}: {reason}");
    }
    Ok(())
}
