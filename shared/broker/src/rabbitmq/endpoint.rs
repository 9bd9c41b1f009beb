//! The hosts of RabbitMQ's URL, and the user for them.
//!
//! Invariant: errors and `Display` show only hosts, ports and the virtual host, and only of a URL
//! that parsed. In a malformed URL any part can be the password.

use std::{
    fmt,
    net::{Ipv6Addr, SocketAddr},
    num::NonZeroU16,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use lapin::uri::{AMQPScheme, AMQPUri, AMQPUserInfo};
use parking_lot::Mutex;
use roundtrip_model::{WrongSetting, config::chain};
use roundtrip_tls::Roots;
use tokio::{net::lookup_host, time::timeout};

use super::link_error::LinkError;
use crate::Config;

/// Default heartbeat interval in seconds. A silent server is given up after twice that.
const HEARTBEAT: u16 = 5;

const MAX_HOSTS: usize = 32;

/// Maximum number of addresses that are tried per host name.
const MAX_ADDRESSES: usize = 16;

const LOOKUP_LIMIT: Duration = Duration::from_secs(2);

const OPTIONS: [&str; 5] = [
    "auth_mechanism",
    "channel_max",
    "connection_timeout",
    "frame_max",
    "heartbeat",
];

const MALFORMED: &str = "is malformed; it is \
                         amqp://user:password@host:port,host:port/vhost?heartbeat=5, with the user's \
                         name, the password and the virtual host percent-encoded";
const SEVERAL_URLS: &str = "holds several URLs; several hosts are written as \
                            amqp://user:password@host:port,host:port/vhost";
const NO_HOST: &str = "names no host";
const TOO_MANY_HOSTS: &str = "names more than 32 hosts";
const UNKNOWN_OPTION: &str = "has an unknown option after the question mark; known are \
                              auth_mechanism, channel_max, connection_timeout, frame_max and \
                              heartbeat (a ? in the password is written %3F)";

#[derive(Clone)]
pub(super) struct Endpoint {
    uri: AMQPUri,
    hosts: Arc<[Host]>,
    /// The certificate authorities to trust; the system's if none are set.
    pub(super) roots: Roots,
    /// The candidate to try first. The start value is random, so that many processes spread over
    /// the nodes.
    turn: Arc<AtomicUsize>,
    /// The address that this endpoint connected to last.
    last: Arc<Mutex<Option<SocketAddr>>>,
    /// The same of the endpoint to stay apart from.
    other: Option<Arc<Mutex<Option<SocketAddr>>>>,
}

/// One node, or a name that stands for several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// A name, or an address without brackets.
    pub(super) name: String,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) host: Host,
    pub(super) address: SocketAddr,
}

impl Endpoint {
    pub(super) fn of(config: &Config) -> Result<Self, WrongSetting> {
        let mut endpoint = Self::parse(&config.url)?;
        if let Some(path) = &config.ca_file {
            let management = config.management_url.as_deref().unwrap_or_default();
            if !endpoint.is_tls() && !management.starts_with("https:") {
                let problem = "has no effect: the URL is not amqps://";
                return Err(WrongSetting::new("ca_file", problem));
            }
            let roots = Roots::read(path);
            endpoint.roots = roots.map_err(|error| WrongSetting::new("ca_file", chain(&error)))?;
        }
        Ok(endpoint)
    }

