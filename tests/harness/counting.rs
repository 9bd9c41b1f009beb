//! A channel server, which may answer, and a sessions server. Both count requests and keep no
//! record, so that they are never the bottleneck of a load.
//!
//! Invariant: a request is counted before the response is sent, so every message that the gateway
//! counts as delivered is in the tally.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper::StatusCode;
use tokio_util::sync::CancellationToken;

use crate::{
    audit::Audit,
    http::Peer,
    scripted::{Received, Reply, ScriptedServer},
    tally::Tally,
};

/// A server that counts what it is sent. Dropping it closes it.
#[derive(Debug)]
pub struct CountingServer {
    server: ScriptedServer,
    counting: Arc<Counting>,
}

#[derive(Debug)]
struct Counting {
    tally: RwLock<Arc<Tally>>,
    also: RwLock<Option<Arc<Tally>>>,
    answers: AtomicBool,
    /// The longest time, in milliseconds, from a delivery to its answer; 0 where the answer comes
    /// before the response to the delivery.
    latest_ms: AtomicU64,
    /// The status for every request during a simulated failure; 0 otherwise.
    failing: AtomicU16,
    /// The prefix of sessions whose requests get 500.
    fails_for: RwLock<Option<String>>,
    /// Each response waits for it.
    gate: RwLock<CancellationToken>,
}

impl CountingServer {
    /// Starts a server on a free port of the loopback.
    pub async fn start(tally: Arc<Tally>) -> anyhow::Result<Self> {
        let counting = Arc::new(Counting {
            tally: RwLock::new(tally),
            also: RwLock::default(),
            answers: AtomicBool::new(false),
            latest_ms: AtomicU64::new(0),
            failing: AtomicU16::new(0),
            fails_for: RwLock::default(),
            gate: RwLock::new(open_gate()),
        });
        let script = Arc::clone(&counting);
        let server = ScriptedServer::start_without_record(move |request| script.reply(request));
        Ok(Self {
            server: server.await?,
            counting,
        })
    }

    /// A server that counts nothing.
    pub async fn unused() -> anyhow::Result<Self> {
        Self::start(Arc::new(Tally::new("nothing", 0))).await
    }

    /// Its address, and the audit of requests to it.
    pub fn peer(&self) -> Peer {
        self.server.peer()
    }

    /// The audit of the responses that refused its answers.
    pub fn audit(&self) -> &Audit {
        self.server.audit()
    }

    /// The URL of its one endpoint.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Counts into this tally from now on.
    pub fn count_into(&self, tally: Arc<Tally>) {
        let current = self.counting.tally.write();
        *current.unwrap_or_else(PoisonError::into_inner) = tally;
    }

    /// Counts the sessions of this tally too.
    pub fn also_count_into(&self, tally: Arc<Tally>) {
        let also = self.counting.also.write();
        *also.unwrap_or_else(PoisonError::into_inner) = Some(tally);
    }

    /// Sets whether it posts an answer to each message's `response_url`. It does so as the seed's
    /// server does: before it responds to the delivery; if that fails, it responds 500.
    pub fn answer(&self, answers: bool) {
        self.counting.answers.store(answers, Ordering::Release);
    }

    /// From now on posts each answer after a random delay up to this limit, after it has responded
    /// to the delivery; retries until the answer is accepted or rejected.
    pub fn answer_within(&self, latest: Duration) {
        let millis = u64::try_from(latest.as_millis()).unwrap_or(u64::MAX);
        self.counting.latest_ms.store(millis, Ordering::Release);
        self.answer(true);
    }

    /// How many late answers the gateway rejected, or did not accept in two minutes.
    pub fn refused(&self) -> u64 {
        self.server.refused()
    }

    /// From now on responds to every request with this status, and counts none.
    pub fn fail(&self, status: StatusCode) {
        let failing = &self.counting.failing;
        failing.store(status.as_u16(), Ordering::Release);
    }

    /// From now on responds 500 to requests of sessions with this prefix.
    pub fn fail_for(&self, prefix: &str) {
        let fails_for = self.counting.fails_for.write();
        *fails_for.unwrap_or_else(PoisonError::into_inner) = Some(prefix.to_owned());
    }

    /// From now on every request is counted and gets no response until the returned cancellation
    /// token is cancelled.
    pub fn hold(&self) -> CancellationToken {
        let closed = CancellationToken::new();
        let gate = self.counting.gate.write();
        *gate.unwrap_or_else(PoisonError::into_inner) = closed.clone();
        closed
    }

    /// Ends the simulated failure.
    pub fn recover(&self) {
        self.counting.failing.store(0, Ordering::Release);
    }
}

impl Counting {
    fn reply(&self, request: &Received) -> Reply {
        let failing = self.failing.load(Ordering::Acquire);
        if failing != 0 {
            return Reply::status(failing);
        }
        let session = request.field("session_id");
        let fails_for = self.fails_for.read();
        let fails_for = fails_for.unwrap_or_else(PoisonError::into_inner);
        if fails_for
            .as_ref()
            .is_some_and(|prefix| session.starts_with(prefix))
        {
            return Reply::status(500);
        }
        let tally = self.tally.read().unwrap_or_else(PoisonError::into_inner);
        tally.count(&session);
        let also = self.also.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(also) = &*also {
            also.count(&session);
        }
        let gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        if !gate.is_cancelled() {
            return Reply::ok().after(gate.clone());
        }
        if !self.answers.load(Ordering::Acquire) {
            return Reply::ok().body(r#"{"success": true}"#);
        }
        let reply = Reply::answering(r#"{"text":"Received","platform":"counting"}"#);
        match self.latest_ms.load(Ordering::Acquire) {
            0 => reply,
            latest => reply.late(Duration::from_millis(rand::random_range(0..latest))),
        }
    }
}

fn open_gate() -> CancellationToken {
    let gate = CancellationToken::new();
    gate.cancel();
    gate
}
