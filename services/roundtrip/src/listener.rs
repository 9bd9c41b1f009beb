//! Serves HTTP/1.1 and HTTP/2, with or without TLS.
//!
//! Invariant: an idle peer cannot hold resources. Connections are limited in number, and one that
//! makes no request in time is closed; the router bounds each request. Clients do not queue for a
//! place: beyond the limit a connection gets 503 and is closed.

mod activity;
mod stream;
mod tls;
mod unread;

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use anyhow::Context;
use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use roundtrip_model::LogThrottle;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use tls::Tls;

use self::{activity::Activity, stream::Stream};
use crate::metrics::{CONNECTIONS, CONNECTIONS_REFUSED, Port};

/// How long to wait after an error that the next accept would meet too, such as a lack of file
/// descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Logged by every failed accept while it lasts.
static CANNOT_ACCEPT: LogThrottle = LogThrottle::every(Duration::from_secs(10));

/// The parser's limit on headers, as a multiple of the router's. The router responds with a problem
/// document, so its limit applies first.
const PARSER_ROOM: usize = 2;

/// How long a connection may take to close: the peer must read what is written.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// The most connections beyond the limit that get 503 at once; further ones are closed
/// without a response.
const REFUSALS_AT_ONCE: usize = 64;

/// How long such a peer may take to read that response.
const REFUSAL_TIME: Duration = Duration::from_millis(500);

/// The `Retry-After` of that response.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// HTTP/2: the most requests at once on one connection.
const MAX_STREAMS: u32 = 128;

/// HTTP/2: the most streams that are reset before they are handled, and the most that we reset for
/// a peer's errors. Beyond it the connection ends ("rapid reset").
const MAX_RESET_STREAMS: usize = 32;

/// HTTP/2: the bytes that a peer may send ahead of the reader, for each stream and for the
/// connection.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 256 << 10;

/// HTTP/2: the bytes of a response that are buffered until its stream accepts them.
const MAX_SEND_BUFFER: usize = 64 << 10;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub connections: usize,
    pub header_bytes: usize,
    /// How long a request's headers may take to arrive, and a TLS handshake.
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
}

impl Limits {
    /// How often a connection's deadline is checked. A deadline may move closer between two checks,
    /// so this is the most that a connection exceeds its limit by.
    fn look_every(&self) -> Duration {
        self.header_timeout.min(self.idle_timeout)
    }
}

pub(crate) struct Listener {
    port: Port,
    tcp: TcpListener,
    tls: Option<Tls>,
    limits: Limits,
}

struct Server {
    router: Router,
    http: Builder<TokioExecutor>,
    tls: Option<Tls>,
    limits: Limits,
    stop: CancellationToken,
}

impl Listener {
    /// Binds at once, so that a port in use fails the start.
    pub(crate) async fn bind(
        port: Port,
        address: SocketAddr,
        tls: Option<Tls>,
        limits: Limits,
    ) -> anyhow::Result<Self> {
        let name = port.as_str();
        let tcp = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address} ({name}.listen)"))?;
        tracing::info!(%address, tls = tls.is_some(), "{name} listens");
        Ok(Self {
            port,
            tcp,
            tls,
            limits,
        })
    }

    /// Serves until `stop`. Then it responds to requests in progress, closes idle connections, and
    /// returns after the last one.
    pub(crate) async fn run(self, router: Router, stop: CancellationToken) {
        let Self {
            port,
            tcp,
            tls,
            limits,
        } = self;
        let renewing = tls.clone();
        let server = Arc::new(Server {
            router,
            http: http(&limits),
            tls,
            limits,
            stop: stop.clone(),
        });
        CONNECTIONS.show(port);
        let places = Arc::new(Semaphore::new(limits.connections));
        let refusals = Arc::new(Semaphore::new(REFUSALS_AT_ONCE));
        let connections = TaskTracker::new();
        let accepting = async {
            loop {
                let stream = match tcp.accept().await {
                    Ok((stream, _peer)) => stream,
                    Err(error) if is_of_one_connection(&error) => continue,
                    Err(error) => {
                        if let Some(suppressed) = CANNOT_ACCEPT.due(Instant::now().into_std()) {
                            let name = port.as_str();
                            tracing::error!(%error, suppressed, "{name} cannot accept connections");
                        }
                        sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                // Responses are small and clients wait for them: no Nagle delay.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY was refused");
                }
                if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                    let counted = CONNECTIONS.hold(port);
                    let connection = Arc::clone(&server).connection(stream);
                    connections.spawn(async move {
                        connection.await;
                        drop((place, counted));
                    });
                    continue;
                }
                CONNECTIONS_REFUSED.inc(port);
                if server.tls.is_none()
                    && let Ok(permit) = Arc::clone(&refusals).try_acquire_owned()
                {
                    connections.spawn(refuse(stream, permit));
                }
            }
        };
        let renewing = async {
            match renewing {
                Some(tls) => tls.keep_renewed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = accepting => {}
            () = renewing => {}
        }
        drop(tcp);
        connections.close();
        connections.wait().await;
    }
}

