//! A small HTTP client: one keep-alive connection, one exchange at a time.
//!
//! Invariant: it has no pool, no redirects and no retries. So a loader that uses it costs less than
//! what it loads, and sees every failure.

use std::net::SocketAddr;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, StatusCode,
    client::conn::http1::{SendRequest, handshake},
    header::{CONTENT_TYPE, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::audit::Audit;

/// The address to connect to, and the audit that gets its responses.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: SocketAddr,
    /// Learns of every answer.
    pub audit: Audit,
}

#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: HeaderValue,
    audit: Audit,
}

impl Connection {
    /// Connects.
    pub async fn open(peer: &Peer) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(peer.address).await;
        let stream = stream.context("connecting")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // It ends with its sender; a broken exchange reports its own error.
        tokio::spawn(connection);
        Ok(Self {
            sender,
            host: HeaderValue::from_str(&peer.address.to_string())?,
            audit: peer.audit.clone(),
        })
    }

    /// Whether the other side has closed it.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Posts JSON and reads the whole answer.
    pub async fn post(&mut self, path: &str, body: Bytes) -> anyhow::Result<(StatusCode, Bytes)> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, &self.host)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Full::new(body))?;
        self.exchange(request).await
    }

    /// Sends a GET request.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let request = Request::builder()
            .uri(path)
            .header(HOST, &self.host)
            .body(Full::new(Bytes::new()))?;
        self.exchange(request).await
    }

    async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        self.audit
            .response(status.as_u16(), &String::from_utf8_lossy(&body));
        Ok((status, body))
    }
}

/// A client that does nothing by itself: no proxy, no redirects, no retries.
pub fn plain_client() -> anyhow::Result<reqwest::Client> {
    // Where another test of this process was first, its provider is the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        // Only http is spoken here; the machine's certificates need not be there.
        .tls_certs_only([])
        .build()
        .context("making an HTTP client")
}
