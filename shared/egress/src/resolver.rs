//! Resolves names under the rules.
//!
//! Invariant: an address is returned only if the guard accepted the whole answer that contains it.
//! It is not resolved again: the connection uses these addresses. A lookup holds no thread, because
//! third parties choose the DNS servers and thus the wait. The system's `getaddrinfo` blocks one of
//! the threads that the files and the store need too.

mod machine;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{
        ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
        ResolverOpts,
    },
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::op::ResponseCode,
};

use crate::{Guard, Refusal};

use machine::Machine;

/// Time limit on one question to a configured nameserver; the post's own limit applies as well.
const QUESTION_LIMIT: Duration = Duration::from_secs(2);

/// The longest time that a negative answer is cached, whatever its zone says, so that a corrected
/// name is soon found.
const MAX_NEGATIVE: Duration = Duration::from_secs(10);

/// Maximum number of an answer's addresses that are tried in turn. All are vetted.
const MAX_ADDRESSES: usize = 16;

#[derive(Clone)]
pub struct Resolver {
    guard: Arc<Guard>,
    source: Source,
}

/// The source of answers. Answers are cached for their TTL, and concurrent lookups of one name
/// share a question.
#[derive(Clone)]
enum Source {
    /// The system's configuration, including `/etc/hosts`.
    Machine(Arc<Machine>),
    Servers(Arc<TokioResolver>),
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match self.source {
            Source::Machine(_) => "machine",
            Source::Servers(_) => "nameservers",
        };
        f.debug_struct("Resolver")
            .field("source", &source)
            .finish_non_exhaustive()
    }
}

/// Why a name did not resolve. The text contains no address, and no name except the host's own: a
/// search domain stays hidden.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The guard refuses the answer. The answer can change, so this is no property of the URL.
    #[error("the host's address is not allowed")]
    Refused(#[source] Refusal),
    #[error("the host's name could not be resolved: {0}")]
    Answered(ResponseCode),
    #[error("the host's name could not be resolved")]
    Failed(#[source] Box<NetError>),
    #[error("the host's name has no address")]
    Empty,
}

impl From<NetError> for LookupError {
    fn from(error: NetError) -> Self {
        let code = match &error {
            NetError::Dns(DnsError::NoRecordsFound(none)) => none.response_code,
            NetError::Dns(DnsError::ResponseCode(code)) => *code,
            _ => return Self::Failed(Box::new(error)),
        };
        match code {
            ResponseCode::NoError => Self::Empty,
            code => Self::Answered(code),
        }
    }
}

impl Resolver {
    pub(crate) fn new(guard: Arc<Guard>, nameservers: &[SocketAddr]) -> Result<Self, NetError> {
        let source = if nameservers.is_empty() {
            Machine::read().map(|machine| Source::Machine(Arc::new(machine)))
        } else {
            servers(nameservers).map(|resolver| Source::Servers(Arc::new(resolver)))
        };
        source.map(|source| Self { guard, source })
    }

    pub async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        let mut addresses = match &self.source {
            Source::Machine(machine) => machine.look_up(host).await?,
            Source::Servers(resolver) => resolver.lookup_ip(host).await?.iter().collect(),
        };
        if let Err(refusal) = self.guard.vet_answer(host, addresses.iter().copied()) {
            // Only logged: the owner of the channel must not learn internal addresses.
            tracing::warn!(host, ?addresses, %refusal, "egress.refused");
            return Err(LookupError::Refused(refusal));
        }
        if addresses.is_empty() {
            return Err(LookupError::Empty);
        }
        addresses.truncate(MAX_ADDRESSES);
        Ok(addresses)
    }
}

fn servers(nameservers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let server = |address: &SocketAddr| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut to| {
            to.port = address.port();
            to
        });
        NameServerConfig::new(address.ip(), true, connections.to_vec())
    };
    let config = ResolverConfig::from_name_servers(nameservers.iter().map(server).collect());
    let mut options = ResolverOpts::default();
    options.timeout = QUESTION_LIMIT;
    options.attempts = 1;
    asking(config, options)
}

/// A resolver that asks these servers and reads no file.
fn asking(config: ResolverConfig, mut options: ResolverOpts) -> Result<TokioResolver, NetError> {
    // Both, so that the whole answer is vetted, not only the half that came first.
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = ResolveHosts::Never;
    options.negative_max_ttl = Some(MAX_NEGATIVE);
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .build()
}

#[cfg(test)]
mod tests;
