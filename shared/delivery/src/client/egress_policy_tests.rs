//! Where a client connects. Each forbidden target is a server on a loopback address that counts its
//! connections.

use std::{net::IpAddr, sync::Arc};

use roundtrip_egress::{Egress, Loopback};
use roundtrip_model::Verdict;
use roundtrip_tls::Roots;
use rstest::rstest;
use tokio::net::UdpSocket;

use super::{
    tests::{NOW, Server, Then, answered},
    *,
};

/// A server that answers 200 once on each connection, and its port.
async fn server() -> (Server, u16) {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let server = Server::start(Then::Last(answer.to_vec())).await;
    let port = server.url.port().unwrap();
    (server, port)
}

fn guarded(
    config: &WebhookConfig,
    egress: &roundtrip_egress::Config,
    loopback: Loopback,
) -> Webhook {
    let egress = Egress::new(egress, loopback).unwrap();
    Webhook::new(config, EgressPolicy::Guarded(Arc::new(egress))).unwrap()
}

fn webhook(allow: &[&str], loopback: Loopback) -> Webhook {
    let egress = roundtrip_egress::Config {
        allow: allow.iter().map(|entry| (*entry).to_owned()).collect(),
        ..roundtrip_egress::Config::default()
    };
    guarded(&WebhookConfig::default(), &egress, loopback)
}

async fn post(webhook: &Webhook, url: &str) -> Outcome {
    let url = url.parse().unwrap();
    webhook.post(&url, "msg_1", NOW, Bytes::new()).await
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
    let (server, port) = server().await;
    let url = format!("http://{host}:{port}/");
    let outcome = post(&webhook(&[], Loopback::Refused), &url).await;
    let problem =
        "must not lead to a loopback address, unless the operator lists it in egress.allow"
            .to_owned();
    assert_eq!(outcome, Outcome::Failed(Failure::NotAllowed(problem)));
    assert_eq!(server.connections(), 0);
    // The same URL works if loopback is allowed.
    let outcome = post(&webhook(&[], Loopback::Allowed), &url).await;
    assert_eq!(outcome, answered(200, ""));
}

/// `localhost` is allowed here as a name, so that it reaches the resolver. Its address is denied.
#[tokio::test]
async fn a_name_that_leads_to_a_refused_address_is_not_connected_to_and_is_tried_again() {
    let (server, port) = server().await;
    let egress = roundtrip_egress::Config {
        deny: vec!["127.0.0.0/8".to_owned(), "::1".to_owned()],
        ..roundtrip_egress::Config::default()
    };
    let webhook = guarded(&WebhookConfig::default(), &egress, Loopback::Allowed);
    let url = format!("http://localhost:{port}/");
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
async fn an_unanswered_name_is_a_failed_connection_within_its_time() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let egress = roundtrip_egress::Config {
        nameservers: vec![silent.local_addr().unwrap()],
        ..roundtrip_egress::Config::default()
    };
    let config = WebhookConfig {
        connect_timeout: Duration::from_millis(100),
        ..WebhookConfig::default()
    };
    let webhook = guarded(&config, &egress, Loopback::Refused);
    let outcome = post(&webhook, "http://hooks.example.org/").await;
    let Outcome::Failed(Failure::Connect(problem)) = &outcome else {
        panic!("{outcome:?}");
    };
    assert!(problem.contains("timed out"), "{problem}");
    assert!(matches!(outcome.verdict(), Verdict::Failed { .. }));
}

#[tokio::test]
async fn a_name_is_connected_to_at_the_address_that_was_vetted() {
    let (_server, port) = server().await;
    let url = format!("http://localhost:{port}/");
    let outcome = post(&webhook(&[], Loopback::Allowed), &url).await;
    assert_eq!(outcome, answered(200, ""));
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
    let (_server, port) = server().await;
    let own = Webhook::new(
        &WebhookConfig::default(),
        EgressPolicy::Unrestricted(Roots::default()),
    )
    .unwrap();
    let outcome = post(&own, &format!("http://user:p@127.0.0.1:{port}/")).await;
    assert_eq!(outcome, answered(200, ""));
}

#[tokio::test]
async fn an_allowed_address_is_connected_to() {
    let (_server, port) = server().await;
    let webhook = webhook(&["127.0.0.1"], Loopback::Refused);
    let outcome = post(&webhook, &format!("http://127.0.0.1:{port}/")).await;
    assert_eq!(outcome, answered(200, ""));
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
