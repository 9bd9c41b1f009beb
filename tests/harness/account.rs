//! The account of a test: what the gateway accepted, and what became of it. A message is also an inbound
//! one, which the sessions server takes.
//!
//! Invariant: an accepted message is entered by the id in the gateway's response. It is accounted
//! for by the test's own servers, or by `GET /channel/message/{id}`: a final state counts only if it
//! agrees with the message's timeline.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use hyper::StatusCode;
use roundtrip_model::State;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    gateway::Response,
    http::{Connection, Peer},
    loader::Accepted,
    scripted::Received,
};

/// The messages and the sessions of the answers that were answered 202.
#[derive(Debug, Clone, Default)]
pub(crate) struct Account {
    messages: BTreeSet<String>,
    answers: BTreeSet<String>,
}

impl Account {
    pub(crate) fn enter(&mut self, path: &str, body: &str, response: &Response) {
        let text =
            |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let json = response.json();
        let path = path.split('?').next().unwrap_or_default();
        match (path, response.status) {
            ("/webhook-response", 202) => {
                let body = serde_json::from_str(body).unwrap_or_default();
                self.answers.insert(text(&body, "session_id"));
            }
            ("/channel/message", 200 | 202) => {
                self.messages.insert(text(&json, "message_id"));
            }
            ("/channel/messages", 200) => {
                let results = json["results"].as_array().into_iter().flatten();
                let accepted = results.filter(|result| result["status"] == "queued");
                let ids = accepted.map(|result| text(result, "message_id"));
                self.messages.extend(ids);
            }
            (path, 202) if path.ends_with("/inbound") => {
                self.messages.insert(text(&json, "message_id"));
            }
            // It need not be delivered.
            (path, 200) if path.ends_with("/cancel") => {
                self.messages.remove(&text(&json, "message_id"));
            }
            _ => {}
        }
    }

    /// Enters the answers of these sessions, which a server has posted.
    pub(crate) fn answered(&mut self, sessions: Vec<String>) {
        self.answers.extend(sessions);
    }

    /// The messages that none of these requests delivered.
    pub(crate) fn undelivered(&self, taken: &[Received]) -> Vec<&String> {
        let delivered: BTreeSet<_> = taken.iter().map(Received::webhook_id).collect();
        let messages = self.messages.iter();
        messages
            .filter(|id| !delivered.contains(id.as_str()))
            .collect()
    }

    /// The sessions of the answers that none of these requests forwarded.
    pub(crate) fn unforwarded(&self, taken: &[Received]) -> Vec<&String> {
        let forwards = taken.iter();
        let forwarded: BTreeSet<_> = forwards
            .filter(|request| request.webhook_id().starts_with("cb_"))
            .map(|request| request.field("session_id"))
            .collect();
        let answers = self.answers.iter();
        answers
            .filter(|session| !forwarded.contains(*session))
            .collect()
    }
}

/// The most concurrent reads.
const ASKED_AT_ONCE: usize = 8;

/// The wait before a message that has not ended is read again.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// The expected final state of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Each is answered, and its answer forwarded.
    Forwarded,
    /// No answer is expected.
    Delivered,
}

impl End {
    fn is_final(self, state: State) -> bool {
        match self {
            Self::Forwarded => matches!(state, State::Forwarded | State::Dead),
            Self::Delivered => matches!(state, State::Delivered | State::Dead),
        }
    }
}

/// A message and its final state; `None` if it did not end in time.
#[derive(Debug, Clone)]
pub struct Ended {
    pub message: Accepted,
    pub state: Option<State>,
}

/// The API's record of a message.
#[derive(Debug, Deserialize)]
struct Timeline {
    state: State,
    timeline: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    r#type: String,
    next: Option<Next>,
}

#[derive(Debug, Deserialize)]
struct Next {
    r#type: String,
}

impl Timeline {
    /// Whether the entries lead to the state, which is a final one.
    fn agrees(&self) -> bool {
        let has = |event: &str, next: Option<&str>| {
            self.timeline.iter().any(|entry| {
                let found = entry.next.as_ref().map(|next| next.r#type.as_str());
                entry.r#type == event && found == next
            })
        };
        let is_delivered = has("attempted", Some("done"));
        match self.state {
            // An inbound message is itself forwarded.
            State::Forwarded if has("received", None) => is_delivered,
            State::Forwarded => has("forward_attempted", Some("done")),
            State::Delivered => is_delivered && !has("answered", None),
            State::Dead => {
                !is_delivered && (has("dead", None) || has("attempted", Some("dead_letter")))
            }
            _ => false,
        }
    }
}

/// Reads each message until it has ended or the deadline passes.
pub async fn settle(
    ingress: &Peer,
    accepted: Vec<Accepted>,
    end: End,
    deadline: Instant,
) -> Vec<Ended> {
    let accepted = Arc::new(accepted);
    let next = Arc::new(AtomicUsize::new(0));
    let askers = (0..ASKED_AT_ONCE).map(|_| {
        let (accepted, next) = (Arc::clone(&accepted), Arc::clone(&next));
        async move {
            let mut connection = None;
            let mut ended = Vec::new();
            while let Some(message) = accepted.get(next.fetch_add(1, Ordering::AcqRel)) {
                let state = ask(ingress, &mut connection, message, end, deadline).await;
                ended.push(Ended {
                    message: message.clone(),
                    state,
                });
            }
            ended
        }
    });
    join_all(askers).await.into_iter().flatten().collect()
}

async fn ask(
    ingress: &Peer,
    connection: &mut Option<Connection>,
    message: &Accepted,
    end: End,
    deadline: Instant,
) -> Option<State> {
    loop {
        let asked = look(ingress, connection, &message.id);
        // A connection that the deadline interrupted, or that broke, is not used again.
        if let Ok(Ok(Some(timeline))) = timeout_at(deadline, asked).await {
            // MongoDB has the state and the entries in two collections, so a read can see one
            // before the other.
            if timeline.agrees() && end.is_final(timeline.state) {
                return Some(timeline.state);
            }
        }
        if Instant::now() >= deadline {
            return None;
        }
        sleep(ASK_EVERY).await;
    }
}

async fn look(
    ingress: &Peer,
    connection: &mut Option<Connection>,
    id: &str,
) -> anyhow::Result<Option<Timeline>> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => Connection::open(ingress).await?,
    };
    let (status, body) = open.get(&format!("/channel/message/{id}")).await?;
    *connection = Some(open);
    if status != StatusCode::OK {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&body)?))
}
