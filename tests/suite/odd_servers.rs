//! Channel servers and sessions servers that answer oddly, stall or attack. They must not cause a
//! second delivery of an accepted message, or delay other channels.

use std::time::Duration;

use harness::{
    byte_server::{ByteServer, Step},
    gateway::{Accounted, Plan, Setup},
    proxy::Proxy,
    scripted::{Reply, ScriptedServer},
    tls::{Authority, TlsFront},
    wait,
};
use tempfile::TempDir;
use tokio::time::Instant;

on_both_setups! {
    a_200_is_delivered_once_whatever_its_head_is_like,
    an_answer_before_the_request_was_read_is_an_answer,
    endless_interim_responses_are_a_failed_attempt,
    http2_frames_that_stop_delay_a_message_by_seconds,
    a_frozen_http2_connection_of_sixty_channels_delays_them_by_seconds,
    a_frozen_http2_connection_to_the_sessions_server_delays_answers_by_seconds,
}

const NO_RECORD: &str = "byte servers keep no record";

/// How soon after a connection freezes the next delivery must succeed. The promise is 10 s; a busy
/// machine gets twice that.
const SECONDS: Duration = Duration::from_secs(20);

/// Heads of a 200 as proxies and firewalls write them, and worse ones.
fn heads() -> Vec<Vec<u8>> {
    let many: Vec<String> = (0..150).map(|n| format!("x-{n}: {n}\r\n")).collect();
    let many = many.concat();
    [
        many.as_str(),
        "content-security-policy: default-src 'self';\r\n  img-src *\r\n",
        "x-cache : HIT\r\n",
        "x-trace: a\u{1}b\r\n",
        "this is no header\r\n",
        "content-length: 5\r\n",
    ]
    .map(|lines| {
        format!("HTTP/1.1 200 OK\r\n{lines}content-length: 0\r\nconnection: close\r\n\r\n")
            .into_bytes()
    })
    .to_vec()
}

async fn a_200_is_delivered_once_whatever_its_head_is_like(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let gateway = Plan::new(setup)?.schedule("100ms,100ms").start().await?;
    for (number, head) in heads().into_iter().enumerate() {
        let server =
            ByteServer::start(move |_| vec![Step::Request, Step::Write(head.clone())]).await?;
        let channel = format!("c{number}");
        gateway.register(&channel, &server.url()).await?;
        let id = gateway.send(&channel, "s").await?;
        let attempts = gateway.until_delivered(&id).await?;
        assert_eq!(attempts.len(), 1, "{channel}: {attempts:?}");
        assert_eq!(attempts[0]["status"], 200);
        assert_eq!(server.requests(), 1);
    }
    gateway.finish_unaccounted(NO_RECORD).await
}

/// The server answers after the head and never reads the body.
async fn an_answer_before_the_request_was_read_is_an_answer(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let early = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let server = ByteServer::start(move |_| {
        vec![Step::RequestHead, Step::Write(early.to_vec()), Step::Stall]
    })
    .await?;
    let gateway = Plan::new(setup)?.start().await?;
    gateway.register("c", &server.url()).await?;
    let id = gateway.send("c", "s").await?;
    assert_eq!(gateway.until_delivered(&id).await?.len(), 1);
    gateway.finish_unaccounted(NO_RECORD).await
}

async fn endless_interim_responses_are_a_failed_attempt(setup: Setup) -> anyhow::Result<Accounted> {
    let server = ByteServer::start(|connection| {
        let answer = match connection {
            0 => Step::Repeat(b"HTTP/1.1 100 Continue\r\n\r\n".repeat(100)),
            1 => Step::Repeat(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(100)),
            _ => Step::Write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()),
        };
        vec![Step::Request, answer, Step::Stall]
    })
    .await?;
    let gateway = Plan::new(setup)?.schedule("100ms,100ms").start().await?;
    gateway.register("c", &server.url()).await?;
    let id = gateway.send("c", "s").await?;
    let attempts = gateway.until_delivered(&id).await?;
    assert_eq!(attempts.len(), 3, "{attempts:?}");
    for failed in &attempts[..2] {
        let error = failed["error"].as_str().unwrap_or_default();
        assert!(error.contains("interim responses"), "{failed}");
        let took = failed["duration_ms"].as_u64();
        assert!(took.is_some_and(|took| took < 10_000), "{failed}");
    }
    gateway.finish_unaccounted(NO_RECORD).await
}

/// Servers under TLS with an authority that the gateway trusts.
struct Trusted {
    authority: Authority,
    ca_file: String,
    _folder: TempDir,
}

