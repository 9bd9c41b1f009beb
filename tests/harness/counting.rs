//! A channel server, which may answer, and a sessions server. Both count requests and are fast
//! enough to never be the bottleneck.
//!
//! Invariant: a request is counted before the response is sent, so every message that the gateway
//! counts as delivered is in the tally.

use std::{
    convert::Infallible,
    iter,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use url::Url;

use crate::{
    audit::Audit,
    http::{Connection, Peer},
    tally::Tally,
};

/// The time limit on posting an answer, as in the seed's server.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// How long a late answer is retried.
const LATE_ANSWER_LIMIT: Duration = Duration::from_mins(2);

/// The wait before a late answer is retried.
const LATE_ANSWER_AGAIN: Duration = Duration::from_millis(250);

/// The most late answers posted concurrently.
const LATE_ANSWERS_AT_ONCE: usize = 64;

/// A server that counts what it is sent. Dropping it closes it.
#[derive(Debug)]
pub struct CountingServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    closed: CancellationToken,
    _accepting: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    tally: RwLock<Arc<Tally>>,
    answers: AtomicBool,
    /// The longest time, in milliseconds, from a delivery to its answer; 0 where the answer comes
    /// before the delivery is answered.
    latest_ms: AtomicU64,
    posting: Semaphore,
    /// Late answers that the gateway rejected, or never accepted.
    refused: AtomicU64,
    audit: Audit,
    /// The status for every request during a simulated failure; 0 otherwise.
    out_of_order: AtomicU16,
    /// The prefix of sessions whose requests get 500.
    fails_for: RwLock<Option<String>>,
    /// Idle connections to the gateway.
    idle: Mutex<Vec<Connection>>,
}

/// The fields that both servers read; the rest of the body is ignored.
#[derive(Deserialize)]
struct Message {
    session_id: String,
    response_url: Option<String>,
}

impl CountingServer {
    /// Starts a server on a free port of the loopback.
    ///
    /// # Errors
    /// If there is no free port.
    pub async fn start(tally: Arc<Tally>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            tally: RwLock::new(tally),
            answers: AtomicBool::new(false),
            latest_ms: AtomicU64::new(0),
            posting: Semaphore::new(LATE_ANSWERS_AT_ONCE),
            refused: AtomicU64::new(0),
            audit: Audit::default(),
            out_of_order: AtomicU16::new(0),
            fails_for: RwLock::default(),
            idle: Mutex::default(),
        });
        let closed = CancellationToken::new();
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared), closed.clone()));
        Ok(Self {
            address,
            shared,
            closed,
            _accepting: AbortOnDropHandle::new(accepting),
        })
    }

    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What refused its answers.
    #[must_use]
    pub fn audit(&self) -> &Audit {
        &self.shared.audit
    }

    /// The URL of its one endpoint.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/incoming", self.address)
    }

    /// Counts into this tally from now on.
    pub fn count_into(&self, tally: Arc<Tally>) {
        let mut current = self
            .shared
            .tally
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *current = tally;
    }

    /// Sets whether it posts an answer to each message's `response_url`. It does so as the seed's
    /// server does: before it responds to the delivery; if that fails, it responds 500.
    pub fn answer(&self, answers: bool) {
        self.shared.answers.store(answers, Ordering::Release);
    }

    /// From now on posts each answer after a random delay up to this limit, after it has responded
    /// to the delivery; retries until the answer is accepted or rejected.
    pub fn answer_within(&self, latest: Duration) {
        let millis = u64::try_from(latest.as_millis()).unwrap_or(u64::MAX);
        self.shared.latest_ms.store(millis, Ordering::Release);
        self.answer(true);
    }

    /// How many late answers the gateway rejected, or did not accept in two minutes.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Acquire)
    }

    /// From now on responds to every request with this status, and counts none.
    pub fn fail(&self, status: StatusCode) {
        self.shared
            .out_of_order
            .store(status.as_u16(), Ordering::Release);
    }

    /// From now on responds 500 to requests of sessions with this prefix.
    pub fn fail_for(&self, prefix: &str) {
        let fails_for = self.shared.fails_for.write();
        *fails_for.unwrap_or_else(PoisonError::into_inner) = Some(prefix.to_owned());
    }

    /// Ends the simulated failure.
    pub fn recover(&self) {
        self.shared.out_of_order.store(0, Ordering::Release);
    }
}

