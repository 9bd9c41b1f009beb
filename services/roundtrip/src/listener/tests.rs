use std::{convert::Infallible, future::pending};

use axum::routing::{get, post};
use tokio::task::JoinHandle;

use super::*;

/// Longer than any step here; it only ends a failing test.
const TEST_LIMIT: Duration = Duration::from_mins(1);

/// A limit that tests wait for. Even on a busy machine it is enough to connect and write.
const SHORT: Duration = Duration::from_secs(1);

/// A test that waits for it has failed.
const LONG: Duration = Duration::from_mins(10);

const LIMITS: Limits = Limits {
    connections: 2,
    header_bytes: 4096,
    header_timeout: LONG,
    idle_timeout: LONG,
};

struct Port {
    address: SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Port {
    async fn open(limits: Limits) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = Listener::bind(crate::metrics::Port::Ingress, any, None, limits)
            .await
            .unwrap();
        let address = listener.tcp.local_addr().unwrap();
        let stop = CancellationToken::new();
        let router = Router::new()
            .route("/", get(async || "here"))
            .route("/unread", post(async || "not read"))
            .route("/read", post(async |body: String| body))
            .route("/never", get(pending::<Infallible>));
        Self {
            address,
            serving: tokio::spawn(listener.run(router, stop.clone())),
            stop,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn say(&self, text: &str) -> TcpStream {
        let mut stream = self.connect().await;
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }
}

/// Reads until the peer closes.
async fn rest(mut stream: TcpStream) -> String {
    let mut text = String::new();
    let read = timeout(TEST_LIMIT, stream.read_to_string(&mut text)).await;
    // A reset is an end too.
    let _ = read.expect("the connection stays open");
    text
}

/// Reads the head of the response.
async fn head(stream: &mut TcpStream) -> String {
    let mut bytes = [0; 1024];
    let read = timeout(TEST_LIMIT, stream.read(&mut bytes)).await;
    String::from_utf8_lossy(&bytes[..read.unwrap().unwrap()]).into_owned()
}

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: h\r\n\r\n";

#[tokio::test]
async fn a_client_that_never_completes_its_headers_is_disconnected() {
    let limits = Limits {
        header_timeout: SHORT,
        ..LIMITS
    };
    let port = Port::open(limits).await;
    for text in [
        "",
        "GET / HTTP/1.1\r\nx: ",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let stream = port.say(text).await;
        let response = rest(stream).await;
        assert!(!response.contains("200 OK"), "{response}");
    }
}

#[tokio::test]
async fn later_requests_have_a_header_time_limit() {
    let limits = Limits {
        header_timeout: SHORT,
        ..LIMITS
    };
    let port = Port::open(limits).await;
    let mut stream = port.say(REQUEST).await;
    assert!(head(&mut stream).await.contains("200 OK"));
    stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    assert_eq!(rest(stream).await, "");
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_with_a_request_is_not() {
    let limits = Limits {
        idle_timeout: SHORT,
        ..LIMITS
    };
    let port = Port::open(limits).await;
    let mut waiting = port.say("GET /never HTTP/1.1\r\nhost: h\r\n\r\n").await;
    let idle = port.say(REQUEST).await;
    assert!(rest(idle).await.contains("200 OK"));
    // It has now waited as long as the other one, which was closed.
    let waited = timeout(SHORT, waiting.read(&mut [0])).await;
    assert!(waited.is_err(), "{waited:?}");
}

#[tokio::test]
async fn a_connection_over_the_limit_gets_503_and_is_closed() {
    let port = Port::open(LIMITS).await;
    let mut first = port.say(REQUEST).await;
    assert!(head(&mut first).await.contains("200 OK"));
    let mut second = port.say(REQUEST).await;
    assert!(head(&mut second).await.contains("200 OK"));

    let response = rest(port.say(REQUEST).await).await;
    let (head_of_it, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head_of_it.starts_with("HTTP/1.1 503 "), "{response}");
    assert!(head_of_it.contains("retry-after: 2"), "{response}");
    assert_eq!(body, REFUSAL);
    serde_json::from_str::<serde_json::Value>(body).unwrap();

    // Admitted connections continue, and a free place goes to the next one.
    first.write_all(REQUEST.as_bytes()).await.unwrap();
    assert!(head(&mut first).await.contains("200 OK"));
    drop(second);
    let next = async {
        loop {
            let mut next = port.say(REQUEST).await;
            if head(&mut next).await.contains("200 OK") {
                return;
            }
        }
    };
    timeout(TEST_LIMIT, next).await.unwrap();
}

#[tokio::test]
async fn far_too_long_headers_end_the_connection() {
    let port = Port::open(LIMITS).await;
    let long = format!(
        "GET / HTTP/1.1\r\nx: {}\r\n\r\n",
        "x".repeat(LIMITS.header_bytes * (PARSER_ROOM + 2))
    );
    assert!(
        rest(port.say(&long).await)
            .await
            .starts_with("HTTP/1.1 431 ")
    );
}

#[tokio::test]
async fn a_request_refused_before_its_body_was_read_is_answered() {
    let port = Port::open(LIMITS).await;
    let length = 8 << 20;
    let head = format!("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\n\r\n");
    let (read, mut write) = port.say(&head).await.into_split();
    // As clients do that write everything before they read. A reset by the gateway fails the write,
    // and perhaps the read.
    let written = timeout(TEST_LIMIT, write.write_all(&vec![b'x'; length])).await;
    assert!(written.is_ok(), "it is not read");
    let response = rest(read.reunite(write).unwrap()).await;
    assert!(response.starts_with("HTTP/1.1 405 "), "{response}");
}

#[tokio::test]
async fn a_stop_closes_what_is_idle_and_what_is_silent() {
    let port = Port::open(LIMITS).await;
    let silent = port.connect().await;
    let mut idle = port.say(REQUEST).await;
    assert!(head(&mut idle).await.contains("200 OK"));
    port.stop.cancel();
    assert_eq!(rest(idle).await, "");
    assert_eq!(rest(silent).await, "");
    timeout(TEST_LIMIT, port.serving).await.unwrap().unwrap();
}

/// The head of a post with this many bytes.
fn post_head(path: &str, bytes: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: h\r\ncontent-length: {bytes}\r\n\r\n")
}

#[tokio::test]
async fn an_answer_before_the_body_announces_the_close() {
    let port = Port::open(LIMITS).await;
    let stream = port.say(&post_head("/unread", 5)).await;
    let answer = rest(stream).await;
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert!(answer.ends_with("not read"), "{answer}");
}

#[tokio::test]
async fn no_100_continue_is_sent_for_an_unread_body() {
    let port = Port::open(LIMITS).await;
    let head = post_head("/unread", 5).replace("host: h", "host: h\r\nexpect: 100-continue");
    let answer = rest(port.say(&head).await).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn an_unread_body_that_has_arrived_is_skipped() {
    let port = Port::open(LIMITS).await;
    for path in ["/unread", "/read"] {
        let mut stream = port.say(&(post_head(path, 5) + "hello")).await;
        let first = head(&mut stream).await;
        assert!(!first.contains("connection: close"), "{first}");
        stream.write_all(REQUEST.as_bytes()).await.unwrap();
        let second = head(&mut stream).await;
        assert!(second.ends_with("here"), "{second}");
    }
}

#[tokio::test]
async fn a_long_body_is_not_passed_over() {
    let port = Port::open(LIMITS).await;
    let stream = port.say(&post_head("/unread", 1 << 20)).await;
    let answer = rest(stream).await;
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
}
