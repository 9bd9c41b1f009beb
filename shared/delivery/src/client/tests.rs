//! Each test uses a real server on its own socket, so that it checks the bytes on the wire.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use roundtrip_tls::Roots;
use rstest::rstest;
use time::macros::datetime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::response_body::{EXCERPT_BYTES, MAX_BODY_BYTES};
use super::*;

pub(super) const NOW: OffsetDateTime = datetime!(2026-11-23 12:00:00.9 UTC);
/// Longer than any test should take.
pub(super) const LIMIT: Duration = Duration::from_mins(1);
/// The client's time limit in tests that wait for it. It is long enough for a busy machine to write
/// everything before the stall.
pub(super) const SHORT: Duration = Duration::from_secs(2);
pub(super) const ENOUGH: Duration = Duration::from_secs(30);

/// What a server does after it has read a request.
#[derive(Debug, Clone)]
pub(super) enum Then {
    /// Writes these bytes and keeps the connection for the next request.
    Answer(Vec<u8>),
    /// Writes these bytes and then nothing more.
    Stall(Vec<u8>),
    /// Writes the first bytes, and then the second ones without end.
    Endless(Vec<u8>, Vec<u8>),
    /// Writes these bytes and closes.
    Last(Vec<u8>),
    /// Writes the first bytes, writes the second ones after the next request, and closes.
    AnswerOnce(Vec<u8>, Vec<u8>),
    /// Closes without writing.
    Close,
}

/// A server that does one thing with every request and records the requests.
pub(super) struct Server {
    pub(super) url: Url,
    requests: mpsc::UnboundedReceiver<String>,
    connections: Arc<AtomicUsize>,
    written: Arc<AtomicUsize>,
}

impl Server {
    pub(super) async fn start(then: Then) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/incoming", listener.local_addr().unwrap());
        let (sender, requests) = mpsc::unbounded_channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let written = Arc::new(AtomicUsize::new(0));
        let counted = (Arc::clone(&connections), Arc::clone(&written));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                counted.0.fetch_add(1, Ordering::SeqCst);
                let written = Arc::clone(&counted.1);
                tokio::spawn(serve(socket, then.clone(), sender.clone(), written));
            }
        });
        Self {
            url: url.parse().unwrap(),
            requests,
            connections,
            written,
        }
    }

    pub(super) async fn answering(answer: &str) -> Self {
        Self::start(Then::Answer(answer.as_bytes().to_vec())).await
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The bytes that it has written without end.
    pub(super) fn written(&self) -> usize {
        self.written.load(Ordering::SeqCst)
    }

    fn requests_so_far(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.requests.try_recv().ok()).collect()
    }
}

async fn serve(
    mut socket: TcpStream,
    then: Then,
    requests: mpsc::UnboundedSender<String>,
    written: Arc<AtomicUsize>,
) {
    while let Some(request) = read_request(&mut socket).await {
        let _ = requests.send(request);
        match &then {
            Then::Answer(bytes) => socket.write_all(bytes).await.unwrap(),
            Then::Stall(bytes) => {
                socket.write_all(bytes).await.unwrap();
                std::future::pending::<()>().await;
            }
            Then::Endless(bytes, unit) => {
                socket.write_all(bytes).await.unwrap();
                while socket.write_all(unit).await.is_ok() {
                    written.fetch_add(unit.len(), Ordering::SeqCst);
                }
                return;
            }
            Then::Last(bytes) => {
                socket.write_all(bytes).await.unwrap();
                return;
            }
            Then::AnswerOnce(first, second) => {
                socket.write_all(first).await.unwrap();
                let _ = requests.send(read_request(&mut socket).await.unwrap());
                socket.write_all(second).await.unwrap();
                return;
            }
            Then::Close => return,
        }
    }
}

/// One request, head and body; `None` when the client has closed.
async fn read_request(socket: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                return Some(text);
            }
        }
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

pub(super) fn webhook(timeout: Duration) -> Webhook {
    let config = WebhookConfig {
        timeout,
        ..WebhookConfig::default()
    };
    Webhook::new(&config, EgressPolicy::Unrestricted(Roots::default())).unwrap()
}