    /// Parses a URL. It is split here, because URL parsers accept only one host.
    fn parse(url: &str) -> Result<Self, WrongSetting> {
        let malformed = || wrong(MALFORMED);
        // A URL from a file often ends in a line break.
        let url = url.trim();
        let (scheme, rest) = url.split_once("://").ok_or_else(malformed)?;
        if rest.contains("://") {
            return Err(wrong(SEVERAL_URLS));
        }
        if rest.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(malformed());
        }
        let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (format!("{user}@"), hosts),
            None => (String::new(), authority),
        };
        let (vhost, _) = tail.split_once('?').unwrap_or((tail, ""));
        let vhost = vhost.strip_prefix('/').unwrap_or(vhost);
        // Unencoded, each of these characters may belong to a password or begin another host.
        if user.matches('@').count() > 1 || vhost.contains(['/', '@', ',', '#']) {
            return Err(malformed());
        }
        // The parser's error may repeat the URL with its password.
        let template = format!("{scheme}://{user}localhost{tail}");
        let parsed = url::Url::parse(&template).map_err(|_| malformed())?;
        let mut uri: AMQPUri = template.parse().map_err(|_| malformed())?;
        if parsed.fragment().is_some() {
            return Err(malformed());
        }
        if parsed
            .query_pairs()
            .any(|(option, _)| !OPTIONS.contains(&&*option))
        {
            return Err(wrong(UNKNOWN_OPTION));
        }
        if uri.vhost.is_empty() {
            // By the AMQP URI specification a trailing slash means the virtual host "", which does
            // not exist.
            "/".clone_into(&mut uri.vhost);
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        let hosts = hosts_of(hosts, uri.scheme.default_port())?;
        Ok(Self {
            uri,
            turn: Arc::new(AtomicUsize::new(rand::random_range(0..hosts.len()))),
            hosts: hosts.into(),
            roots: Roots::default(),
            last: Arc::default(),
            other: None,
        })
    }

    /// The endpoints of the publishing connections: with several hosts two, which prefer different
    /// nodes.
    pub(super) fn to_publish(&self) -> Vec<Self> {
        let [first, second] = [Arc::default(), Arc::default()];
        let endpoint = |last: &Arc<_>, other: Option<&Arc<_>>| Self {
            turn: Arc::new(AtomicUsize::new(self.turn.load(Ordering::Relaxed))),
            last: Arc::clone(last),
            other: other.map(Arc::clone),
            ..self.clone()
        };
        if self.has_several_hosts() {
            vec![
                endpoint(&first, Some(&second)),
                endpoint(&second, Some(&first)),
            ]
        } else {
            vec![endpoint(&first, None)]
        }
    }

    pub(super) fn has_several_hosts(&self) -> bool {
        self.hosts.len() > 1
    }

    pub(super) fn vhost_of(config: &Config) -> String {
        Self::parse(&config.url).map_or_else(|_| "/".to_owned(), |endpoint| endpoint.uri.vhost)
    }

    pub(super) fn vhost(&self) -> &str {
        &self.uri.vhost
    }

    pub(super) fn user(&self) -> &AMQPUserInfo {
        &self.uri.authority.userinfo
    }

    pub(super) fn is_tls(&self) -> bool {
        self.uri.scheme == AMQPScheme::AMQPS
    }

    pub(super) fn connection_timeout(&self) -> Option<Duration> {
        self.uri.query.connection_timeout.map(Duration::from_millis)
    }

    pub(super) fn uri(&self, host: &Host) -> AMQPUri {
        let mut uri = self.uri.clone();
        uri.authority.host.clone_from(&host.name);
        uri.authority.port = host.port;
        uri
    }

    /// Every address of every host, in turn, and the hosts that did not resolve.
    pub(super) async fn candidates(&self) -> (Vec<Candidate>, Vec<(String, LinkError)>) {
        let (mut candidates, mut failed) = (Vec::new(), Vec::new());
        let looked_up = join_all(self.hosts.iter().map(Host::addresses)).await;
        for (host, addresses) in self.hosts.iter().zip(looked_up) {
            match addresses {
                Ok(addresses) => {
                    candidates.extend(addresses.into_iter().map(|address| Candidate {
                        host: host.clone(),
                        address,
                    }));
                }
                Err(error) => failed.push((host.to_string(), error)),
            }
        }
        if !candidates.is_empty() {
            let turn = self.turn.load(Ordering::Relaxed) % candidates.len();
            candidates.rotate_left(turn);
            let other = self.other.as_ref().and_then(|other| *other.lock());
            if candidates.len() > 1 && Some(candidates[0].address) == other {
                candidates.rotate_left(1);
                self.turn.fetch_add(1, Ordering::Relaxed);
            }
        }
        (candidates, failed)
    }

    /// Makes the next connection start after this candidate: once the connection is lost, another
    /// address is tried first.
    pub(super) fn connected(&self, place: usize, to: SocketAddr) {
        self.turn.fetch_add(place + 1, Ordering::Relaxed);
        *self.last.lock() = Some(to);
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, host) in self.hosts.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            write!(f, "{comma}{host}")?;
        }
        write!(f, " {}", self.uri.vhost)
    }
}

