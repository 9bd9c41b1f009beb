//! A channel server or a sessions server that handles each request as the test's script says, and
//! records all requests.
//!
//! Invariant: a request, and whether it was accepted (2xx), is recorded before the response is
//! sent. So every message that the gateway counts as delivered is in the record.

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, ensure};
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, Response, StatusCode, Uri, header::CONTENT_TYPE},
};
use serde_json::{Value, value::RawValue};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{audit::Audit, http::plain_client, wait};

/// The server. Dropping it closes it.
pub struct ScriptedServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    _serving: AbortOnDropHandle<()>,
}

#[derive(Debug, Clone)]
pub struct Received {
    /// Its place in the order of all requests to this server, from 0 on.
    pub number: usize,
    /// The number of the attempt for this `webhook-id`, from 1.
    pub attempt: usize,
    pub uri: Uri,
    pub headers: HeaderMap,
    /// Its body, byte for byte.
    pub body: String,
}

impl Received {
    /// Its header `webhook-id`; empty where it has none.
    #[must_use]
    pub fn webhook_id(&self) -> &str {
        self.headers
            .get("webhook-id")
            .and_then(|id| id.to_str().ok())
            .unwrap_or_default()
    }

    /// A text field of its body; empty where it has none.
    #[must_use]
    pub fn field(&self, name: &str) -> String {
        // Only this field is parsed: others may hold values that `Value` cannot, such as 1e400.
        let fields: BTreeMap<String, &RawValue> =
            serde_json::from_str(&self.body).unwrap_or_default();
        let text = fields
            .get(name)
            .and_then(|text| serde_json::from_str(text.get()).ok());
        text.unwrap_or_default()
    }
}

/// How the server handles a request.
#[derive(Debug, Clone)]
pub struct Reply {
    status: StatusCode,
    headers: Vec<(&'static str, String)>,
    body: String,
    answer: Option<String>,
    after: Option<CancellationToken>,
}

impl Reply {
    /// Answers with this status.
    ///
    /// # Panics
    /// If it is not a valid status.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self {
            status: StatusCode::from_u16(status).expect("a status"),
            headers: Vec::new(),
            body: String::new(),
            answer: None,
            after: None,
        }
    }

    /// Accepts it with 200.
    #[must_use]
    pub fn ok() -> Self {
        Self::status(200)
    }

    /// Does not answer at all.
    #[must_use]
    pub fn hang() -> Self {
        Self::ok().after(CancellationToken::new())
    }

    /// Posts `response_data` (JSON, sent as it is written here) to the request's `response_url`
    /// first, as the seed's server does, and answers 500 where that fails.
    #[must_use]
    pub fn answering(response_data: impl Into<String>) -> Self {
        Self {
            answer: Some(response_data.into()),
            ..Self::ok()
        }
    }

    /// With this header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// With this body.
    #[must_use]
    pub fn body(mut self, body: impl Into<String>) -> Self {
        self.body = body.into();
        self
    }

    /// Responds only after the gate has opened.
    #[must_use]
    pub fn after(mut self, gate: CancellationToken) -> Self {
        self.after = Some(gate);
        self
    }
}

type Script = dyn Fn(&Received) -> Reply + Send + Sync;

struct Shared {
    script: Box<Script>,
    client: reqwest::Client,
    audit: Audit,
    record: Mutex<Record>,
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
    ///
    /// # Errors
    /// If no port is free.
    pub async fn start(
        script: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), script).await
    }

    /// Starts a server at this address.
    ///
    /// # Errors
    /// If the address is taken.
    pub async fn start_at(
        address: SocketAddr,
        script: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.context("listening")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            script: Box::new(script),
            client: plain_client()?,
            audit: Audit::default(),
            record: Mutex::default(),
        });
        let app = Router::new()
            .fallback(receive)
            .with_state(Arc::clone(&shared));
        let serving = tokio::spawn(async move {
            // It serves until it is aborted.
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self {
            address,
            shared,
            _serving: AbortOnDropHandle::new(serving),
        })
    }

    /// The URL of its one endpoint.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/incoming", self.address)
    }

    #[must_use]
    pub const fn port(&self) -> u16 {
        self.address.port()
    }

    /// Every request that came, in order.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.shared.record().received.clone()
    }

    /// The requests that were taken (2xx), in order.
    #[must_use]
    pub fn taken(&self) -> Vec<Received> {
        self.shared.record().taken.clone()
    }

    /// The sessions whose answer was posted to the gateway and accepted.
    #[must_use]
    pub fn answered(&self) -> Vec<String> {
        self.shared.record().answered.clone()
    }

    /// The audit: tokens in requests, and responses that refused its answers.
    #[must_use]
    pub fn audit(&self) -> &Audit {
        &self.shared.audit
    }

    /// Waits until this many requests have arrived.
    ///
    /// # Errors
    /// If they do not in time.
    pub async fn received_at_least(&self, count: usize) -> anyhow::Result<Vec<Received>> {
        let what = format!("{count} requests");
        wait::until(what, async || {
            Some(self.received()).filter(|received| received.len() >= count)
        })
        .await
    }

    /// Waits until this many requests were accepted.
    ///
    /// # Errors
    /// If they were not in time.
    pub async fn taken_at_least(&self, count: usize) -> anyhow::Result<Vec<Received>> {
        let what = format!("{count} requests to be taken");
        wait::until(what, async || {
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

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, uri: Uri, headers: HeaderMap, body: String) -> Received {
        self.audit.text(&body);
        let mut record = self.record();
        let mut received = Received {
            number: record.received.len(),
            attempt: 0,
            uri,
            headers,
            body,
        };
        let id = received.webhook_id().to_owned();
        let attempts = record.attempts.entry(id).or_default();
        *attempts += 1;
        received.attempt = *attempts;
        record.received.push(received.clone());
        received
    }

    async fn post_answer(&self, received: &Received, data: String) -> anyhow::Result<()> {
        let session = received.field("session_id");
        let body = format!(
            r#"{{"session_id":{},"response_data":{}}}"#,
            Value::from(session.clone()),
            RawValue::from_string(data)?
        );
        let sent = self
            .client
            .post(received.field("response_url"))
            .header(CONTENT_TYPE, "application/json")
            .body(body)
            .send()
            .await?;
        let status = sent.status();
        self.audit.answer(status.as_u16(), &sent.text().await?);
        ensure!(status.is_success(), "the answer was met with {status}");
        self.record().answered.push(session);
        Ok(())
    }
}

async fn receive(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    headers: HeaderMap,
    body: String,
) -> Response<String> {
    let received = shared.remember(uri, headers, body);
    let reply = (shared.script)(&received);
    if let Some(gate) = &reply.after {
        gate.cancelled().await;
    }
    let mut status = reply.status;
    if let Some(data) = reply.answer
        && shared.post_answer(&received, data).await.is_err()
    {
        status = StatusCode::INTERNAL_SERVER_ERROR;
    }
    if status.is_success() {
        shared.record().taken.push(received);
    }
    let mut response = Response::builder().status(status);
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    response.body(reply.body).unwrap_or_default()
}
