//! A channel server or a sessions server that handles each request as the test's script says, and
//! records all requests.
//!
//! Invariant: a request, and whether it was accepted (2xx), is recorded before the response is
//! sent. So every message that the gateway counts as delivered is in the record.

mod reply;

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Request, StatusCode,
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use url::{Position, Url};

use self::reply::ResponseEnd;
use crate::{
    audit::Audit,
    http::{Connection, Peer},
    wait,
};

pub use self::reply::{Received, Reply, failing_once, failing_until, forward_body};

/// The time limit on posting an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// How long a late answer is retried, and the wait between two posts.
const LATE_ANSWER_LIMIT: Duration = Duration::from_mins(2);
const LATE_ANSWER_AGAIN: Duration = Duration::from_millis(250);

/// The most late answers posted concurrently.
const LATE_ANSWERS_AT_ONCE: usize = 64;

/// The server. Dropping it closes it, with its connections.
pub struct ScriptedServer {
    address: SocketAddr,
    state: Arc<State>,
    _closes: DropGuard,
}

type Script = dyn Fn(&Received) -> Reply + Send + Sync;

struct State {
    script: Box<Script>,
    audit: Audit,
    /// A server under load keeps none.
    record: Option<Mutex<Record>>,
    /// Idle connections for answers.
    idle: Mutex<Vec<(SocketAddr, Connection)>>,
    late_answers: Semaphore,
    /// Late answers that the gateway rejected, or never accepted.
    refused: AtomicU64,
}

#[derive(Default)]
struct Record {
    received: Vec<Received>,
    attempts: BTreeMap<String, usize>,
    taken: Vec<Received>,
    /// The sessions whose answer the gateway has accepted.
    answered: Vec<String>,
}

impl ScriptedServer {
    /// Starts a server on a free port of the loopback.
    pub async fn start(
        script: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), script).await
    }

    /// Starts a server at this address.
    pub async fn start_at(
        address: SocketAddr,
        script: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        Self::serve(address, Box::new(script), Some(Mutex::default())).await
    }

    /// Starts a server that keeps no record, for a load.
    pub(crate) async fn start_without_record(
        script: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self::serve(address, Box::new(script), None).await
    }

    async fn serve(
        address: SocketAddr,
        script: Box<Script>,
        record: Option<Mutex<Record>>,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.context("listening")?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            script,
            audit: Audit::default(),
            record,
            idle: Mutex::default(),
            late_answers: Semaphore::new(LATE_ANSWERS_AT_ONCE),
            refused: AtomicU64::new(0),
        });
        let closed = CancellationToken::new();
        tokio::spawn(accept(listener, Arc::clone(&state), closed.clone()));
        Ok(Self {
            address,
            state,
            _closes: closed.drop_guard(),
        })
    }

    /// The URL of its one endpoint.
    pub fn url(&self) -> String {
        format!("http://{}/incoming", self.address)
    }

    pub const fn port(&self) -> u16 {
        self.address.port()
    }

    /// Its address, and the audit of requests to it.
    pub fn peer(&self) -> Peer {
        Peer {
            address: self.address,
            audit: self.state.audit.clone(),
        }
    }

    /// Every request that came, in order.
    pub fn received(&self) -> Vec<Received> {
        self.state.recorded(|record| record.received.clone())
    }

    /// The requests that were taken (2xx), in order.
    pub fn taken(&self) -> Vec<Received> {
        self.state.recorded(|record| record.taken.clone())
    }

    /// The requests of this `webhook-id` that were taken.
    pub fn taken_of(&self, id: &str) -> Vec<Received> {
        let mut taken = self.taken();
        taken.retain(|request| request.webhook_id() == id);
        taken
    }

    /// The sessions whose answer was posted to the gateway and accepted.
    pub fn answered(&self) -> Vec<String> {
        self.state.recorded(|record| record.answered.clone())
    }

    /// How many late answers the gateway rejected, or did not accept in two minutes.
    pub fn refused(&self) -> u64 {
        self.state.refused.load(Ordering::Acquire)
    }

    /// The audit: tokens in requests, and responses that refused its answers.
    pub fn audit(&self) -> &Audit {
        &self.state.audit
    }

    /// Waits until this many requests have arrived.
    pub async fn received_at_least(&self, count: usize) -> anyhow::Result<Vec<Received>> {
        wait::until(format!("{count} requests"), async || {
            Some(self.received()).filter(|received| received.len() >= count)
        })
        .await
    }

    /// Waits until this many requests were accepted.
    pub async fn taken_at_least(&self, count: usize) -> anyhow::Result<Vec<Received>> {
        wait::until(format!("{count} requests to be taken"), async || {
            Some(self.taken()).filter(|taken| taken.len() >= count)
        })
        .await
    }
}

impl fmt::Debug for ScriptedServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl State {
    fn recorded<T: Default>(&self, read: impl FnOnce(&mut Record) -> T) -> T {
        let record = self.record.as_ref();
        record.map_or_else(T::default, |record| read(&mut lock(record)))
    }

