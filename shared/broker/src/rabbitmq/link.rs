//! One connection to RabbitMQ.
//!
//! Invariant: a dropped link ends within a moment, whatever the peer does. lapin runs each
//! connection in its own thread, and a peer that falls silent during a handshake or a close would
//! block that thread forever. The link therefore keeps a handle of the socket and shuts it down.

use std::{
    io,
    net::Shutdown,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Stream, StreamExt};
use lapin::{
    Connection, ConnectionProperties, Event,
    options::BasicQosOptions,
    tcp::{AsyncTcpStream, RustlsConnectorConfig, TLSConfig},
    uri::AMQPUri,
};
use parking_lot::Mutex;
use roundtrip_metrics::Held;
use socket2::{SockRef, Socket};
use tokio::time::{sleep, timeout};

use super::{
    channel::{OpenChannel, REPLY_SUCCESS},
    endpoint::{Candidate, Endpoint},
    link_error::{LinkError, limited},
};
use crate::metrics::{CONNECTIONS, CONNECTS, ConnectResult, Purpose};

/// The limit on connecting to one of several addresses, from TCP to the end of AMQP's handshake.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// The limit for the last address: it is longer, so that a slow server is reached eventually.
const LAST_CONNECT_LIMIT: Duration = Duration::from_secs(6);

/// How often a node is probed, and how long it has to reply.
const ASK_EVERY: Duration = Duration::from_secs(1);
const ASK_LIMIT: Duration = Duration::from_secs(1);

/// How long a node has to greet a new connection. Together with the probe's interval and limit it
/// bounds how long a hung node is kept. Connecting to another node comes on top.
const GREETING_LIMIT: Duration = Duration::from_secs(2);

/// How long to wait for the same reply when the node greets but does not read this connection.
const GREETED_PAUSE: Duration = Duration::from_secs(4);

/// A client's first bytes (AMQP 0-9-1, section 4.2.2).
const PROTOCOL_HEADER: &[u8] = b"AMQP\0\0\x09\x01";

const CHANNEL_LIMIT: Duration = Duration::from_secs(5);

const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// How often a link is polled, in case it ended without an event.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Events(Pin<Box<dyn Stream<Item = Event> + Send>>);

impl Events {
    /// The next event; `None` once the link is gone. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Event> {
        self.0.next().await
    }
}

pub(super) struct Link {
    connection: Connection,
    endpoint: Endpoint,
    to: Candidate,
    socket: SocketGuard,
    _counted: Held<Purpose>,
}

impl Link {
    /// Connects to the first host that accepts. `purpose` names the connection in RabbitMQ. Each
    /// address
    /// has its own time limit.
    pub(super) async fn connect(
        endpoint: &Endpoint,
        purpose: Purpose,
    ) -> Result<(Self, Events), LinkError> {
        CONNECTIONS.show(purpose);
        let (candidates, mut failed) = endpoint.candidates().await;
        let last = candidates.len().saturating_sub(1);
        for (place, candidate) in candidates.into_iter().enumerate() {
            let limit = if place == last {
                LAST_CONNECT_LIMIT
            } else {
                CONNECT_LIMIT
            };
            let limit = endpoint.connection_timeout().unwrap_or(limit);
            let (host, address) = (candidate.host.to_string(), candidate.address);
            match Self::connect_to(endpoint, candidate, purpose, limit).await {
                Ok(connected) => {
                    CONNECTS.inc((purpose, ConnectResult::Connected));
                    endpoint.connected(place, address);
                    return Ok(connected);
                }
                Err(error) => {
                    CONNECTS.inc((purpose, ConnectResult::Failed));
                    failed.push((host, error));
                }
            }
        }
        // With one host, the status names it already.
        match failed.pop() {
            Some((_, error)) if failed.is_empty() => Err(error),
            Some(error) => {
                failed.push(error);
                Err(LinkError::NoHost(failed))
            }
            None => Err(LinkError::Ended),
        }
    }

