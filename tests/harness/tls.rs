//! A private certificate authority, and servers with certificates from it.
//!
//! Invariant: keys and certificates are created for one test and exist only in its folder.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

/// The year in which the expired certificate ended.
const LONG_AGO: i32 = 2001;

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A server's certificate and key, in PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    /// A new authority with a unique name; clients select an authority by name.
    pub fn new() -> anyhow::Result<Self> {
        let mut of = CertificateParams::new(Vec::new())?;
        of.distinguished_name
            .push(DnType::CommonName, format!("authority {}", Uuid::now_v7()));
        of.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self(CertifiedIssuer::self_signed(
            of,
            KeyPair::generate()?,
        )?))
    }

    /// Writes its certificate into a file of this folder.
    pub fn write(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        let path = folder.join("ca.pem");
        std::fs::write(&path, self.0.pem()).context("writing the authority's certificate")?;
        Ok(path)
    }

    /// A server's identity under this name or address.
    pub fn identity(&self, name: &str) -> anyhow::Result<Identity> {
        self.identity_under(&[name])
    }

    /// A server's identity under each of these names or addresses.
    pub fn identity_under(&self, names: &[&str]) -> anyhow::Result<Identity> {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        self.sign(&CertificateParams::new(names)?)
    }

    /// The same, long expired.
    pub fn expired_identity(&self, name: &str) -> anyhow::Result<Identity> {
        let mut of = CertificateParams::new([name.to_owned()])?;
        of.not_before = rcgen::date_time_ymd(LONG_AGO - 1, 1, 1);
        of.not_after = rcgen::date_time_ymd(LONG_AGO, 1, 1);
        self.sign(&of)
    }

    fn sign(&self, of: &CertificateParams) -> anyhow::Result<Identity> {
        let key = KeyPair::generate()?;
        Ok(Identity {
            certificate: of.signed_by(&key, &self.0)?.pem(),
            key: key.serialize_pem(),
        })
    }
}

impl Identity {
    /// An acceptor with this identity and these ALPN protocols.
    pub(crate) fn acceptor(&self, protocols: &[&str]) -> anyhow::Result<TlsAcceptor> {
        let mut config = self.server()?;
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    fn server(&self) -> anyhow::Result<ServerConfig> {
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes())?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        Ok(config)
    }
}

/// A proxy that accepts TLS and forwards plain TCP to a server. Dropping it closes it.
#[derive(Debug)]
pub struct TlsFront {
    address: SocketAddr,
    _serving: AbortOnDropHandle<()>,
}

impl TlsFront {
    /// A proxy for `target` on a free port of the loopback.
    pub async fn start(target: SocketAddr, identity: &Identity) -> anyhow::Result<Self> {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), target, identity).await
    }

    /// The same, with HTTP/2 negotiated.
    pub async fn start_http2(target: SocketAddr, identity: &Identity) -> anyhow::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self::serve(address, target, identity.acceptor(&["h2"])?).await
    }

    /// The same, on this address.
    pub async fn start_at(
        address: SocketAddr,
        target: SocketAddr,
        identity: &Identity,
    ) -> anyhow::Result<Self> {
        Self::serve(address, target, identity.acceptor(&[])?).await
    }

    async fn serve(
        address: SocketAddr,
        target: SocketAddr,
        acceptor: TlsAcceptor,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.context("listening")?;
        let address = listener.local_addr()?;
        let serving = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, acceptor.clone(), target));
            }
        });
        Ok(Self {
            address,
            _serving: AbortOnDropHandle::new(serving),
        })
    }

    pub const fn port(&self) -> u16 {
        self.address.port()
    }
}

/// Errors are ignored: one side has ended, or the client does not trust the certificate. Dropping
/// both sockets ends the other side.
async fn carry(client: TcpStream, acceptor: TlsAcceptor, target: SocketAddr) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut client = acceptor.accept(client).await?;
    let mut server = TcpStream::connect(target).await?;
    server.set_nodelay(true)?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
