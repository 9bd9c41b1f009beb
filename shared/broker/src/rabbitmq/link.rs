//! One connection to RabbitMQ.
//!
//! Invariant: a link that is dropped ends within a moment, whatever the other side does. lapin
//! works each connection in a thread of its own, which a peer that has gone silent in the middle
//! of a handshake or a close would keep for ever; so the link keeps a handle of the socket and
//! shuts that down.

use std::{
    fmt, io,
    net::Shutdown,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{AsyncRead, AsyncWrite, Stream, StreamExt};
use lapin::{
    Channel, Connection, ConnectionProperties, Event,
    tcp::{AMQPUriTcpExt, AsyncTcpStream, RustlsConnectorConfig, TLSConfig},
    uri::{AMQPScheme, AMQPUri},
};
use roundtrip_tls::Roots;
use socket2::{SockRef, Socket};
use tokio::time::timeout;

use super::management::{Credentials, Management};
use crate::{Config, OpenError};

/// The limit on reaching the server: name, TCP and TLS.
const SOCKET_LIMIT: Duration = Duration::from_secs(4);

/// The limit on the whole of a connection attempt, AMQP's own handshake included.
const CONNECT_LIMIT: Duration = Duration::from_secs(6);

/// The limit on opening a channel.
const CHANNEL_LIMIT: Duration = Duration::from_secs(5);

/// The limit on a graceful close.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// The interval of heartbeats in seconds, where the URL says no other. A server that has gone
/// silent is given up after twice that.
const HEARTBEAT: u16 = 5;

/// How often a link is looked at, in case its end came without an event.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// AMQP's reply code for a close in good order.
const REPLY_SUCCESS: u16 = 200;

/// What is said of a URL that cannot be read.
const MALFORMED: &str = "is malformed; it is amqp://user:password@host:port/vhost?heartbeat=5, with \
                         the user's name, the password and the virtual host percent-encoded";

/// Where the server is, and as whom to call.
#[derive(Clone)]
pub(super) struct Endpoint {
    uri: AMQPUri,
    /// Whom to trust in place of the machine's authorities; nobody: those.
    roots: Roots,
}

impl Endpoint {
    /// What is configured.
    pub(super) fn of(config: &Config) -> Result<Self, OpenError> {
        let mut endpoint = Self::parse(&config.url)?;
        if let Some(path) = &config.ca_file {
            let management = config.management_url.as_deref().unwrap_or_default();
            if !endpoint.is_tls() && !management.starts_with("https:") {
                return Err(OpenError::Setting {
                    field: "ca_file",
                    problem: "has no effect: the URL is not amqps://".to_owned(),
                });
            }
            endpoint.roots = Roots::read(path)?;
        }
        Ok(endpoint)
    }

    /// Reads a URL.
    fn parse(url: &str) -> Result<Self, OpenError> {
        // What parsers say may repeat the URL, and so the password in it.
        let parsed = url::Url::parse(url).map_err(|_| OpenError::Url(MALFORMED))?;
        let mut uri: AMQPUri = url.parse().map_err(|_| OpenError::Url(MALFORMED))?;
        match parsed.host() {
            None => return Err(OpenError::Url("names no host")),
            // lapin's parser takes an address in brackets for no host, and goes to localhost.
            Some(url::Host::Ipv6(address)) => uri.authority.host = address.to_string(),
            Some(_) => {}
        }
        if uri.vhost.is_empty() {
            // To the letter a trailing slash names the virtual host "", which nobody has.
            "/".clone_into(&mut uri.vhost);
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        Ok(Self {
            uri,
            roots: Roots::default(),
        })
    }

    /// The virtual host; the default one where the URL is another engine's.
    pub(super) fn vhost_of(config: &Config) -> String {
        Self::parse(&config.url).map_or_else(|_| "/".to_owned(), |endpoint| endpoint.uri.vhost)
    }

    /// The management API of the virtual host, where one is configured.
    pub(super) fn management(&self, config: &Config) -> Result<Option<Management>, OpenError> {
        let credentials = Credentials {
            user: self.uri.authority.userinfo.username.clone(),
            password: self.uri.authority.userinfo.password.clone(),
        };
        Management::of(config, &self.uri.vhost, credentials, &self.roots)
    }

    /// Whether the connection is under TLS.
    pub(super) fn is_tls(&self) -> bool {
        self.uri.scheme == AMQPScheme::AMQPS
    }

    /// Puts a connection under TLS. The server must prove the URL's host.
    async fn secured<S>(&self, stream: AsyncTcpStream<S>) -> io::Result<AsyncTcpStream<S>>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let host = &self.uri.authority.host;
        if self.roots.is_empty() {
            return stream.into_tls(host, TLSConfig::default()).await;
        }
        let roots = self.roots.certificates().to_vec();
        let connector = RustlsConnectorConfig::default()
            .with_parsable_certificates(roots)
            .connector_with_no_client_auth()?;
        stream.into_rustls(&connector, host).await
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = &self.uri.authority;
        write!(
            f,
            "{}:{} {}",
            authority.host, authority.port, self.uri.vhost
        )
    }
}

/// Why there is no link, or no channel on it.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error(transparent)]
    Lapin(#[from] lapin::Error),
    #[error("{what} took longer than {limit:?}")]
    TooSlow { what: &'static str, limit: Duration },
    #[error("the connection or its channel was closed")]
    Ended,
}

/// A step of the protocol under a time limit.
pub(super) async fn limited<T>(
    what: &'static str,
    limit: Duration,
    step: impl Future<Output = lapin::Result<T>>,
) -> Result<T, LinkError> {
    match timeout(limit, step).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(LinkError::TooSlow { what, limit }),
    }
}

/// What happens to a link.
pub(super) struct Events(Pin<Box<dyn Stream<Item = Event> + Send>>);

impl Events {
    /// The next event; none once the link is gone. Losing this future loses no event.
    pub(super) async fn next(&mut self) -> Option<Event> {
        self.0.next().await
    }
}

/// A connection.
pub(super) struct Link {
    connection: Connection,
    _plug: Plug,
}

impl Link {
    /// Connects; `role` is how the connection is listed in RabbitMQ.
    pub(super) async fn connect(
        endpoint: &Endpoint,
        role: &'static str,
    ) -> Result<(Self, Events), LinkError> {
        let plug = Plug::default();
        let runtime = lapin::runtime::default_runtime()?;
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("roundtrip {role}").into());
        let slot = Arc::clone(&plug.0);
        let to = endpoint.clone();
        let connecting = Connection::connector(
            endpoint.uri.clone(),
            runtime,
            async move |uri: AMQPUri, runtime| {
                let opening = async {
                    let plain = AMQPUri {
                        scheme: AMQPScheme::AMQP,
                        ..uri.clone()
                    };
                    let stream = plain.connect_async(&runtime).await?;
                    if let AsyncTcpStream::Plain(plain) = &stream {
                        slot.hold(SockRef::from(plain.get_ref()).try_clone()?)?;
                    }
                    match uri.scheme {
                        AMQPScheme::AMQP => Ok(stream),
                        AMQPScheme::AMQPS => to.secured(stream).await,
                    }
                };
                match timeout(SOCKET_LIMIT, opening).await {
                    Ok(result) => Ok(result?),
                    Err(elapsed) => Err(std::io::Error::from(elapsed).into()),
                }
            },
            properties,
        );
        let connection = limited("the connection", CONNECT_LIMIT, connecting).await?;
        let events = Events(Box::pin(connection.events_listener()));
        Ok((
            Self {
                connection,
                _plug: plug,
            },
            events,
        ))
    }

    /// A new channel.
    pub(super) async fn channel(&self) -> Result<Channel, LinkError> {
        limited(
            "opening a channel",
            CHANNEL_LIMIT,
            self.connection.create_channel(),
        )
        .await
    }

    /// Whether the connection is open, as far as is known.
    pub(super) fn is_open(&self) -> bool {
        self.connection.status().connected()
    }

    /// Waits until the connection is lost, and says why.
    pub(super) async fn lost(&self, events: &mut Events) -> LinkError {
        loop {
            match timeout(LOOK_EVERY, events.next()).await {
                Ok(Some(Event::Error(error))) => return error.into(),
                Ok(Some(_)) => {}
                Err(_) if self.is_open() => {}
                Ok(None) | Err(_) => return LinkError::Ended,
            }
        }
    }

    /// Closes the connection in good order, or after a moment without.
    pub(super) async fn close(&self) {
        let closing = self.connection.close(REPLY_SUCCESS, "OK".into());
        // Where it fails the socket is shut down all the same.
        let _ = timeout(CLOSE_LIMIT, closing).await;
    }
}