    fn remember(&self, headers: HeaderMap, body: String) -> Received {
        let mut received = Received {
            number: 0,
            attempt: 0,
            headers,
            body,
        };
        if let Some(record) = &self.record {
            self.audit.text(&received.body);
            let mut record = lock(record);
            received.number = record.received.len();
            let id = received.webhook_id().to_owned();
            let attempts = record.attempts.entry(id).or_default();
            *attempts += 1;
            received.attempt = *attempts;
            record.received.push(received.clone());
        }
        received
    }

    /// Posts an answer and returns the response's status.
    async fn post_answer(&self, received: &Received, data: &str) -> anyhow::Result<StatusCode> {
        let session = received.field("session_id");
        let url: Url = received.field("response_url").parse()?;
        let address = *url
            .socket_addrs(|| None)?
            .first()
            .context("no address in response_url")?;
        let idle = {
            let mut idle = lock(&self.idle);
            // A restarted gateway has closed them. Each closed one would fail a good delivery, and
            // some hundreds would open every channel's breaker.
            idle.retain(|(_, connection)| !connection.is_closed());
            let place = idle.iter().position(|(other, _)| *other == address);
            place.map(|place| idle.swap_remove(place).1)
        };
        let audit = self.audit.clone();
        let mut connection = match idle {
            Some(connection) => connection,
            None => Connection::open(&Peer { address, audit }).await?,
        };
        let path = &url[Position::BeforePath..Position::AfterQuery];
        let body = format!(
            r#"{{"session_id":{},"response_data":{data}}}"#,
            Value::from(session.as_str())
        );
        // A connection that fails is dropped, not put back.
        let (status, _) = timeout(ANSWER_LIMIT, connection.post(path, body.into()))
            .await
            .context("the gateway took no answer in time")??;
        lock(&self.idle).push((address, connection));
        if status.is_success() {
            self.recorded(|record| record.answered.push(session));
        }
        Ok(status)
    }

    /// Posts an answer as a careful channel server does: until it is accepted or rejected.
    async fn post_late(&self, received: &Received, data: &str, wait: Duration) {
        sleep(wait).await;
        let deadline = Instant::now() + LATE_ANSWER_LIMIT;
        while Instant::now() < deadline {
            let posted = async {
                let _turn = self.late_answers.acquire().await?;
                self.post_answer(received, data).await
            };
            match posted.await {
                Ok(StatusCode::ACCEPTED) => return,
                Ok(status)
                    if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS =>
                {
                    break;
                }
                Ok(_) | Err(_) => sleep(LATE_ANSWER_AGAIN).await,
            }
        }
        self.refused.fetch_add(1, Ordering::AcqRel);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, state: Arc<State>, closed: CancellationToken) {
    let accepting = async {
        while let Ok((stream, _)) = listener.accept().await {
            let serving = serve(stream, Arc::clone(&state));
            tokio::spawn(closed.clone().run_until_cancelled_owned(serving));
        }
    };
    closed.run_until_cancelled(accepting).await;
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    // Without it a response waits for the client's delayed acknowledgement.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let service = service_fn(move |request| respond(Arc::clone(&state), request));
    // An error is the end of a connection that was cut.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

type Response = hyper::Response<UnsyncBoxBody<Bytes, std::convert::Infallible>>;

/// An error closes the connection.
async fn respond(state: Arc<State>, request: Request<Incoming>) -> anyhow::Result<Response> {
    let (head, body) = request.into_parts();
    let body = String::from_utf8(body.collect().await?.to_bytes().into())?;
    let received = state.remember(head.headers, body);
    let reply = (state.script)(&received);
    if let Some(gate) = &reply.gate {
        gate.cancelled().await;
    }
    ensure!(
        reply.end != ResponseEnd::Dropped,
        "the script drops this request"
    );
    let mut status = reply.status;
    match (reply.answer, reply.late) {
        (None, _) => {}
        (Some(data), None) => {
            let posted = state.post_answer(&received, &data).await;
            if !posted.is_ok_and(|status| status.is_success()) {
                status = StatusCode::INTERNAL_SERVER_ERROR;
            }
        }
        (Some(data), Some(wait)) => {
            let (state, received) = (Arc::clone(&state), received.clone());
            tokio::spawn(async move { state.post_late(&received, &data, wait).await });
        }
    }
    if status.is_success() {
        state.recorded(|record| record.taken.push(received));
    }
    let mut response = hyper::Response::builder().status(status);
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    let body = Bytes::from(reply.body);
    Ok(response.body(match reply.end {
        ResponseEnd::Stalled => {
            let part = stream::iter([Ok(Frame::data(body))]);
            StreamBody::new(part.chain(stream::pending())).boxed_unsync()
        }
        ResponseEnd::Whole | ResponseEnd::Dropped => Full::new(body).boxed_unsync(),
    })?)
}
