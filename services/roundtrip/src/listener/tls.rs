//! The certificate of a port, and the handshake.
//!
//! Invariant: there is always a certificate with a matching key. Changed files are loaded again. If
//! they cannot be used or are not valid now, the last good certificate stays in use, and the log
//! says so.

use std::{fs, io, path::Path, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use roundtrip_model::{Clock, WrongSetting};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use time::OffsetDateTime;
use tokio::{net::TcpStream, time::sleep};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use crate::{key_file::warn_if_open, metrics::CERTIFICATE_ENDS};

/// How often the files are read. Their content is compared, as the modification time can be stale:
/// a mounted secret changes by a link.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The offered protocols, the preferred first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

#[derive(Clone)]
pub(crate) struct Tls {
    acceptor: TlsAcceptor,
    files: roundtrip_ingress::Tls,
    current: Arc<Current>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct Shown {
    key: Arc<CertifiedKey>,
    times: Times,
}

/// The validity, in seconds since 1970.
#[derive(Debug, Clone, Copy)]
struct Times {
    from: i64,
    until: i64,
}

impl Times {
    fn measure(self) {
        let until = u64::try_from(self.until).ok();
        CERTIFICATE_ENDS.set((), until.map(Duration::from_secs));
    }

    fn problem(self, now: OffsetDateTime) -> Option<&'static str> {
        let now = now.unix_timestamp();
        if now < self.from {
            Some("is not valid yet")
        } else if now > self.until {
            Some("has expired")
        } else {
            None
        }
    }
}

#[derive(Debug)]
struct Current(ArcSwap<Shown>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.load().key))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Look {
    Same,
    Taken,
    Kept(String),
}

impl Tls {
    pub(crate) fn check(files: &roundtrip_ingress::Tls) -> Result<(), WrongSetting> {
        read(files).map(drop)
    }

