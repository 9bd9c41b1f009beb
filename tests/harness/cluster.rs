//! A cluster of three RabbitMQ nodes, of which a test kills, freezes and restarts some.
//!
//! Invariant: one test at a time has the cluster, and has it whole: every node runs when it begins.

use std::{
    fs::{self, File},
    path::PathBuf,
};

use anyhow::Context;
use futures::future::try_join_all;
use tempfile::TempDir;
use tokio::task::spawn_blocking;

use crate::servers;

/// Names the folder of a cluster that `tests/servers` has started.
const VARIABLE: &str = "TEST_RABBITMQ_CLUSTER";

/// The nodes; each has its own folder.
pub const NODES: [&str; 3] = ["a", "b", "c"];

/// A cluster, for as long as this is held.
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    url: String,
    /// Where the test has made its own.
    own: Option<TempDir>,
    _turn: File,
}

impl Cluster {
    /// The cluster that the environment names, or one of the test's own, as soon as no other test
    /// has it.
    ///
    /// # Errors
    /// If RabbitMQ is not installed, or a node does not start.
    pub async fn take() -> anyhow::Result<Self> {
        let (folder, own) = if let Some(folder) = std::env::var_os(VARIABLE) {
            (PathBuf::from(folder), None)
        } else {
            let own = TempDir::new()?;
            (own.path().to_owned(), Some(own))
        };
        let turn = File::create(folder.join("turn"))?;
        let turn = spawn_blocking(move || turn.lock().map(|()| turn)).await??;
        let mut cluster = Self {
            folder,
            url: String::new(),
            own,
            _turn: turn,
        };
        if cluster.own.is_some() {
            cluster
                .servers(&["start", "rabbitmq-cluster"], None, &["0"])
                .await?;
        } else {
            let down: Vec<&str> = NODES
                .into_iter()
                .filter(|node| !cluster.runs(node))
                .collect();
            cluster.start(&down).await?;
        }
        let ports: anyhow::Result<Vec<String>> = NODES
            .iter()
            .map(|node| Ok(format!("127.0.0.1:{}", cluster.port(node)?)))
            .collect();
        cluster.url = format!("amqp://guest:guest@{}/%2f", ports?.join(","));
        Ok(cluster)
    }

    /// The URL that names every node.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// One node's URL.
    ///
    /// # Errors
    /// If it was never started.
    pub fn node_url(&self, node: &str) -> anyhow::Result<String> {
        Ok(format!(
            "amqp://guest:guest@127.0.0.1:{}/%2f",
            self.port(node)?
        ))
    }

    /// The management API of the first node.
    ///
    /// # Errors
    /// If the node was never started.
    pub fn management_url(&self) -> anyhow::Result<String> {
        let port = self.folder.join(NODES[0]).join("management/port");
        let port = fs::read_to_string(port).context("a node without a management API")?;
        Ok(format!("http://guest:guest@127.0.0.1:{}", port.trim()))
    }

    /// Leaves a queue of the virtual host `/` only the member that leads it, as if it had been
    /// declared before the other nodes joined.
    ///
    /// # Errors
    /// If a node refuses.
    pub async fn remove_followers(&self, queue: &str) -> anyhow::Result<()> {
        let leader = self.leader(queue).await?;
        for node in NODES.into_iter().filter(|node| *node != leader) {
            let call = format!(
                "ok = rabbit_quorum_queue:delete_member(<<\"/\">>, <<\"{queue}\">>, {node}@localhost)."
            );
            self.servers(&["ctl"], Some(leader), &["eval", &call])
                .await?;
        }
        Ok(())
    }

    /// The node that listens on this port.
    #[must_use]
    pub fn node_at(&self, port: u16) -> Option<&'static str> {
        NODES
            .into_iter()
            .find(|node| self.port(node).ok() == Some(port))
    }

    fn port(&self, node: &str) -> anyhow::Result<u16> {
        let port = fs::read_to_string(self.folder.join(node).join("port"));
        Ok(port.context("a node without a port")?.trim().parse()?)
    }

    fn runs(&self, node: &str) -> bool {
        self.folder.join(node).join("session").exists()
            || self.folder.join(node).join("container").exists()
    }

    /// Kills nodes as a crash would.
    ///
    /// # Errors
    /// If the command fails.
    pub async fn kill(&self, nodes: &[&str]) -> anyhow::Result<()> {
        self.each(nodes, &["kill"], &[]).await
    }

    /// Starts nodes again, and waits until they answer.
    ///
    /// # Errors
    /// If one does not.
    pub async fn start(&self, nodes: &[&str]) -> anyhow::Result<()> {
        self.each(nodes, &["start", "rabbitmq"], &["0"]).await
    }

    /// Stops a node's processes where they are; its connections stay.
    ///
    /// # Errors
    /// If the command fails.
    pub async fn freeze(&self, node: &str) -> anyhow::Result<()> {
        self.each(&[node], &["freeze"], &[]).await
    }

    /// Ends a freeze.
    ///
    /// # Errors
    /// If the command fails.
    pub async fn thaw(&self, node: &str) -> anyhow::Result<()> {
        self.each(&[node], &["continue"], &[]).await
    }

    /// The node on which a queue's leader is.
    ///
    /// # Errors
    /// If the queue is not there, or no node answers.
    pub async fn leader(&self, queue: &str) -> anyhow::Result<&'static str> {
        let node = NODES
            .into_iter()
            .find(|node| self.runs(node))
            .context("a node")?;
        let columns = ["list_queues", "--silent", "name", "leader"];
        let listed = self.servers(&["ctl"], Some(node), &columns).await?;
        listed
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .find(|(name, _)| *name == queue)
            .and_then(|(_, leader)| {
                NODES
                    .into_iter()
                    .find(|node| leader.split('@').any(|part| part == *node))
            })
            .with_context(|| format!("the leader of {queue}"))
    }

    async fn each(&self, nodes: &[&str], verbs: &[&str], rest: &[&str]) -> anyhow::Result<()> {
        let all = nodes
            .iter()
            .map(|node| self.servers(verbs, Some(node), rest));
        try_join_all(all).await?;
        Ok(())
    }

    async fn servers(
        &self,
        verbs: &[&str],
        node: Option<&str>,
        rest: &[&str],
    ) -> anyhow::Result<String> {
        let folder = node.map_or_else(|| self.folder.clone(), |node| self.folder.join(node));
        let mut command = servers::command(verbs, &folder);
        command.args(rest);
        spawn_blocking(|| servers::run(command)).await?
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.own.is_some() {
            // What is left behind ends with the tests' own folder.
            let _ = servers::run(servers::command(&["kill"], &self.folder));
        }
    }
}
