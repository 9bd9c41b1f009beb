//! Where a client may connect, and whom it believes there.

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

/// Where a client may connect.
#[derive(Debug, Clone)]
pub enum Reach {
    /// Where the guard lets it: the URLs are strangers'.
    Vetted(Arc<Egress>),
    /// Anywhere: the URL is the operator's own. These certificate authorities are trusted beside
    /// the public ones.
    Own(Roots),
}

impl Reach {
    /// Whether this URL may be posted to, as far as that is known without asking the DNS. The
    /// resolver is not asked for a host that is an address, so this is all that such a one meets.
    pub(crate) fn vet(&self, url: &Url) -> Result<(), Refusal> {
        match self {
            Self::Vetted(egress) => egress.guard().vet(url),
            Self::Own(_) => Ok(()),
        }
    }

    /// Resolves names as it may.
    pub(crate) fn names(&self) -> Names {
        match self {
            Self::Vetted(egress) => Names::Vetted(egress.resolver().clone()),
            Self::Own(_) => Names::Any(GaiResolver::new()),
        }
    }

    /// The certificate authorities to trust beside the public ones.
    pub(crate) fn roots(&self) -> &Roots {
        match self {
            Self::Vetted(egress) => egress.roots(),
            Self::Own(roots) => roots,
        }
    }
}

/// The resolver as the HTTP client calls it. The client connects to the addresses that it is
/// handed here and asks nobody else.
#[derive(Debug, Clone)]
pub(crate) enum Names {
    Vetted(Resolver),
    Any(GaiResolver),
}

impl Service<Name> for Names {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let names = self.clone();
        Box::pin(async move {
            let addresses: Vec<_> = match names {
                Self::Vetted(resolver) => {
                    let addresses = resolver.resolve(name.as_str()).await?;
                    // Port 0: the client puts the URL's in its place.
                    let any_port = |address| SocketAddr::new(address, 0);
                    addresses.into_iter().map(any_port).collect()
                }
                Self::Any(mut resolver) => resolver.call(name).await?.collect(),
            };
            Ok(addresses.into_iter())
        })
    }
}
