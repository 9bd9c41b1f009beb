//! HTTP/2 servers that stall, and servers that send frames without end.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::future::join_all;
use hyper::{Response, service::service_fn};
use hyper_util::rt::TokioIo;
use roundtrip_tls::Roots;
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, copy_bidirectional, sink},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    tests::{LIMIT, NOW, SHORT, answered, assert_broken, post},
    *,
};

/// The time limit of a delivery in production.
const LONG: Duration = Duration::from_secs(30);

/// A server's certificate for `localhost`, and a client that trusts it.
fn trusted() -> (TlsAcceptor, Roots) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, certified.cert.pem()).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(
        certified.signing_key.serialize_der(),
    ));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    (
        TlsAcceptor::from(Arc::new(config)),
        Roots::read(&path).unwrap(),
    )
}

/// An HTTP/2 server whose connections can be frozen: they read everything and write nothing. New
/// ones work.
struct Server {
    url: Url,
    roots: Roots,
    connections: Arc<AtomicUsize>,
    frozen: watch::Sender<usize>,
}

impl Server {
    /// Answers 200; a path that begins with `/hang` gets no answer.
    async fn start() -> Self {
        Self::with(|stream| async {
            let service = service_fn(|request: Request<hyper::body::Incoming>| async move {
                if request.uri().path().starts_with("/hang") {
                    std::future::pending::<()>().await;
                }
                Ok::<_, std::convert::Infallible>(Response::new(String::new()))
            });
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        })
        .await
    }

    /// Answers every read with these frames, again and again.
    async fn flooding(frames: Vec<u8>) -> Self {
        Self::with(move |mut stream| {
            let frames = frames.clone();
            async move {
                // The client's preface and settings, and then its request.
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(b"\0\0\0\x04\0\0\0\0\0").await;
                let _ = stream.read(&mut [0; 4096]).await;
                while stream.write_all(&frames).await.is_ok() {}
            }
        })
        .await
    }

    async fn with<F>(serve: impl Fn(TlsStream<TcpStream>) -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send,
    {
        let (acceptor, roots) = trusted();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let behind = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, serve) = (acceptor.clone(), serve.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(socket).await {
                        serve(stream).await;
                    }
                });
            }
        });
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/", front.local_addr().unwrap().port());
        let connections = Arc::new(AtomicUsize::new(0));
        let frozen = watch::Sender::new(0);
        let (counted, freezing) = (Arc::clone(&connections), frozen.subscribe());
        tokio::spawn(async move {
            while let Ok((client, _)) = front.accept().await {
                let number = counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(carry(client, behind, number, freezing.clone()));
            }
        });
        Self {
            url: url.parse().unwrap(),
            roots,
            connections,
            frozen,
        }
    }

    /// Freezes every open connection.
    fn freeze(&self) {
        self.frozen.send_replace(self.connections());
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn client(&self, timeout: Duration) -> Webhook {
        let config = WebhookConfig {
            timeout,
            ..WebhookConfig::default()
        };
        Webhook::new(&config, EgressPolicy::Unrestricted(self.roots.clone())).unwrap()
    }

    fn at(&self, path: &str) -> Url {
        self.url.join(path).unwrap()
    }
}

async fn carry(
    mut client: TcpStream,
    behind: SocketAddr,
    number: usize,
    mut frozen: watch::Receiver<usize>,
) {
    let mut server = TcpStream::connect(behind).await.unwrap();
    let ended = tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => true,
        _ = frozen.wait_for(|below| number < *below) => false,
    };
    if !ended {
        let _ = copy(&mut client, &mut sink()).await;
    }
}

#[tokio::test]
async fn a_connection_on_which_an_exchange_timed_out_takes_no_further_request() {
    let server = Server::start().await;
    let client = server.client(SHORT);
    assert_eq!(post(&client, &server.url).await, answered(200, ""));
    assert_eq!(post(&client, &server.url).await, answered(200, ""));
    assert_eq!(server.connections(), 1);
    let outcome = post(&client, &server.at("/hang")).await;
    assert_eq!(outcome, Outcome::Failed(Failure::TimedOut(SHORT)));
    // With more time, because it opens a new connection.
    let next = Post {
        url: &server.url,
        webhook_id: "msg_1",
        now: NOW,
        headers: &[],
        body: Bytes::from_static(b"{}"),
        signer: None,
    };
    let next = client.post_within(LIMIT, next);
    assert_eq!(next.await, answered(200, ""));
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_frozen_connection_delays_only_what_was_under_way() {
    let server = Server::start().await;
    let client = server.client(LONG);
    assert_eq!(post(&client, &server.url).await, answered(200, ""));
    server.freeze();
    let frozen = Instant::now();
    let outcome = post(&client, &server.url).await;
    assert_broken(&outcome);
    assert_eq!(post(&client, &server.url).await, answered(200, ""));
    assert!(frozen.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn sixty_exchanges_on_a_frozen_connection_end_together_and_the_next_ones_arrive() {
    let server = Server::start().await;
    let client = server.client(LONG);
    assert_eq!(post(&client, &server.url).await, answered(200, ""));
    server.freeze();
    let frozen = Instant::now();
    let sixty = || join_all((0..60).map(|_| post(&client, &server.url)));
    for outcome in sixty().await {
        assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    }
    for outcome in sixty().await {
        assert_eq!(outcome, answered(200, ""));
    }
    assert!(frozen.elapsed() < Duration::from_secs(10));
}

/// The server is slow but alive: pings are answered.
#[tokio::test]
async fn a_slow_exchange_keeps_its_whole_time() {
    let server = Server::start().await;
    let limit = PING_INTERVAL + PING_TIMEOUT + Duration::from_secs(2);
    let outcome = post(&server.client(limit), &server.at("/hang")).await;
    assert_eq!(outcome, Outcome::Failed(Failure::TimedOut(limit)));
}

/// An HTTP/2 frame with these flags.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

#[rstest::rstest]
// `:status` is the eighth name of HPACK's static table.
#[case::continue_100(frame(1, 4, 1, b"\x08\x03100"))]
#[case::early_hints(frame(1, 4, 1, b"\x08\x03103"))]
#[case::pings(frame(6, 0, 0, &[0; 8]))]
#[case::settings(frame(4, 0, 0, &[]))]
#[case::frames_of_no_known_kind(frame(0xbb, 0, 0, &[0; 100]))]
#[tokio::test]
async fn frames_without_an_end_are_a_failed_exchange(#[case] frame: Vec<u8>) {
    let server = Server::flooding(frame.repeat(100)).await;
    let outcome = post(&server.client(LONG), &server.url).await;
    assert_broken(&outcome);
}