fn http(limits: &Limits) -> Builder<TokioExecutor> {
    let mut http = Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        // `Activity` does this without a timer for each request.
        .header_read_timeout(None)
        .max_buf_size(limits.header_bytes * PARSER_ROOM);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
        .max_local_error_reset_streams(MAX_RESET_STREAMS)
        .max_header_list_size(u32::try_from(limits.header_bytes * PARSER_ROOM).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(MAX_SEND_BUFFER);
    http
}

impl Server {
    async fn connection(self: Arc<Self>, stream: TcpStream) {
        match &self.tls {
            None => self.serve(stream).await,
            Some(tls) => {
                let handshake = timeout(self.limits.header_timeout, tls.accept(stream));
                let shaken = tokio::select! {
                    shaken = handshake => shaken,
                    () = self.stop.cancelled() => return,
                };
                match shaken {
                    Ok(Ok(stream)) => self.serve(stream).await,
                    Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                    Err(_elapsed) => tracing::debug!("a TLS handshake took too long"),
                }
            }
        }
    }

    async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let activity = Arc::new(Activity::new(self.limits));
        let router = self.router.clone();
        let service = hyper::service::service_fn({
            let activity = Arc::clone(&activity);
            move |request: hyper::Request<hyper::body::Incoming>| {
                let under_way = activity.begin(request.version());
                let response = unread::respond(router.clone(), request);
                async move {
                    let response = response.await;
                    drop(under_way);
                    response
                }
            }
        });
        let io = TokioIo::new(Stream::new(stream, Arc::clone(&activity)));
        let mut connection = pin!(self.http.serve_connection(io, service));
        let mut stopped = pin!(self.stop.cancelled());
        let mut stopping = false;
        let mut look = pin!(sleep(self.limits.look_every()));
        loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::trace!(%error, "a connection ended with an error");
                    }
                    return;
                }
                () = &mut stopped, if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = &mut look => {
                    let now = Instant::now();
                    let ends_at = activity.ends_at();
                    if ends_at <= now {
                        break;
                    }
                    look.as_mut().reset(ends_at.min(now + self.limits.look_every()));
                }
            }
        }
        connection.as_mut().graceful_shutdown();
        let _ = timeout(CLOSE_TIME, connection).await;
    }
}

/// Errors of one connection, not of the port.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}

/// The response beyond the limit of connections.
const REFUSAL: &str = concat!(
    r#"{"type":"urn:roundtrip:problem:overloaded","title":"The gateway is overloaded","#,
    r#""status":503,"detail":"too many connections at once"}"#,
);

fn refusal() -> String {
    format!(
        "HTTP/1.1 503 Service Unavailable\r\n\
         content-type: application/problem+json\r\n\
         content-length: {}\r\n\
         retry-after: {}\r\n\
         connection: close\r\n\r\n\
         {REFUSAL}",
        REFUSAL.len(),
        RETRY_AFTER.as_secs(),
    )
}

/// Responds 503 on a connection beyond the limit.
async fn refuse(mut stream: TcpStream, permit: OwnedSemaphorePermit) {
    let exchange = async {
        stream.write_all(refusal().as_bytes()).await?;
        stream.shutdown().await?;
        // Read until the peer closes: closing with unread bytes resets the connection and loses the
        // response.
        let mut unread = [0; 1024];
        while stream.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = timeout(REFUSAL_TIME, exchange).await;
    drop(permit);
}

#[cfg(test)]
mod tests;