    async fn connect_to(
        endpoint: &Endpoint,
        to: Candidate,
        purpose: Purpose,
        limit: Duration,
    ) -> Result<(Self, Events), LinkError> {
        let socket = SocketGuard::default();
        let runtime = lapin::runtime::default_runtime()?;
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("roundtrip {}", purpose.as_str()).into());
        let shared = Arc::clone(&socket.0);
        let target = (endpoint.clone(), to.clone());
        let connecting = Connection::connector(
            endpoint.uri(&to.host),
            runtime,
            async move |_: AMQPUri, runtime| {
                let (endpoint, to) = &target;
                let opening = async {
                    let stream = AsyncTcpStream::connect(&runtime, to.address).await?;
                    if let AsyncTcpStream::Plain(plain) = &stream {
                        store(&shared, SockRef::from(plain.get_ref()).try_clone()?)?;
                    }
                    secured(endpoint, to, stream).await
                };
                // Bounded here too, because lapin's thread outlives the attempt.
                match timeout(limit, opening).await {
                    Ok(result) => Ok(result?),
                    Err(elapsed) => Err(io::Error::from(elapsed).into()),
                }
            },
            properties,
        );
        let connection = limited("the connection", limit, connecting).await?;
        let events = Events(Box::pin(connection.events_listener()));
        Ok((
            Self {
                connection,
                endpoint: endpoint.clone(),
                to,
                socket,
                _counted: CONNECTIONS.hold(purpose),
            },
            events,
        ))
    }

    pub(super) fn node(&self) -> String {
        self.to.host.to_string()
    }

    /// Waits until the node stops replying: a hung node leaves its connections open.
    ///
    /// The probe uses the connection itself. RabbitMQ stops reading a connection that is blocked or
    /// under flow control; a node that then greets a new connection is still alive.
    pub(super) async fn silent(&self) -> LinkError {
        let channel = match self.channel().await {
            Ok(channel) => channel,
            Err(error) => return error,
        };
        loop {
            sleep(ASK_EVERY).await;
            // The channel's process replies to this call without involving a queue.
            let mut asking = pin!(channel.basic_qos(1, BasicQosOptions::default()));
            let mut patience = ASK_LIMIT;
            let reply = loop {
                if let Ok(reply) = timeout(patience, &mut asking).await {
                    break reply;
                }
                if timeout(GREETING_LIMIT, self.greeting()).await.is_err() {
                    return LinkError::Silent(self.node());
                }
                patience = GREETED_PAUSE;
            };
            if let Err(error) = reply {
                return error.into();
            }
        }
    }

    /// Waits for the node's greeting on a new connection, or its refusal: either proves it alive.
    async fn greeting(&self) -> io::Result<()> {
        let runtime = lapin::runtime::default_runtime().map_err(io::Error::other)?;
        let stream = AsyncTcpStream::connect(&runtime, self.to.address).await?;
        let mut stream = secured(&self.endpoint, &self.to, stream).await?;
        stream.write_all(PROTOCOL_HEADER).await?;
        stream.flush().await?;
        stream.read_exact(&mut [0]).await
    }

    /// Opens a channel. A connection that refuses one is ended.
    pub(super) async fn channel(&self) -> Result<OpenChannel, LinkError> {
        let opening = self.connection.create_channel();
        let opened = limited("opening a channel", CHANNEL_LIMIT, opening).await;
        if matches!(opened, Err(LinkError::Lapin(_))) {
            // Once the broker closed a channel, lapin refuses its number forever.
            self.socket.shut_down();
        }
        Ok(OpenChannel::new(opened?))
    }

    pub(super) fn is_open(&self) -> bool {
        self.connection.status().connected()
    }

    pub(super) async fn lost(&self, events: &mut Events) -> LinkError {
        loop {
            match timeout(LOOK_EVERY, events.next()).await {
                // A channel's error is handled where the channel is used.
                Ok(Some(Event::Error(error))) if !error.is_amqp_soft_error() => {
                    return error.into();
                }
                Ok(Some(_)) => {}
                Err(_) if self.is_open() => {}
                Ok(None) | Err(_) => return LinkError::Ended,
            }
        }
    }

    pub(super) fn end(&self) {
        self.socket.shut_down();
    }

    pub(super) async fn close(&self) {
        let closing = self.connection.close(REPLY_SUCCESS, "OK".into());
        // If this fails, the socket is shut down anyway.
        let _ = timeout(CLOSE_LIMIT, closing).await;
    }
}

async fn secured<S>(
    endpoint: &Endpoint,
    to: &Candidate,
    stream: AsyncTcpStream<S>,
) -> io::Result<AsyncTcpStream<S>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    if !endpoint.is_tls() {
        return Ok(stream);
    }
    // The server's certificate must match the host in the URL.
    let host = &to.host.name;
    let roots = &endpoint.roots;
    if roots.is_empty() {
        return stream.into_tls(host, TLSConfig::default()).await;
    }
    let connector = RustlsConnectorConfig::default()
        .with_parsable_certificates(roots.certificates().to_vec())
        .connector_with_no_client_auth()?;
    stream.into_rustls(&connector, host).await
}

/// Shuts the socket down when it is dropped. lapin's thread stores a handle of the socket here.
#[derive(Default)]
struct SocketGuard(Arc<Mutex<SocketState>>);

#[derive(Default)]
enum SocketState {
    #[default]
    Pending,
    Open(Socket),
    ShutDown,
}

/// Stores the socket; fails if the guard was already shut down.
fn store(state: &Mutex<SocketState>, socket: Socket) -> io::Result<()> {
    let mut state = state.lock();
    if matches!(*state, SocketState::ShutDown) {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    *state = SocketState::Open(socket);
    Ok(())
}

impl SocketGuard {
    fn shut_down(&self) {
        let state = std::mem::replace(&mut *self.0.lock(), SocketState::ShutDown);
        if let SocketState::Open(socket) = state {
            // Fails if the connection is closed already, which is the goal.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for SocketGuard {
    fn drop(&mut self) {
        self.shut_down();
    }
}
