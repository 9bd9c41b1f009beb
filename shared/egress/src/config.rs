//! The section `egress` of the configuration.
//!
//! Invariant: an invalid rule is refused at the start, by its key and its entry's number. A
//! mistyped rule must never be ignored.

use std::{net::SocketAddr, path::PathBuf};

use roundtrip_tls::{Roots, RootsError};
use serde::{Deserialize, Serialize};

use crate::{
    Guard,
    pattern::Patterns,
    ports::{self, Ports},
};

/// Default of [`Config::ports`]: the two of HTTP, and the unprivileged ones.
const DEFAULT_PORTS: [&str; 3] = ["80", "443", "1024-65535"];

/// Default of [`Config::refused_ports`]. Services on these ports speak no HTTP, or an HTTP that is
/// internal, or trust every client.
const DEFAULT_REFUSED_PORTS: [u16; 35] = [
    1433, 1521, // SQL Server, Oracle
    2049, // NFS
    2181, // ZooKeeper
    2375, 2376, // Docker
    2379, 2380, // etcd
    3306, // MySQL
    3389, // remote desktop
    4369, // Erlang's port mapper
    5432, // PostgreSQL
    5671, 5672, // AMQP
    5900, // VNC
    5984, // CouchDB
    6379, // Redis
    6443, // Kubernetes
    8500, // Consul
    9042, // Cassandra
    9092, // Kafka
    9200, 9300, // Elasticsearch
    10250, 10255, // kubelet
    11211, // memcached
    15672, 25672, // RabbitMQ's management, and between its nodes
    26379, // Redis Sentinel
    27017, 27018, 27019, // MongoDB
    50051, // gRPC's usual one
    50070, // Hadoop
    61616, // ActiveMQ
];

/// Where the gateway may connect on behalf of a channel's owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses, ranges and host names (`*.example.org` for all names below) that may be connected
    /// to although a built-in rule refuses them.
    pub allow: Vec<String>,
    /// Addresses, ranges and host names that are never connected to; wins over everything else.
    pub deny: Vec<String>,
    /// Whether an endpoint must be https.
    pub https_only: bool,
    /// The ports that an endpoint may have, as `443` or `1024-65535`.
    pub ports: Vec<String>,
    /// Exceptions from `ports`.
    pub refused_ports: Vec<u16>,
    /// The DNS servers for endpoints' names; the system's if empty.
    pub nameservers: Vec<SocketAddr>,
    /// PEM file of certificate authorities that are trusted for https, in addition to the public
    /// ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            deny: Vec::new(),
            https_only: false,
            ports: DEFAULT_PORTS.map(str::to_owned).to_vec(),
            refused_ports: DEFAULT_REFUSED_PORTS.to_vec(),
            nameservers: Vec::new(),
            ca_file: None,
        }
    }
}

/// Whether this machine may be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loopback {
    /// On every port: the development default, whose channels run on the same machine.
    Allowed,
    /// Only if the configuration allows it.
    Refused,
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// An entry of a list.
    #[error("{setting}: {problem}")]
    Entry {
        /// The setting's name within its section.
        setting: &'static str,
        /// The entry's number, and what is wrong with it.
        problem: String,
    },
    #[error("ca_file")]
    Roots(#[from] RootsError),
    /// The nameservers, configured or the system's, cannot be used.
    #[error("nameservers")]
    Nameservers(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Config {
    /// The rules.
    ///
    /// # Errors
    /// Names the entry that cannot be used.
    pub fn guard(&self, loopback: Loopback) -> Result<Guard, ConfigError> {
        let entry = |setting| move |problem| ConfigError::Entry { setting, problem };
        let allow = Patterns::read(&self.allow).map_err(entry("allow"))?;
        let deny = Patterns::read(&self.deny).map_err(entry("deny"))?;
        let range = |(index, text): (usize, &String)| {
            ports::range(text).ok_or_else(|| {
                let number = index + 1;
                format!(
                    "entry {number} is neither a port such as 443 nor a range such as 1024-65535"
                )
            })
        };
        let ranges: Result<Vec<_>, _> = self.ports.iter().enumerate().map(range).collect();
        let ports = Ports {
            ranges: ranges.map_err(entry("ports"))?,
            refused: self.refused_ports.clone(),
        };
        Ok(Guard::new(allow, deny, ports, loopback).https_only(self.https_only))
    }

    /// The certificate authorities of [`Config::ca_file`]; empty by default.
    ///
    /// # Errors
    /// Says what is wrong with the file.
    pub fn roots(&self) -> Result<Roots, ConfigError> {
        Ok(Roots::configured(self.ca_file.as_deref())?)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn refusal(json: &str) -> String {
        let config: Config = serde_json::from_str(json).unwrap();
        let error = crate::Egress::new(&config, Loopback::Refused).unwrap_err();
        error.to_string()
    }

    #[rstest]
    #[case(r#"{"allow": ["example.org", "10.0.0.1/8"]}"#, "allow: entry 2 ")]
    #[case(r#"{"deny": ["*"]}"#, "deny: entry 1 ")]
    #[case(r#"{"ports": ["https"]}"#, "ports: entry 1 ")]
    #[case(r#"{"ca_file": "/nowhere/ca.pem"}"#, "ca_file")]
    fn a_contradictory_rule_is_named(#[case] json: &str, #[case] begins: &str) {
        let problem = refusal(json);
        assert!(problem.starts_with(begins), "{problem}");
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let error = serde_json::from_str::<Config>(r#"{"allowed": []}"#).unwrap_err();
        assert!(error.to_string().contains("allowed"), "{error}");
    }
}
