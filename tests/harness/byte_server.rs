//! A server that is scripted to the byte: odd heads, stalls, early answers, endless interim
//! responses, HTTP/2 frames that stop.
//!
//! Invariant: each connection runs the script from its beginning, and ends where the script does.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use anyhow::Context;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use crate::tls::Identity;

/// The longest request that is read.
const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;

/// One step of a connection.
#[derive(Debug, Clone)]
pub enum Step {
    /// Reads one request of HTTP/1 to its end.
    Request,
    /// Reads the head of one request of HTTP/1, and leaves its body unread.
    RequestHead,
    /// Reads until these bytes have come.
    ReadUntil(&'static [u8]),
    /// Writes these bytes.
    Write(Vec<u8>),
    /// Writes these bytes again and again until the connection ends.
    Repeat(Vec<u8>),
    /// Reads, and answers nothing, until the client ends the connection.
    Stall,
}

/// The server. Dropping it closes it.
#[derive(Debug)]
pub struct ByteServer {
    address: SocketAddr,
    scheme: &'static str,
    counts: Arc<Counts>,
    _serving: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicUsize,
    requests: AtomicUsize,
    written: AtomicU64,
}

impl ByteServer {
    /// Starts a server on a free port of the loopback. The script is asked for each connection by
    /// its number, from 0 on.
    pub async fn start(
        script: impl Fn(usize) -> Vec<Step> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), script).await
    }

    /// The same at this address.
    pub async fn start_at(
        address: SocketAddr,
        script: impl Fn(usize) -> Vec<Step> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        Self::serve("http", None, address, script).await
    }

    /// The same under TLS as `localhost`, with this protocol (`h2`, `http/1.1`) negotiated.
    pub async fn start_tls(
        identity: &Identity,
        protocol: &str,
        script: impl Fn(usize) -> Vec<Step> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let acceptor = identity.acceptor(&[protocol])?;
        Self::serve("https", Some(acceptor), address, script).await
    }

    async fn serve(
        scheme: &'static str,
        acceptor: Option<TlsAcceptor>,
        address: SocketAddr,
        script: impl Fn(usize) -> Vec<Step> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.context("listening")?;
        let address = listener.local_addr()?;
        let counts = Arc::new(Counts::default());
        let counted = Arc::clone(&counts);
        let serving = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let counts = Arc::clone(&counted);
                let number = counts.connections.fetch_add(1, Ordering::SeqCst);
                let (steps, acceptor) = (script(number), acceptor.clone());
                // An error is the client's end of the connection.
                tokio::spawn(async move {
                    match acceptor {
                        None => run(socket, steps, &counts).await,
                        Some(acceptor) => run(acceptor.accept(socket).await?, steps, &counts).await,
                    }
                });
            }
        });
        Ok(Self {
            address,
            scheme,
            counts,
            _serving: AbortOnDropHandle::new(serving),
        })
    }

    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of its one endpoint.
    pub fn url(&self) -> String {
        let host = match self.scheme {
            "https" => "localhost",
            _ => "127.0.0.1",
        };
        format!("{}://{host}:{}/incoming", self.scheme, self.address.port())
    }

    /// How many connections came.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }

    /// How many requests of HTTP/1 were read.
    pub fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::SeqCst)
    }

    /// How many bytes were written.
    pub fn written(&self) -> u64 {
        self.counts.written.load(Ordering::SeqCst)
    }
}

async fn run<S>(mut stream: S, steps: Vec<Step>, counts: &Counts) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    for step in steps {
        match step {
            Step::Request => {
                read_request(&mut stream, true).await?;
                counts.requests.fetch_add(1, Ordering::SeqCst);
            }
            Step::RequestHead => {
                read_request(&mut stream, false).await?;
                counts.requests.fetch_add(1, Ordering::SeqCst);
            }
            Step::ReadUntil(bytes) => {
                read_until(&mut stream, bytes).await?;
            }
            Step::Write(bytes) => {
                stream.write_all(&bytes).await?;
                stream.flush().await?;
                counts
                    .written
                    .fetch_add(bytes.len() as u64, Ordering::SeqCst);
            }
            Step::Repeat(bytes) => loop {
                stream.write_all(&bytes).await?;
                counts
                    .written
                    .fetch_add(bytes.len() as u64, Ordering::SeqCst);
            },
            Step::Stall => {
                tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
            }
        }
    }
    stream.shutdown().await
}

/// What came before these bytes, and what came after them.
async fn read_until(
    stream: &mut (impl AsyncRead + Unpin),
    end: &[u8],
) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    let mut bytes = Vec::new();
    while bytes.len() < MAX_REQUEST_BYTES {
        if let Some(at) = bytes.windows(end.len()).position(|window| window == end) {
            let after = bytes.split_off(at + end.len());
            return Ok((bytes, after));
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Err(std::io::Error::other("the request is too long"))
}

async fn read_request(
    stream: &mut (impl AsyncRead + Unpin),
    with_body: bool,
) -> std::io::Result<()> {
    let (head, body) = read_until(stream, b"\r\n\r\n").await?;
    if !with_body {
        return Ok(());
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length: usize = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .and_then(|length| length.trim().parse().ok())
        .unwrap_or(0);
    let mut rest = vec![0; length.min(MAX_REQUEST_BYTES).saturating_sub(body.len())];
    stream.read_exact(&mut rest).await?;
    Ok(())
}