impl Trusted {
    fn new() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let authority = Authority::new()?;
        Ok(Self {
            ca_file: authority.write(folder.path())?.display().to_string(),
            authority,
            _folder: folder,
        })
    }

    /// An HTTP/2 server whose connections can be frozen, and its URL.
    async fn freezable(&self, server: &ScriptedServer) -> anyhow::Result<(Freezable, String)> {
        let identity = self.authority.identity("localhost")?;
        let behind = ([127, 0, 0, 1], server.port()).into();
        let front = TlsFront::start_http2(behind, &identity).await?;
        let proxy = Proxy::start(([127, 0, 0, 1], front.port()).into()).await?;
        let url = format!("https://localhost:{}/incoming", proxy.address().port());
        let freezable = Freezable {
            proxy,
            _front: front,
        };
        Ok((freezable, url))
    }
}

struct Freezable {
    proxy: Proxy,
    _front: TlsFront,
}

/// The server takes the first request, then its frames stop.
async fn http2_frames_that_stop_delay_a_message_by_seconds(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let trusted = Trusted::new()?;
    let identity = trusted.authority.identity("localhost")?;
    // An empty SETTINGS frame; later HEADERS with `:status: 200` (index 8 of HPACK's static table)
    // that end stream 1.
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    let answer = b"\0\0\x01\x01\x05\0\0\0\x01\x88";
    let server = ByteServer::start_tls(&identity, "h2", move |connection| {
        // The field appears in a DATA frame, uncompressed.
        let body = Step::ReadUntil(b"session_id");
        let mut steps = vec![Step::Write(settings.to_vec()), body];
        if connection > 0 {
            steps.push(Step::Write(answer.to_vec()));
        }
        steps.push(Step::Stall);
        steps
    })
    .await?;
    let gateway = Plan::new(setup)?
        .env("ROUNDTRIP__EGRESS__CA_FILE", &trusted.ca_file)
        .start()
        .await?;
    gateway.register("c", &server.url()).await?;
    let begun = Instant::now();
    let id = gateway.send("c", "s").await?;
    let attempts = gateway.until_delivered(&id).await?;
    assert_eq!(attempts.len(), 2, "{attempts:?}");
    assert!(begun.elapsed() < SECONDS, "{:?}", begun.elapsed());
    gateway.finish_unaccounted(NO_RECORD).await
}

async fn a_frozen_http2_connection_of_sixty_channels_delays_them_by_seconds(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    const CHANNELS: usize = 60;
    let trusted = Trusted::new()?;
    let server = ScriptedServer::start(|_| Reply::ok()).await?;
    let (freezable, url) = trusted.freezable(&server).await?;
    let gateway = Plan::new(setup)?
        .env("ROUNDTRIP__EGRESS__CA_FILE", &trusted.ca_file)
        .start()
        .await?;
    for number in 0..CHANNELS {
        gateway.register(&format!("c{number}"), &url).await?;
        gateway.send(&format!("c{number}"), "before").await?;
    }
    server.taken_at_least(CHANNELS).await?;
    freezable.proxy.freeze();
    let frozen = Instant::now();
    for number in 0..CHANNELS {
        gateway.send(&format!("c{number}"), "after").await?;
    }
    server.taken_at_least(2 * CHANNELS).await?;
    let took = frozen.elapsed();
    assert!(took < SECONDS, "{took:?}");
    gateway.finish(&[&server]).await
}

async fn a_frozen_http2_connection_to_the_sessions_server_delays_answers_by_seconds(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let trusted = Trusted::new()?;
    let sessions = ScriptedServer::start(|_| Reply::ok()).await?;
    let (freezable, url) = trusted.freezable(&sessions).await?;
    let (gateway, channel) = Plan::new(setup)?
        .env("ROUNDTRIP__EGRESS__CA_FILE", &trusted.ca_file)
        .sessions_server(url)
        .start_with_channel(|_| Reply::answering("1"))
        .await?;
    gateway.send("c", "before").await?;
    sessions.taken_at_least(1).await?;
    freezable.proxy.freeze();
    let frozen = Instant::now();
    gateway.send("c", "after").await?;
    wait::until("the answer after the freeze", async || {
        let taken = sessions.taken();
        let mut sessions = taken.iter().map(|one| one.field("session_id"));
        sessions.any(|session| session == "after").then_some(())
    })
    .await?;
    assert!(frozen.elapsed() < SECONDS, "{:?}", frozen.elapsed());
    gateway.finish(&[&channel, &sessions]).await
}
