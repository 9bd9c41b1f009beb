//! Where a client may connect, and which certificate authorities it trusts there.

use std::{
    error::Error,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    vec,
};

use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use roundtrip_egress::{Egress, Refusal, Resolver};
use roundtrip_tls::Roots;
use tower_service::Service;
use url::Url;

#[derive(Debug, Clone)]
pub enum EgressPolicy {
    /// Where the guard allows: the URLs come from third parties.
    Guarded(Arc<Egress>),
    /// Anywhere: the URL is the operator's. These certificate authorities are trusted in addition
    /// to the public ones.
    Unrestricted(Roots),
}

impl EgressPolicy {
    /// Whether this URL may be posted to, as far as is known without DNS. A host that is an address
    /// skips the resolver, so this is its only check.
    pub(crate) fn vet(&self, url: &Url) -> Result<(), Refusal> {
        match self {
            Self::Guarded(egress) => egress.guard().vet(url),
            Self::Unrestricted(_) => Ok(()),
        }
    }

    pub(crate) fn resolver(&self) -> NameResolver {
        match self {
            Self::Guarded(egress) => NameResolver::Guarded(egress.resolver().clone()),
            Self::Unrestricted(_) => NameResolver::Any(GaiResolver::new()),
        }
    }

    pub(crate) fn roots(&self) -> &Roots {
        match self {
            Self::Guarded(egress) => egress.roots(),
            Self::Unrestricted(roots) => roots,
        }
    }
}

/// The resolver for the HTTP client. The client connects only to the addresses returned here.
#[derive(Debug, Clone)]
pub(crate) enum NameResolver {
    Guarded(Resolver),
    Any(GaiResolver),
}

impl Service<Name> for NameResolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolver = self.clone();
        Box::pin(async move {
            let addresses: Vec<_> = match resolver {
                Self::Guarded(resolver) => {
                    let addresses = resolver.resolve(name.as_str()).await?;
                    // Port 0: the client replaces it with the URL's.
                    let any_port = |address| SocketAddr::new(address, 0);
                    addresses.into_iter().map(any_port).collect()
                }
                Self::Any(mut resolver) => resolver.call(name).await?.collect(),
            };
            Ok(addresses.into_iter())
        })
    }
}