impl Drop for CountingServer {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, closed: CancellationToken) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        let closed = closed.clone();
        tokio::spawn(closed.run_until_cancelled_owned(serve(stream, shared)));
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    // Without it an answer waits for the client's delayed acknowledgement.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(receive(&shared, request).await) }
    });
    // The fault runs cut connections; that is not an error here.
    let _gone = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn receive(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let out_of_order = StatusCode::from_u16(shared.out_of_order.load(Ordering::Acquire));
    let status = match handle(shared, request, out_of_order.is_ok()).await {
        Ok(()) => out_of_order.unwrap_or(StatusCode::OK),
        Err(error) => {
            tracing::debug!(%error, "not taken");
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    let mut response = Response::new(Full::new(Bytes::from_static(b"{\"success\": true}")));
    *response.status_mut() = status;
    response
}

async fn handle(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    out_of_order: bool,
) -> anyhow::Result<()> {
    // Read even then: the connection is used again.
    let body = request.into_body().collect().await?.to_bytes();
    if out_of_order {
        return Ok(());
    }
    let message: Message = serde_json::from_slice(&body)?;
    {
        let fails_for = shared.fails_for.read();
        let fails_for = fails_for.unwrap_or_else(PoisonError::into_inner);
        let fails = fails_for
            .as_ref()
            .is_some_and(|prefix| message.session_id.starts_with(prefix));
        ensure!(!fails, "it fails for this session");
    }
    let tally = {
        let current = shared.tally.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current)
    };
    tally.count(&message.session_id);
    if !shared.answers.load(Ordering::Acquire) {
        return Ok(());
    }
    let latest = shared.latest_ms.load(Ordering::Acquire);
    if latest > 0 {
        let wait = Duration::from_millis(rand::random_range(0..latest));
        let shared = Arc::clone(shared);
        tokio::spawn(async move { answer_later(&shared, &message, wait).await });
        return Ok(());
    }
    let status = timeout(ANSWER_LIMIT, answer(shared, &message))
        .await
        .context("the gateway took no answer in time")??;
    ensure!(
        status == StatusCode::ACCEPTED,
        "the answer was met with {status}"
    );
    Ok(())
}

/// Posts an answer as a careful channel server does: until it is accepted or rejected.
async fn answer_later(shared: &Shared, message: &Message, wait: Duration) {
    sleep(wait).await;
    let deadline = Instant::now() + LATE_ANSWER_LIMIT;
    while Instant::now() < deadline {
        let posted = async {
            let _turn = shared.posting.acquire().await?;
            timeout(ANSWER_LIMIT, answer(shared, message)).await?
        };
        match posted.await {
            Ok(StatusCode::ACCEPTED) => return,
            Ok(status) if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
                break;
            }
            Ok(_) | Err(_) => sleep(LATE_ANSWER_AGAIN).await,
        }
    }
    shared.refused.fetch_add(1, Ordering::AcqRel);
}

/// Posts an answer and returns the response's status.
async fn answer(shared: &Shared, message: &Message) -> anyhow::Result<StatusCode> {
    let url = message.response_url.as_deref().context("no response_url")?;
    let url: Url = url.parse()?;
    let address = *url
        .socket_addrs(|| None)?
        .first()
        .context("no address in response_url")?;
    let body = serde_json::json!({
        "session_id": message.session_id,
        "response_data": {"text": "Received", "platform": "counting"},
    });
    let idle = {
        let mut idle = shared.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // A restarted gateway has closed them. Each closed one would fail a good delivery, and some
        // hundreds would open every channel's breaker.
        iter::from_fn(|| idle.pop()).find(|connection| !connection.is_closed())
    };
    let gateway = Peer {
        address,
        audit: shared.audit.clone(),
    };
    let mut connection = match idle {
        Some(connection) => connection,
        None => Connection::open(&gateway).await?,
    };
    let path = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    // A connection that fails is dropped, not put back.
    let (status, _) = connection.post(&path, body.to_string().into()).await?;
    if !connection.is_closed() {
        shared
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
    }
    Ok(status)
}