    pub(crate) fn new(
        files: &roundtrip_ingress::Tls,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, WrongSetting> {
        let (shown, _text) = read(files)?;
        warn_if_open(&files.key_file);
        // Start despite it: some clients do not check the dates, and others can try again later.
        if let Some(problem) = shown.times.problem(clock.now()) {
            tracing::warn!(cert_file = %files.cert_file.display(), "the certificate {problem}");
        }
        shown.times.measure();
        let current = Arc::new(Current(ArcSwap::from_pointee(shown)));
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            files: files.clone(),
            current,
            clock,
        })
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.acceptor.accept(stream).await
    }

    /// Checks the files for ever and loads what changed.
    pub(super) async fn keep_renewed(self) {
        let mut last = None;
        let mut reported = None;
        loop {
            let was_read = last.is_some();
            match self.look(&mut last).await {
                Look::Same => reported = None,
                Look::Taken => {
                    if was_read {
                        tracing::info!("the certificate has changed");
                    }
                    reported = None;
                }
                // They may be half written now.
                Look::Kept(error) => {
                    if reported.as_ref() != Some(&error) {
                        tracing::warn!(%error, "the new certificate is not used; the current one \
                                                stays");
                    }
                    reported = Some(error);
                }
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Checks the files once. `last` is their content when they were last loaded.
    async fn look(&self, last: &mut Option<Text>) -> Look {
        let files = self.files.clone();
        let read = tokio::task::spawn_blocking(move || read(&files)).await;
        let (shown, text) = match read {
            Ok(Ok(read)) => read,
            Ok(Err(wrong)) => return Look::Kept(wrong.to_string()),
            Err(error) => return Look::Kept(error.to_string()),
        };
        if last.as_ref() == Some(&text) {
            return Look::Same;
        }
        let now = self.clock.now();
        if let Some(problem) = shown.times.problem(now) {
            let file = self.files.cert_file.display();
            // Keep the current certificate only if it is valid itself.
            if self.current.0.load().times.problem(now).is_none() {
                return Look::Kept(format!("the certificate in '{file}' {problem}"));
            }
            // The start has already logged its result.
            if last.is_some() {
                tracing::warn!("the certificate in '{file}' {problem}");
            }
        }
        shown.times.measure();
        self.current.0.store(Arc::new(shown));
        *last = Some(text);
        Look::Taken
    }
}

type Text = [Vec<u8>; 2];

/// The text of a problem is our own: a parser's may quote a line of the key.
fn read(files: &roundtrip_ingress::Tls) -> Result<(Shown, Text), WrongSetting> {
    let wrong = |key, path: &Path, problem: &str| {
        WrongSetting::new(key, format!("'{}' {problem}", path.display()))
    };
    let bad_certificate = |problem: &str| wrong("cert_file", &files.cert_file, problem);
    let bad_key = |problem: &str| wrong("key_file", &files.key_file, problem);
    let unread = |error: io::Error| format!("cannot be read: {error}");
    let cert_text = fs::read(&files.cert_file).map_err(|error| bad_certificate(&unread(error)))?;
    let key_text = fs::read(&files.key_file).map_err(|error| bad_key(&unread(error)))?;

    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&cert_text).collect();
    let chain = chain.map_err(|_| bad_certificate("is damaged PEM"))?;
    let Some(own) = chain.first() else {
        return Err(bad_certificate("has no certificate in PEM"));
    };
    let (_rest, own) = X509Certificate::from_der(own)
        .map_err(|_| bad_certificate("has a certificate that cannot be used"))?;
    let validity = own.validity();
    let times = Times {
        from: validity.not_before.timestamp(),
        until: validity.not_after.timestamp(),
    };
    if is_encrypted(&key_text) {
        return Err(bad_key(
            "is encrypted, and encrypted keys are not supported; `openssl pkey` writes it in clear",
        ));
    }
    let key = PrivateKeyDer::from_pem_slice(&key_text)
        .map_err(|_| bad_key("has no private key in PEM, or a damaged one"))?;
    let key = ring::sign::any_supported_type(&key)
        .map_err(|_| bad_key("has a private key of a kind that is not supported"))?;
    let key = CertifiedKey::new(chain, key);
    key.keys_match()
        .map_err(|_| bad_key("is not the key of the certificate"))?;
    let key = Arc::new(key);
    Ok((Shown { key, times }, [cert_text, key_text]))
}

/// The markers of PKCS #8 and of the older OpenSSL format.
fn is_encrypted(pem: &[u8]) -> bool {
    let has = |mark: &[u8]| pem.windows(mark.len()).any(|part| part == mark);
    has(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || has(b"Proc-Type: 4,ENCRYPTED")
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use roundtrip_model::SystemClock;

    use super::*;

    /// Certainly past, and certainly future.
    const PAST: i32 = 2001;
    const FUTURE: i32 = 4000;

    struct Made {
        cert: String,
        key: String,
    }

    fn made_for(from: i32, until: i32) -> Made {
        let mut of = CertificateParams::new(["localhost".to_owned()]).unwrap();
        of.not_before = date_time_ymd(from, 1, 1);
        of.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        Made {
            cert: of.self_signed(&key).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    fn made() -> Made {
        made_for(PAST, FUTURE)
    }

    fn files(folder: &Path) -> roundtrip_ingress::Tls {
        roundtrip_ingress::Tls {
            cert_file: folder.join("tls.crt"),
            key_file: folder.join("tls.key"),
        }
    }

    fn write(folder: &Path, cert: Option<&str>, key: Option<&str>) {
        for (name, text) in [("tls.crt", cert), ("tls.key", key)] {
            if let Some(text) = text {
                fs::write(folder.join(name), text).unwrap();
            }
        }
    }

    fn refusal(cert: Option<&str>, key: Option<&str>) -> String {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), cert, key);
        match read(&files(folder.path())) {
            Ok(_) => panic!("they were taken"),
            Err(wrong) => wrong.to_string(),
        }
    }

    #[test]
    fn unusable_files_are_named_once_without_their_content() {
        let (one, other) = (made(), made());
        let (cert, key) = (Some(one.cert.as_str()), Some(one.key.as_str()));
        let encrypted = one.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n\
                   -----END RSA PRIVATE KEY-----\n";
        let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let secret_line = "-----BEGIN PRIVATE KEY-HUNTER2\nHUNTER2\n";
        for (refusal, file, problem) in [
            (
                refusal(None, key),
                "cert_file",
                "cannot be read: No such file",
            ),
            (
                refusal(Some("nonsense"), key),
                "cert_file",
                "has no certificate",
            ),
            (refusal(key, cert), "cert_file", "has no certificate"),
            (refusal(Some(damaged), key), "cert_file", "cannot be used"),
            (refusal(Some("-----BEGIN X"), key), "cert_file", "damaged"),
            (
                refusal(cert, None),
                "key_file",
                "cannot be read: No such file",
            ),
            (
                refusal(cert, Some("nonsense")),
                "key_file",
                "has no private key",
            ),
            (
                refusal(cert, Some(secret_line)),
                "key_file",
                "has no private key",
            ),
            (
                refusal(cert, Some(&encrypted)),
                "key_file",
                "encrypted keys are not supported",
            ),
            (
                refusal(cert, Some(old)),
                "key_file",
                "encrypted keys are not supported",
            ),
            (
                refusal(cert, Some(&other.key)),
                "key_file",
                "is not the key",
            ),
        ] {
            let begins = format!("{file} '");
            assert!(refusal.starts_with(&begins), "{refusal}");
            assert_eq!(refusal.matches(problem).count(), 1, "{refusal}");
            assert!(refusal.matches("No such file").count() < 2, "{refusal}");
            assert!(
                !refusal.contains("PRIVATE") && !refusal.contains("HUNTER2"),
                "{refusal}"
            );
        }
    }

    #[tokio::test]
    async fn a_good_certificate_is_not_given_up_for_one_whose_time_is_not_now() {
        let folder = tempfile::tempdir().unwrap();
        let put = |made: &Made| write(folder.path(), Some(&made.cert), Some(&made.key));
        put(&made());
        let tls = Tls::new(&files(folder.path()), Arc::new(SystemClock)).unwrap();
        let mut last = None;
        assert_eq!(tls.look(&mut last).await, Look::Taken);
        assert_eq!(tls.look(&mut last).await, Look::Same);
        let good = tls.current.0.load_full();
        for (made, why) in [
            (made_for(PAST, PAST + 1), "has expired"),
            (made_for(FUTURE - 1, FUTURE), "is not valid yet"),
        ] {
            put(&made);
            let Look::Kept(error) = tls.look(&mut last).await else {
                panic!("it was taken")
            };
            assert!(error.contains("tls.crt") && error.ends_with(why), "{error}");
            assert!(Arc::ptr_eq(&good, &tls.current.0.load_full()));
        }
        put(&made());
        assert_eq!(tls.look(&mut last).await, Look::Taken);
        assert!(!Arc::ptr_eq(&good, &tls.current.0.load_full()));
    }

    #[tokio::test]
    async fn an_expired_certificate_is_used_until_it_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let put = |made: &Made| write(folder.path(), Some(&made.cert), Some(&made.key));
        put(&made_for(PAST, PAST + 1));
        let tls = Tls::new(&files(folder.path()), Arc::new(SystemClock)).unwrap();
        let mut last = None;
        assert_eq!(tls.look(&mut last).await, Look::Taken);
        put(&made_for(PAST, PAST + 2));
        assert_eq!(tls.look(&mut last).await, Look::Taken);
        put(&made());
        assert_eq!(tls.look(&mut last).await, Look::Taken);
        let times = tls.current.0.load().times;
        assert_eq!(times.problem(SystemClock.now()), None);
    }
}