pub(super) async fn post(webhook: &Webhook, url: &Url) -> Outcome {
    let post = webhook.post(url, "msg_1", NOW, Bytes::from_static(br#"{"a":1}"#));
    let outcome = tokio::time::timeout(LIMIT, post).await;
    outcome.expect("a post ends within its own time limit")
}

/// The connection broke before a whole status line came.
#[track_caller]
pub(super) fn assert_broken(outcome: &Outcome) {
    let is_broken = matches!(outcome, Outcome::Failed(Failure::Connection(_)));
    assert!(is_broken, "{outcome:?}");
}

pub(super) fn answered(status: u16, excerpt: &str) -> Outcome {
    Outcome::Responded {
        status,
        retry_after: None,
        location: None,
        excerpt: excerpt.to_owned(),
    }
}

#[tokio::test]
async fn the_request_is_what_it_should_be_to_the_byte() {
    let mut server = Server::answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    let outcome = post(&webhook(ENOUGH), &server.url).await;
    assert_eq!(outcome, answered(204, ""));
    let request = server.requests.recv().await.unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, r#"{"a":1}"#);
    let mut lines = head.lines();
    assert_eq!(lines.next(), Some("POST /incoming HTTP/1.1"));
    let mut headers: Vec<_> = lines.map(str::to_owned).collect();
    headers.sort();
    let authority = format!("host: {}", server.url.authority());
    assert_eq!(
        headers,
        [
            "accept: */*",
            "content-length: 7",
            "content-type: application/json",
            authority.as_str(),
            concat!("user-agent: Roundtrip/", env!("CARGO_PKG_VERSION")),
            "webhook-id: msg_1",
            "webhook-timestamp: 1795435200",
        ]
    );
}

#[rstest]
#[case::no_answer(b"")]
#[case::no_end_of_the_status_line(b"HTTP/1.1 200 OK")]
#[tokio::test]
async fn no_status_line_within_the_limit_is_a_time_out(#[case] begun: &[u8]) {
    let server = Server::start(Then::Stall(begun.to_vec())).await;
    let outcome = post(&webhook(SHORT), &server.url).await;
    assert_eq!(outcome, Outcome::Failed(Failure::TimedOut(SHORT)));
}

#[rstest]
#[case(200)]
#[case(500)]
#[tokio::test]
async fn a_body_that_stalls_leaves_the_status_as_the_answer(#[case] status: u16) {
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: 100\r\n\r\nbegun");
    let server = Server::start(Then::Stall(head.into_bytes())).await;
    let outcome = post(&webhook(SHORT), &server.url).await;
    assert_eq!(outcome, answered(status, "begun"));
}

#[tokio::test]
async fn a_body_that_breaks_off_leaves_the_status_as_the_answer() {
    let server = Server::answering(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegun\r\nno chunk",
    )
    .await;
    let outcome = post(&webhook(ENOUGH), &server.url).await;
    assert_eq!(outcome, answered(200, "begun"));
}

#[tokio::test]
async fn an_endless_body_is_cut_and_its_connection_dropped() {
    let head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec();
    let server = Server::start(Then::Endless(head, vec![b'x'; 4096])).await;
    let outcome = post(&webhook(LIMIT), &server.url).await;
    assert_eq!(outcome, answered(200, &"x".repeat(EXCERPT_BYTES)));
    // The sockets' buffers hold bytes beyond the ones read.
    let buffers = 16 * 1024 * 1024;
    assert!(server.written() < MAX_BODY_BYTES + buffers);
}

#[tokio::test]
async fn a_refused_connection_is_reported_in_one_line_without_secrets() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = listener.local_addr().unwrap();
    drop(listener);
    let url = format!("http://user:secret@{authority}/?token=secret");
    let outcome = post(&webhook(ENOUGH), &url.parse().unwrap()).await;
    let Outcome::Failed(Failure::Connect(problem)) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(problem.contains("Connection refused"), "{problem}");
    assert!(!problem.contains("secret"), "{problem}");
    assert!(!problem.contains('\n'), "{problem}");
}

#[tokio::test]
async fn a_connection_that_is_closed_unanswered_fails_after_one_request() {
    let mut server = Server::start(Then::Close).await;
    let outcome = post(&webhook(ENOUGH), &server.url).await;
    assert_broken(&outcome);
    assert_eq!(server.requests_so_far().len(), 1);
}

/// A client might resend here by itself, because the connection was used before.
#[tokio::test]
async fn a_kept_connection_that_is_closed_unanswered_fails_after_one_request() {
    // Answers the first request of each connection and closes after the second.
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let mut server = Server::start(Then::AnswerOnce(answer.to_vec(), Vec::new())).await;
    let webhook = webhook(ENOUGH);
    assert_eq!(post(&webhook, &server.url).await, answered(200, ""));
    assert_broken(&post(&webhook, &server.url).await);
    assert_eq!(server.requests_so_far().len(), 2);
}

#[tokio::test]
async fn a_body_within_the_limit_leaves_the_connection_for_the_next_post() {
    let body = "y".repeat(MAX_BODY_BYTES - 1);
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let server = Server::answering(&answer).await;
    let webhook = webhook(ENOUGH);
    for _ in 0..3 {
        assert_eq!(
            post(&webhook, &server.url).await,
            answered(200, &"y".repeat(EXCERPT_BYTES))
        );
    }
    assert_eq!(server.connections(), 1);
}

#[rstest]
#[case::seconds("120", Some(120))]
#[case::date("Mon, 23 Nov 2026 12:05:00 GMT", Some(299))]
#[case::garbage("soon", None)]
#[tokio::test]
async fn retry_after_comes_with_the_answer(#[case] value: &str, #[case] seconds: Option<u64>) {
    let head = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after:";
    let server = Server::answering(&format!("{head} {value}\r\n\r\n")).await;
    let Outcome::Responded { retry_after, .. } = post(&webhook(ENOUGH), &server.url).await else {
        panic!("answered")
    };
    // A date counts from the answer's arrival, a moment after NOW.
    let whole = retry_after.map(|wait| wait.as_secs());
    assert!(
        whole == seconds || whole == seconds.map(|n| n - 1),
        "{whole:?}"
    );
}

#[tokio::test]
async fn a_compressed_answer_is_not_unpacked() {
    let server = Server::answering(
        "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc",
    )
    .await;
    assert_eq!(
        post(&webhook(ENOUGH), &server.url).await,
        answered(200, "abc")
    );
}

#[rstest]
#[case::timeout(
    |config: &mut WebhookConfig| config.timeout = Duration::ZERO,
    "webhook.timeout must be 1ms to 366 days"
)]
#[case::connect(
    |config: &mut WebhookConfig| config.connect_timeout = Duration::ZERO,
    "webhook.connect_timeout must be 1ms to 366 days"
)]
#[case::user_agent(
    |config: &mut WebhookConfig| config.user_agent = "a\nb".to_owned(),
    "webhook.user_agent "
)]
fn a_setting_that_cannot_be_used_is_named(
    #[case] change: fn(&mut WebhookConfig),
    #[case] message: &str,
) {
    let mut config = WebhookConfig::default();
    change(&mut config);
    let error = Webhook::new(&config, EgressPolicy::Unrestricted(Roots::default())).unwrap_err();
    assert!(error.to_string().starts_with(message), "{error}");
}
