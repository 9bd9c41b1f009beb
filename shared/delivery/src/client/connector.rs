//! Connects to where a [`EgressPolicy`] allows, in cleartext or with TLS, within a time limit.

use std::{
    error::Error,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use roundtrip_tls::Roots;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;
use tokio::{net::TcpStream, time::timeout};
use tower_service::Service;

use super::{
    egress_policy::{EgressPolicy, NameResolver},
    meter::Metered,
};

/// When the kernel probes a silent connection, and after how many probes it ends the connection.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);
const TCP_KEEPALIVE_RETRIES: u32 = 3;
/// How long the kernel waits for written bytes to be acknowledged.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);

type BoxError = Box<dyn Error + Send + Sync>;

#[derive(Debug, Clone)]
pub(crate) struct Connector {
    inner: HttpsConnector<HttpConnector<NameResolver>>,
    limit: Duration,
}

impl Connector {
    pub(crate) fn new(
        egress_policy: &EgressPolicy,
        limit: Duration,
    ) -> Result<Self, rustls::Error> {
        let mut tcp = HttpConnector::new_with_resolver(egress_policy.resolver());
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(TCP_KEEPALIVE));
        tcp.set_keepalive_interval(Some(TCP_KEEPALIVE));
        tcp.set_keepalive_retries(Some(TCP_KEEPALIVE_RETRIES));
        #[cfg(target_os = "linux")]
        tcp.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
        let inner = HttpsConnectorBuilder::new()
            .with_tls_config(tls(egress_policy.roots())?)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(tcp);
        Ok(Self { inner, limit })
    }
}

fn tls(roots: &Roots) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificates = roots.certificates().iter().cloned();
    let verifier = Verifier::new_with_extra_roots(certificates.clone(), Arc::clone(&provider));
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = match verifier {
        Ok(verifier) => config
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier)),
        // Without root certificates, posts to http endpoints still work; those to https endpoints
        // fail with an unknown issuer.
        Err(problem) => {
            tracing::warn!(%problem, "https endpoints will be refused");
            let mut store = RootCertStore::empty();
            store.add_parsable_certificates(certificates);
            config.with_root_certificates(store)
        }
    };
    Ok(config.with_no_client_auth())
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Metered<TokioIo<MaybeHttpsStream<TokioIo<TcpStream>>>>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let limit = self.limit;
        let connecting = self.inner.call(uri);
        Box::pin(async move {
            let connected = timeout(limit, connecting).await.map_err(|_elapsed| {
                let limit = humantime::format_duration(limit);
                let problem = format!("connecting timed out after {limit}");
                io::Error::new(io::ErrorKind::TimedOut, problem)
            })?;
            Ok(TokioIo::new(Metered::new(TokioIo::new(connected?))))
        })
    }
}
