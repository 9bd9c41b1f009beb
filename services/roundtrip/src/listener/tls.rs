//! The certificate of a port, and the handshake.
//!
//! Invariant: there is always a certificate whose key fits. Files that change are read again; where
//! they cannot be used the last good ones stay in use, and the log says so.

use std::{io, path::Path, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{net::TcpStream, time::sleep};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// How often the files are looked at. They are read whole, for a time of change can lie: a mounted
/// secret is changed by a link.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What is offered to be spoken, the preferred first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// TLS for one port.
#[derive(Clone)]
pub(crate) struct Tls {
    acceptor: TlsAcceptor,
    files: roundtrip_ingress::Tls,
    current: Arc<Current>,
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("cert_file {0}: {1}")]
    Certificate(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("key_file {0}: {1}")]
    Key(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("key_file {0}: is not the key of the certificate")]
    Mismatch(String),
}

/// The certificate that is shown now.
#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// If they cannot be used.
    pub(crate) fn new(files: &roundtrip_ingress::Tls) -> Result<Self, TlsError> {
        let (key, _text) = read(files)?;
        let current = Arc::new(Current(ArcSwap::from_pointee(key)));
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            files: files.clone(),
            current,
        })
    }

    /// The handshake.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.acceptor.accept(stream).await
    }

    /// Looks at the files for ever, and shows what is new in them.
    pub(super) async fn keep_renewed(self) {
        let mut last = None;
        let mut complained = false;
        loop {
            match self.look().await {
                Ok((_, text)) if last.as_ref() == Some(&text) => complained = false,
                Ok((key, text)) => {
                    self.current.0.store(Arc::new(key));
                    if last.replace(text).is_some() {
                        tracing::info!("the certificate has changed");
                    }
                    complained = false;
                }
                // They may be half written just now.
                Err(error) if !complained => {
                    tracing::error!(%error, "the certificate in use stays");
                    complained = true;
                }
                Err(_) => {}
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn look(&self) -> Result<(CertifiedKey, Text), TlsError> {
        let files = self.files.clone();
        let name = files.cert_file.display().to_string();
        tokio::task::spawn_blocking(move || read(&files))
            .await
            .unwrap_or_else(|died| Err(TlsError::Certificate(name, died.into())))
    }
}

/// What the two files hold.
type Text = [Vec<u8>; 2];

fn read(files: &roundtrip_ingress::Tls) -> Result<(CertifiedKey, Text), TlsError> {
    let name = |path: &Path| path.display().to_string();
    let bad_certificate = |error| TlsError::Certificate(name(&files.cert_file), error);
    let bad_key = |error| TlsError::Key(name(&files.key_file), error);

    let cert_text =
        std::fs::read(&files.cert_file).map_err(|error| bad_certificate(error.into()))?;
    let key_text = std::fs::read(&files.key_file).map_err(|error| bad_key(error.into()))?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&cert_text)
        .collect::<Result<_, _>>()
        .map_err(|error| bad_certificate(error.into()))?;
    if chain.is_empty() {
        return Err(bad_certificate("has no certificate in PEM".into()));
    }
    let key = PrivateKeyDer::from_pem_slice(&key_text).map_err(|error| bad_key(error.into()))?;
    let key = ring::sign::any_supported_type(&key).map_err(|error| bad_key(error.into()))?;
    let key = CertifiedKey::new(chain, key);
    key.keys_match()
        .map_err(|_| TlsError::Mismatch(name(&files.key_file)))?;
    Ok((key, [cert_text, key_text]))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Made {
        cert: String,
        key: String,
    }

    fn made() -> Made {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        Made {
            cert: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        }
    }

    fn refusal(cert: Option<&str>, key: Option<&str>) -> String {
        let folder = tempfile::tempdir().unwrap();
        let file = |name, text: Option<&str>| {
            let path = folder.path().join(name);
            if let Some(text) = text {
                fs::write(&path, text).unwrap();
            }
            path
        };
        let files = roundtrip_ingress::Tls {
            cert_file: file("tls.crt", cert),
            key_file: file("tls.key", key),
        };
        match read(&files) {
            Ok(_) => panic!("they were taken"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn files_that_cannot_be_used_are_named_and_never_shown() {
        let (one, other) = (made(), made());
        let (cert, key) = (Some(one.cert.as_str()), Some(one.key.as_str()));
        for (refusal, named) in [
            (refusal(None, key), "cert_file "),
            (refusal(Some("nonsense"), key), "cert_file "),
            (refusal(cert, None), "key_file "),
            (refusal(cert, Some("nonsense")), "key_file "),
            (refusal(cert, Some(&other.key)), "key_file "),
        ] {
            assert!(refusal.starts_with(named), "{refusal}");
            assert!(!refusal.contains("PRIVATE"), "{refusal}");
        }
    }
}
