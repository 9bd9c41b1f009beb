//! The two servers at the gateway's far ends, made to count and not to be the bottleneck: a
//! channel server that may answer, and a sessions server.
//!
//! Invariant: a request is counted before it is answered, so what the gateway holds for delivered
//! is in the tally.

use std::{
    convert::Infallible,
    iter,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU16, Ordering},
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
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use url::Url;

use crate::{
    audit::Audit,
    http::{Connection, Peer},
    tally::Tally,
};

/// How long the channel server waits for its answer to be taken, as the seed's does.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

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
    audit: Audit,
    /// What every request is answered while it is out of order; 0 while it is not.
    out_of_order: AtomicU16,
    /// Connections to the gateway that wait for the next answer.
    idle: Mutex<Vec<Connection>>,
}

/// What both servers are sent; the rest of the body is skipped.
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
            audit: Audit::default(),
            out_of_order: AtomicU16::new(0),
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

    /// Where it listens.
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

    /// Whether it posts an answer to each message's `response_url` from now on. It does so as the
    /// seed's server does: before it answers the delivery, and with 500 where that fails.
    pub fn answer(&self, answers: bool) {
        self.shared.answers.store(answers, Ordering::Release);
    }

    /// Answers everything with this status from now on, and counts nothing.
    pub fn fail(&self, status: StatusCode) {
        self.shared
            .out_of_order
            .store(status.as_u16(), Ordering::Release);
    }

    /// Is as it was before it failed.
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
    // A client that goes away in the middle is the faults' business, not an error.
    let _gone = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn receive(shared: &Shared, request: Request<Incoming>) -> Response<Full<Bytes>> {
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
    shared: &Shared,
    request: Request<Incoming>,
    out_of_order: bool,
) -> anyhow::Result<()> {
    // Read even then: the connection is used again.
    let body = request.into_body().collect().await?.to_bytes();
    if out_of_order {
        return Ok(());
    }
    let message: Message = serde_json::from_slice(&body)?;
    let tally = {
        let current = shared.tally.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current)
    };
    tally.count(&message.session_id);
    if shared.answers.load(Ordering::Acquire) {
        timeout(ANSWER_LIMIT, answer(shared, &message))
            .await
            .context("the gateway took no answer in time")??;
    }
    Ok(())
}

async fn answer(shared: &Shared, message: &Message) -> anyhow::Result<()> {
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
        // Those to a gateway that has been restarted are closed. One of them would fail a delivery that
        // is well, and some hundreds open every channel's breaker.
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
    ensure!(
        status == StatusCode::ACCEPTED,
        "the answer was met with {status}"
    );
    shared
        .idle
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(connection);
    Ok(())
}
