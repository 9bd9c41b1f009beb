//! Where a client connects. Each forbidden target is a server on a loopback address that counts its
//! connections.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use roundtrip_egress::{Egress, Loopback};
use roundtrip_model::Verdict;
use roundtrip_tls::Roots;
use rstest::rstest;
use time::macros::datetime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
};

use super::*;

const NOW: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);

/// Answers each connection's first request with 200, and counts connections.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(answer(socket));
            }
        });
        Self {
            address,
            connections,
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn answer(mut socket: TcpStream) {
    // The request is small, so it arrives in one piece.
    let _ = socket.read(&mut [0; 4096]).await;
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let _ = socket.write_all(answer).await;
}

fn webhook(allow: &[&str], loopback: Loopback) -> Webhook {
    let egress = roundtrip_egress::Config {
        allow: allow.iter().map(|entry| (*entry).to_owned()).collect(),
        ..roundtrip_egress::Config::default()
    };
    let egress = Egress::new(&egress, loopback).unwrap();
    Webhook::new(
        &WebhookConfig::default(),
        EgressPolicy::Guarded(Arc::new(egress)),
    )
    .unwrap()
}

async fn post(webhook: &Webhook, url: &str) -> Outcome {
    let url = url.parse().unwrap();
    webhook.post(&url, "msg_1", NOW, Bytes::new()).await
}

fn is_delivered(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Answered { status: 200, .. })
}

/// These hosts skip the resolver, so the check before the request is the only one.
#[rstest]
#[case::plain("127.0.0.1")]
#[case::short("127.1")]
#[case::number("2130706433")]
#[case::octal("0177.0.0.1")]
#[case::mapped("[::ffff:127.0.0.1]")]
#[tokio::test]
async fn an_address_that_is_refused_is_not_connected_to(#[case] host: &str) {
    let server = Server::start().await;
    let url = format!("http://{host}:{}/", server.address.port());
    let outcome = post(&webhook(&[], Loopback::Refused), &url).await;
    let problem = "must not lead to a loopback address that egress.allow does not list".to_owned();
    assert_eq!(outcome, Outcome::Failed(Failure::NotAllowed(problem)));
    assert_eq!(server.connections(), 0);
    // The same URL works if loopback is allowed.
    let outcome = post(&webhook(&[], Loopback::Allowed), &url).await;
    assert!(is_delivered(&outcome), "{outcome:?}");
}

/// `localhost` is allowed here as a name, so that it reaches the resolver. Its address is denied.
#[tokio::test]
async fn a_name_that_leads_to_a_refused_address_is_not_connected_to_and_is_tried_again() {
    let server = Server::start().await;
    let egress = roundtrip_egress::Config {
        deny: vec!["127.0.0.0/8".to_owned(), "::1".to_owned()],
        ..roundtrip_egress::Config::default()
    };
    let egress = Egress::new(&egress, Loopback::Allowed).unwrap();
    let webhook = Webhook::new(
        &WebhookConfig::default(),
        EgressPolicy::Guarded(Arc::new(egress)),
    )
    .unwrap();
    let url = format!("http://localhost:{}/", server.address.port());
    let Outcome::Failed(Failure::Connect(problem)) = post(&webhook, &url).await else {
        panic!("it was connected to, or refused for good");
    };
    assert!(
        problem.contains("the host's address is not allowed"),
        "{problem}"
    );
    assert!(!problem.contains("127."), "{problem}");
    assert_eq!(server.connections(), 0);
}

/// The DNS server accepts the question and never answers.
#[tokio::test]
async fn a_name_that_nobody_answers_for_fails_as_a_connection_within_its_time() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let egress = roundtrip_egress::Config {
        nameservers: vec![silent.local_addr().unwrap()],
        ..roundtrip_egress::Config::default()
    };
    let egress = Egress::new(&egress, Loopback::Refused).unwrap();
    let config = WebhookConfig {
        connect_timeout: Duration::from_millis(100),
        ..WebhookConfig::default()
    };
    let webhook = Webhook::new(&config, EgressPolicy::Guarded(Arc::new(egress))).unwrap();
    let outcome = post(&webhook, "http://hooks.example.org/").await;
    let Outcome::Failed(Failure::Connect(problem)) = &outcome else {
        panic!("{outcome:?}");
    };
    assert!(problem.contains("timed out"), "{problem}");
    assert!(matches!(outcome.verdict(), Verdict::Failed { .. }));
}

#[tokio::test]
async fn a_name_is_connected_to_at_the_address_that_was_vetted() {
    let server = Server::start().await;
    let url = format!("http://localhost:{}/", server.address.port());
    let outcome = post(&webhook(&[], Loopback::Allowed), &url).await;
    assert!(is_delivered(&outcome), "{outcome:?}");
}

#[tokio::test]
async fn a_password_in_a_url_is_refused_and_not_repeated() {
    let url = "http://user:secret@127.0.0.1/";
    let outcome = post(&webhook(&[], Loopback::Allowed), url).await;
    let Outcome::Failed(Failure::NotAllowed(problem)) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(!problem.contains("secret"), "{problem}");
}

#[tokio::test]
async fn the_operators_own_url_is_not_vetted() {
    let server = Server::start().await;
    let own = Webhook::new(
        &WebhookConfig::default(),
        EgressPolicy::Unrestricted(Roots::default()),
    )
    .unwrap();
    let outcome = post(&own, &format!("http://user:p@{}/", server.address)).await;
    assert!(is_delivered(&outcome), "{outcome:?}");
}

#[tokio::test]
async fn an_allowed_address_is_connected_to() {
    let server = Server::start().await;
    let outcome = post(
        &webhook(&["127.0.0.1"], Loopback::Refused),
        &format!("http://{}/", server.address),
    )
    .await;
    assert!(is_delivered(&outcome), "{outcome:?}");
}

/// Nothing listens there, and no connection is attempted.
#[rstest]
#[case("8.8.8.8", false)]
#[case("10.0.0.1", true)]
fn the_guard_and_not_the_network_decides(#[case] address: IpAddr, #[case] refused: bool) {
    let url = format!("http://{address}/").parse().unwrap();
    let vetted = webhook(&[], Loopback::Refused).egress_policy.vet(&url);
    assert_eq!(vetted.is_err(), refused);
}
