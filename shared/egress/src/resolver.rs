//! Names, resolved under the rules.
//!
//! Invariant: an address comes out of here only if the guard accepted all of the answer that it
//! was part of. It is not resolved again: whoever connects takes these addresses.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
};
use tokio::net::lookup_host;

use crate::{ConfigError, Guard, Refusal};

/// How long one question to a configured nameserver may take; the post's own limit stands above.
const QUESTION_LIMIT: Duration = Duration::from_secs(2);

/// How many addresses of an answer are tried at most, one after the other. All are vetted.
const MAX_ADDRESSES: usize = 16;

/// Resolves names.
#[derive(Clone)]
pub struct Resolver {
    guard: Arc<Guard>,
    source: Source,
}

#[derive(Clone)]
enum Source {
    /// What the machine is set up with, `/etc/hosts` included.
    System,
    /// Configured nameservers and nothing beside them. Answers are kept as long as they say.
    Servers(Arc<TokioResolver>),
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match self.source {
            Source::System => "system",
            Source::Servers(_) => "nameservers",
        };
        f.debug_struct("Resolver")
            .field("source", &source)
            .finish_non_exhaustive()
    }
}

/// Why a name leads nowhere. What is shown names no address.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The guard refuses the answer. It may be another one later: this is no property of the URL.
    #[error("the host's address is not allowed")]
    Refused(#[source] Refusal),
    /// The system's resolver has none.
    #[error("the host's name could not be resolved")]
    System(#[source] io::Error),
    /// The nameservers have none.
    #[error("the host's name could not be resolved")]
    Servers(#[source] Box<NetError>),
    /// The answer is empty.
    #[error("the host's name has no address")]
    Empty,
}

impl Resolver {
    pub(crate) fn new(guard: Arc<Guard>, nameservers: &[SocketAddr]) -> Result<Self, ConfigError> {
        let source = if nameservers.is_empty() {
            Source::System
        } else {
            let resolver =
                servers(nameservers).map_err(|error| ConfigError::Nameservers(Box::new(error)))?;
            Source::Servers(Arc::new(resolver))
        };
        Ok(Self { guard, source })
    }

    /// The addresses of a host, each of them accepted.
    ///
    /// # Errors
    /// The name has none, or the guard refuses one of them.
    pub async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        let mut addresses = self.look_up(host).await?;
        if let Err(refusal) = self.guard.vet_answer(host, addresses.iter().copied()) {
            // For the operator alone: what a name leads to inside is nobody else's business.
            tracing::warn!(host, ?addresses, ?refusal, "egress.refused");
            return Err(LookupError::Refused(refusal));
        }
        if addresses.is_empty() {
            return Err(LookupError::Empty);
        }
        addresses.truncate(MAX_ADDRESSES);
        Ok(addresses)
    }

    async fn look_up(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        match &self.source {
            Source::System => {
                let found = lookup_host((host, 0)).await.map_err(LookupError::System)?;
                Ok(found.map(|address| address.ip()).collect())
            }
            Source::Servers(resolver) => {
                let found = resolver.lookup_ip(host).await;
                let found = found.map_err(|error| LookupError::Servers(Box::new(error)))?;
                Ok(found.iter().collect())
            }
        }
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
    let provider = TokioRuntimeProvider::default();
    let mut builder = TokioResolver::builder_with_config(config, provider);
    let options = builder.options_mut();
    options.timeout = QUESTION_LIMIT;
    options.attempts = 1;
    // Both, so that the whole answer is vetted and not the half that came first.
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.use_hosts_file = ResolveHosts::Never;
    builder.build()
}
