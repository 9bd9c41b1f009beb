//! Names as the system is configured to resolve them: `/etc/hosts`, then the nameservers of
//! `/etc/resolv.conf` with its search domains and options. The modules of `/etc/nsswitch.conf` are
//! not used, because calling them blocks.
//!
//! Invariant: a change of either file is applied within [`LOOK_AGAIN`]; containers and VPN clients
//! change them under a running process. If a file cannot be read, its last content stays in effect.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use hickory_resolver::{
    Hosts, TokioResolver,
    config::{NameServerConfig, ResolverConfig, ResolverOpts},
    lookup::Lookup,
    net::NetError,
    proto::{
        op::Query,
        rr::{IntoName, RecordType},
    },
    system_conf::read_system_conf,
};
use parking_lot::Mutex;
use tokio::{task::spawn_blocking, time::Instant};

use super::asking;

/// How long the files are assumed unchanged.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";

/// Further nameservers are ignored, as by the system's own resolver (resolv.conf(5)).
const MAX_SERVERS: usize = 3;

/// Minimum time for a question, even with `options timeout:0`.
const SHORTEST_QUESTION: Duration = Duration::from_secs(1);

pub(super) struct Machine(Mutex<State>);

struct State {
    known: Arc<SystemFiles>,
    looked: Instant,
}

struct SystemFiles {
    files: Files,
    hosts: Hosts,
    resolver: TokioResolver,
}

/// The files' bytes; empty if a file is missing.
#[derive(PartialEq, Eq)]
struct Files {
    resolv_conf: Vec<u8>,
    hosts: Vec<u8>,
}

impl Machine {
    pub(super) fn read() -> Result<Self, NetError> {
        Ok(Self(Mutex::new(State {
            known: Arc::new(SystemFiles::of(Files::read())?),
            looked: Instant::now(),
        })))
    }

    pub(super) async fn look_up(&self, host: &str) -> Result<Vec<IpAddr>, NetError> {
        self.known().await.look_up(host).await
    }

    async fn known(&self) -> Arc<SystemFiles> {
        let known = {
            let mut state = self.0.lock();
            let known = Arc::clone(&state.known);
            if state.looked.elapsed() < LOOK_AGAIN {
                return known;
            }
            // One caller checks the files; the others use the current state.
            state.looked = Instant::now();
            known
        };
        let before = Arc::clone(&known);
        let read = spawn_blocking(move || {
            let files = Files::read();
            (files != before.files).then(|| SystemFiles::of(files))
        });
        match read.await {
            Ok(Some(Ok(changed))) => {
                tracing::info!("the machine's resolver settings have changed");
                let changed = Arc::new(changed);
                self.0.lock().known = Arc::clone(&changed);
                changed
            }
            Ok(Some(Err(error))) => {
                tracing::warn!(%error, "the machine's resolver settings cannot be used");
                known
            }
            // The files are unchanged, or the process is ending.
            Ok(None) | Err(_) => known,
        }
    }
}

impl Files {
    fn read() -> Self {
        Self {
            resolv_conf: fs::read(RESOLV_CONF).unwrap_or_default(),
            hosts: fs::read(HOSTS).unwrap_or_default(),
        }
    }
}

impl SystemFiles {
    fn of(files: Files) -> Result<Self, NetError> {
        let (config, options) = match read_system_conf() {
            Ok((config, options)) => as_the_system_does(&config, options),
            Err(error) => {
                tracing::warn!(%error, "no nameserver is configured; the one on this machine is \
                                        used");
                let own = NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into());
                let config = ResolverConfig::from_name_servers(vec![own]);
                as_the_system_does(&config, ResolverOpts::default())
            }
        };
        Ok(Self {
            hosts: hosts(&files.hosts),
            files,
            resolver: asking(config, options)?,
        })
    }

    async fn look_up(&self, host: &str) -> Result<Vec<IpAddr>, NetError> {
        let listed = listed(&self.hosts, host);
        if !listed.is_empty() {
            return Ok(listed);
        }
        Ok(self.resolver.lookup_ip(host).await?.iter().collect())
    }
}

fn hosts(text: &[u8]) -> Hosts {
    let mut hosts = Hosts::default();
    if let Err(error) = hosts.read_hosts_conf(text) {
        tracing::warn!(%error, "a part of {HOSTS} cannot be read");
    }
    hosts
}