fn wrong(problem: &str) -> WrongSetting {
    WrongSetting::new("url", problem)
}

fn hosts_of(text: &str, default_port: u16) -> Result<Vec<Host>, WrongSetting> {
    if text.is_empty() {
        return Err(wrong(NO_HOST));
    }
    let hosts: Option<Vec<Host>> = text
        .split(',')
        .map(|host| Host::parse(host, default_port))
        .collect();
    match hosts {
        Some(hosts) if hosts.len() > MAX_HOSTS => Err(wrong(TOO_MANY_HOSTS)),
        Some(hosts) => Ok(hosts),
        None => Err(wrong(MALFORMED)),
    }
}

impl Host {
    fn parse(text: &str, default_port: u16) -> Option<Self> {
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']')?;
                let address: Ipv6Addr = address.parse().ok()?;
                let port = match port {
                    "" => None,
                    port => Some(port.strip_prefix(':')?),
                };
                (address.to_string(), port)
            }
            None => match text.split_once(':') {
                Some((name, port)) => (name.to_owned(), Some(port)),
                None => (text.to_owned(), None),
            },
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        if name.is_empty() || !name.chars().all(is_name) {
            return None;
        }
        let port = match port {
            Some(port) => port.parse::<NonZeroU16>().ok()?.get(),
            None => default_port,
        };
        Some(Self { name, port })
    }

    async fn addresses(&self) -> Result<Vec<SocketAddr>, LinkError> {
        let looking = lookup_host((self.name.as_str(), self.port));
        let Ok(found) = timeout(LOOKUP_LIMIT, looking).await else {
            return Err(LinkError::TooSlow {
                what: "looking up the name",
                limit: LOOKUP_LIMIT,
            });
        };
        let found = found.map_err(LinkError::Lookup)?;
        // Sorted, because name servers vary the order of their answers.
        let mut addresses: Vec<SocketAddr> = found.take(MAX_ADDRESSES).collect();
        addresses.sort_unstable();
        addresses.dedup();
        Ok(addresses)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            return write!(f, "[{}]:{}", self.name, self.port);
        }
        write!(f, "{}:{}", self.name, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(url: &str) -> String {
        match Endpoint::parse(url) {
            Ok(endpoint) => endpoint.to_string(),
            Err(error) => format!("refused: {error}"),
        }
    }

    #[test]
    fn an_endpoint_shows_no_password() {
        let shown = shown("amqp://user:secret@mq.example:5673/orders");
        assert_eq!(shown, "mq.example:5673 orders");
    }

    #[test]
    fn a_url_may_name_several_hosts_of_one_user() {
        let endpoint =
            Endpoint::parse("amqp://user:p%40ss@h1:5673,h2,[::1]:5674/orders?heartbeat=7").unwrap();
        assert_eq!(endpoint.to_string(), "h1:5673,h2:5672,[::1]:5674 orders");
        let third = endpoint.uri(&endpoint.hosts[2]);
        assert_eq!(
            (third.authority.host.as_str(), third.authority.port),
            ("::1", 5674)
        );
        assert_eq!(third.authority.userinfo.password, "p@ss");
        assert_eq!(third.query.heartbeat, Some(7));
    }

    #[test]
    fn each_scheme_has_its_port_and_a_trailing_slash_means_the_default_virtual_host() {
        assert_eq!(shown("amqps://mq.example/"), "mq.example:5671 /");
        assert_eq!(
            shown("amqp://[::1],mq.example"),
            "[::1]:5672,mq.example:5672 /"
        );
        assert_eq!(shown("amqp://mq.example/%2F\n"), "mq.example:5672 /");
    }

    #[test]
    fn an_unreadable_url_is_refused_without_showing_it() {
        for url in [
            "amqp://a:b@h1:5672/%2f,amqp://a:secret@h2:5672/%2f",
            "amqp://a:b@h1:5672,amqp://a:secret@h2:5672/%2f",
            "amqp://a:b@h1:5672,a:secret@h2:5672/%2f",
            "amqp://a:b@h1:5672/%2f,h2:secret",
            "amqp://a:b@h1:5672/secret/more",
            "amqp://a:12/secret@h1/%2f",
            "amqp://a:12?secret@h1/%2f",
            "amqp://a:12#secret@h1/%2f",
            "amqp://a:se@cret@h1/%2f",
            "amqp://a:secret",
            "amqp://a:secret@h1,/%2f",
            "amqp://a:secret@,h1/%2f",
            "amqp://a:secret@/%2f",
            "amqp:///secret",
            "amqp://a:secret@h1:/%2f",
            "amqp://a:secret@h1:0/%2f",
            "amqp://a:secret@h1:99999/%2f",
            "amqp://a:secret@h1 h2/%2f",
            "amqp://a:secret@[::1/%2f",
            "amqp://a:secret@::1/%2f",
            "amqp://a:secret@h%31/%2f",
            "amqp://host/?heartbeat=secret",
            "amqp://host/?secret=1",
            "amqp://host/%ff-secret",
        ] {
            let text = shown(url);
            assert!(text.starts_with("refused: url "), "{url}: {text}");
            assert!(
                !text.contains("secret") && !text.contains("cret@"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_host_too_many_is_refused() {
        let hosts = vec!["h"; MAX_HOSTS + 1].join(",");
        assert_eq!(
            shown(&format!("amqp://{hosts}/")),
            format!("refused: url {TOO_MANY_HOSTS}")
        );
        assert!(TOO_MANY_HOSTS.contains(&MAX_HOSTS.to_string()));
    }

    #[tokio::test]
    async fn the_next_connection_begins_with_another_candidate() {
        let endpoint = Endpoint::parse("amqp://127.0.0.1,127.0.0.2,127.0.0.3").unwrap();
        let (first, failed) = endpoint.candidates().await;
        assert!(first.len() == 3 && failed.is_empty());
        // The second candidate was connected and lost.
        endpoint.connected(1, first[1].address);
        let (next, _) = endpoint.candidates().await;
        assert_eq!(next[0], first[2]);
        assert_eq!(next[2], first[1]);
    }

    #[tokio::test]
    async fn the_publishing_connections_prefer_different_nodes() {
        let endpoint = Endpoint::parse("amqp://127.0.0.1,127.0.0.2,127.0.0.3").unwrap();
        let endpoints = endpoint.to_publish();
        let mut nodes = [None, None];
        for turn in 0..20 {
            let at = turn * 7 % 5 % 2;
            let next = endpoints[at].candidates().await.0[0].address;
            endpoints[at].connected(0, next);
            nodes[at] = Some(next);
            assert_ne!(nodes[0], nodes[1]);
        }
    }

    #[test]
    fn a_single_host_gets_one_publishing_connection() {
        let endpoint = Endpoint::parse("amqp://127.0.0.1").unwrap();
        assert_eq!(endpoint.to_publish().len(), 1);
    }

    #[tokio::test]
    async fn a_process_begins_with_any_of_the_hosts() {
        let mut begun = std::collections::HashSet::new();
        for _ in 0..200 {
            let endpoint = Endpoint::parse("amqp://127.0.0.1,127.0.0.2,127.0.0.3").unwrap();
            begun.insert(endpoint.candidates().await.0[0].address);
        }
        assert_eq!(begun.len(), 3);
    }

    #[tokio::test]
    async fn an_unresolvable_host_does_not_hide_the_others() {
        let endpoint = Endpoint::parse("amqp://nowhere.invalid,127.0.0.1").unwrap();
        let (candidates, failed) = endpoint.candidates().await;
        assert_eq!(candidates.len(), 1);
        assert_eq!(failed[0].0, "nowhere.invalid:5672");
    }
}
