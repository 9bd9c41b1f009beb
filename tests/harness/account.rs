//! The final states of accepted messages, read as an operator does: `GET /channel/message/{id}`.
//!
//! Invariant: a message counts as ended only if the gateway reports a final state that agrees with
//! the message's timeline.

use std::{
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
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    http::{Connection, Peer},
    loader::Accepted,
};

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