/// The entries of `/etc/hosts` for a name. If there are any, DNS is not asked, even for the other
/// address family: the operator means the name to resolve only there.
fn listed(hosts: &Hosts, host: &str) -> Vec<IpAddr> {
    let Ok(name) = host.into_name() else {
        return Vec::new();
    };
    let mut addresses = Vec::new();
    for kind in [RecordType::A, RecordType::AAAA] {
        let found = hosts.lookup_static_host(&Query::query(name.clone(), kind));
        let records = found.iter().flat_map(Lookup::answers);
        addresses.extend(records.filter_map(|record| record.data.ip_addr()));
    }
    addresses
}

/// Applies the settings as the system's own resolver does.
fn as_the_system_does(
    config: &ResolverConfig,
    mut options: ResolverOpts,
) -> (ResolverConfig, ResolverOpts) {
    let mut servers = config.name_servers().to_vec();
    servers.truncate(MAX_SERVERS);
    // A dead server would use up a question's time if the servers were asked in turn, so all are
    // asked at once. The answer of a server that lacks a name must then not be final.
    options.num_concurrent_reqs = servers.len();
    for server in &mut servers {
        server.trust_negative_responses = config.name_servers().len() == 1;
    }
    options.timeout = options.timeout.max(SHORTEST_QUESTION);
    // The system's count includes the first attempt.
    options.attempts = options.attempts.saturating_sub(1);
    // The machine's own domain is searched only if no search list is set.
    let domain = config.domain().filter(|_| config.search().is_empty());
    let search = config.search().to_vec();
    let config = ResolverConfig::from_parts(domain.cloned(), search, servers);
    (config, options)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[rstest]
    #[case("localhost", &["127.0.0.1", "::1"])]
    #[case("one.example", &["10.0.0.1"])]
    #[case("ONE.example.", &["10.0.0.1"])]
    #[case("alias", &["10.0.0.1"])]
    #[case("two.example", &["10.0.0.2", "10.0.0.3"])]
    #[case("gone.example", &[])]
    #[case("one.example.org", &[])]
    fn a_listed_name_has_the_addresses_that_are_listed(
        #[case] name: &str,
        #[case] expected: &[&str],
    ) {
        let text = "127.0.0.1 localhost\n::1 localhost ip6-localhost\n# 10.0.0.9 gone.example\n\
            10.0.0.1\tOne.Example alias # and more\nnonsense two.example\n\n\
            10.0.0.2 two.example\n10.0.0.3 two.example\n";
        let hosts = hosts(text.as_bytes());
        assert_eq!(listed(&hosts, name), addresses(expected));
    }

    fn set_up(servers: usize, domain: &str, search: &[&str]) -> ResolverConfig {
        let servers = (1..).take(servers);
        ResolverConfig::from_parts(
            Some(domain.into_name().unwrap()),
            search
                .iter()
                .map(|name| name.into_name().unwrap())
                .collect(),
            servers
                .map(|last| NameServerConfig::udp_and_tcp(Ipv4Addr::new(127, 0, 0, last).into()))
                .collect(),
        )
    }

    #[test]
    fn one_nameservers_denial_does_not_hide_anothers_answer() {
        let config = set_up(5, "corp.example", &[]);
        let (config, options) = as_the_system_does(&config, ResolverOpts::default());
        assert_eq!(config.name_servers().len(), MAX_SERVERS);
        assert_eq!(options.num_concurrent_reqs, MAX_SERVERS);
        let trusts = |server: &NameServerConfig| server.trust_negative_responses;
        assert!(!config.name_servers().iter().any(trusts));
        let (alone, _) = as_the_system_does(&set_up(1, "corp.example", &[]), options);
        assert!(alone.name_servers().iter().all(trusts));
    }

    #[test]
    fn search_domains_take_the_place_of_the_machines_own() {
        let searched = |search: &[&str]| {
            let config = set_up(1, "corp.example", search);
            let (config, _) = as_the_system_does(&config, ResolverOpts::default());
            (config.domain().is_some(), config.search().len())
        };
        assert_eq!(searched(&[]), (true, 0));
        assert_eq!(
            searched(&["svc.cluster.local", "cluster.local"]),
            (false, 2)
        );
    }

    #[test]
    fn a_question_has_time_and_as_many_tries_as_are_set() {
        let mut options = ResolverOpts::default();
        options.timeout = Duration::ZERO;
        options.attempts = 2;
        let (_, options) = as_the_system_does(&set_up(1, "corp.example", &[]), options);
        assert_eq!(options.timeout, SHORTEST_QUESTION);
        assert_eq!(options.attempts, 1);
    }
}
