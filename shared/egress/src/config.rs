//! The section `egress` of the configuration.
//!
//! Invariant: an invalid rule is refused at the start, by its key and its entry's number. A
//! mistyped rule must never be ignored.

use std::{net::SocketAddr, path::PathBuf};

use roundtrip_model::{Check, WrongSetting, WrongSettings};
use roundtrip_tls::Roots;

use crate::{
    Guard, Loopback,
    pattern::Patterns,
    ports::{self, Ports},
};

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

roundtrip_model::section! {
    #[derive(Debug, Eq)]
    pub struct Config {
        /// Addresses, ranges and host names (`*.example.org` for all names below) that may be
        /// connected to although a built-in rule refuses them.
        allow: Vec<String> = Vec::new();
        /// Addresses, ranges and host names that are never connected to; wins over everything else.
        deny: Vec<String> = Vec::new();
        https_only: bool = false;
        /// The ports that an endpoint may have, as `443` or `1024-65535`. By default the two of HTTP,
        /// and the unprivileged ones.
        ports: Vec<String> = ["80", "443", "1024-65535"].map(str::to_owned).to_vec();
        refused_ports: Vec<u16> = DEFAULT_REFUSED_PORTS.to_vec();
        /// The DNS servers for endpoints' names; the system's if empty.
        nameservers: Vec<SocketAddr> = Vec::new();
        /// PEM file of certificate authorities that are trusted for https, in addition to the public
        /// ones.
        #[serde(skip_serializing_if = "Option::is_none")]
        ca_file: Option<PathBuf> = None;
    }
}

impl Config {
    pub fn check(&self, check: &mut Check) {
        self.rules(Loopback::Refused, check);
        self.roots(check);
    }

    pub fn guard(&self, loopback: Loopback) -> Result<Guard, WrongSettings> {
        let mut check = Check::of("egress");
        let guard = self.rules(loopback, &mut check);
        check.end_with(guard)
    }

    pub(crate) fn rules(&self, loopback: Loopback, check: &mut Check) -> Option<Guard> {
        self.check_bounds(check);
        let wrong = |key| move |problem: String| WrongSetting::new(key, problem);
        let allow = check.take(Patterns::read(&self.allow).map_err(wrong("allow")));
        let deny = check.take(Patterns::read(&self.deny).map_err(wrong("deny")));
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
            ranges: check.take(ranges.map_err(wrong("ports")))?,
            refused: self.refused_ports.clone(),
        };
        Some(Guard::new(allow?, deny?, ports, loopback).https_only(self.https_only))
    }

    /// The certificate authorities of [`Config::ca_file`]; empty by default.
    pub(crate) fn roots(&self, check: &mut Check) -> Option<Roots> {
        check.value("ca_file", Roots::configured(self.ca_file.as_deref()))
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
    #[case(r#"{"allow": ["example.org", "10.0.0.1/8"]}"#, "egress.allow entry 2 ")]
    #[case(r#"{"deny": ["*"]}"#, "egress.deny entry 1 ")]
    #[case(r#"{"ports": ["https"]}"#, "egress.ports entry 1 ")]
    #[case(r#"{"ca_file": "/nowhere/ca.pem"}"#, "egress.ca_file cannot be read")]
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
