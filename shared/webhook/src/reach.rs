//! Where a client may connect, and whom it believes there.

use std::{net::SocketAddr, sync::Arc};

use reqwest::{
    Certificate, ClientBuilder,
    dns::{Addrs, Name, Resolve, Resolving},
};
use roundtrip_egress::{Egress, Refusal, Resolver};
use roundtrip_tls::Roots;
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

    /// A client that resolves names as it may.
    pub(crate) fn resolving(&self, builder: ClientBuilder) -> ClientBuilder {
        match self {
            Self::Vetted(egress) => builder.dns_resolver(Vetting(egress.resolver().clone())),
            Self::Own(_) => builder,
        }
    }

    /// The certificate authorities to trust beside the public ones.
    pub(crate) fn roots(&self) -> Result<Vec<Certificate>, reqwest::Error> {
        let roots = match self {
            Self::Vetted(egress) => egress.roots(),
            Self::Own(roots) => roots,
        };
        let certificates = roots.certificates().iter();
        certificates.map(|der| Certificate::from_der(der)).collect()
    }
}

/// The vetting resolver as the HTTP client calls it. The client connects to the addresses that it
/// is handed here and asks nobody else.
struct Vetting(Resolver);

impl Resolve for Vetting {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.0.clone();
        Box::pin(async move {
            let addresses = resolver.resolve(name.as_str()).await?;
            // Port 0: the client puts the URL's in its place.
            let addresses = addresses
                .into_iter()
                .map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(addresses) as Addrs)
        })
    }
}