/// Shuts the socket down when it is dropped.
#[derive(Default)]
struct Plug(Arc<Slot>);

/// Where lapin's thread leaves a handle of the socket it has opened.
#[derive(Default)]
struct Slot(Mutex<Held>);

#[derive(Default)]
enum Held {
    #[default]
    NotYet,
    Socket(Socket),
    Pulled,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the socket, unless the plug was pulled meanwhile.
    fn hold(&self, socket: Socket) -> std::io::Result<()> {
        let mut held = self.lock();
        if matches!(*held, Held::Pulled) {
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        *held = Held::Socket(socket);
        Ok(())
    }
}

impl Drop for Plug {
    fn drop(&mut self) {
        if let Held::Socket(socket) = std::mem::replace(&mut *self.0.lock(), Held::Pulled) {
            // It fails where the connection is closed already, which is what is wanted.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_shows_no_password() {
        let endpoint = Endpoint::parse("amqp://user:secret@mq.example:5673/orders").unwrap();
        assert_eq!(endpoint.to_string(), "mq.example:5673 orders");
    }

    #[test]
    fn an_address_in_brackets_is_the_host() {
        let endpoint = Endpoint::parse("amqp://[::1]:5673").unwrap();
        assert_eq!(endpoint.to_string(), "::1:5673 /");
    }

    #[test]
    fn a_trailing_slash_means_the_default_virtual_host() {
        let endpoint = Endpoint::parse("amqps://mq.example/").unwrap();
        assert_eq!(endpoint.to_string(), "mq.example:5671 /");
        assert!(endpoint.is_tls());
    }

    #[test]
    fn a_url_without_a_host_is_refused_without_repeating_it() {
        for url in ["amqp:///secret", "amqp://user:secret@mq:99999"] {
            let error = Endpoint::parse(url).err().unwrap().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
