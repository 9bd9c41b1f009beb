//! A sessions server for newcomers: keeps the latest answers in memory, to be read by session.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post},
};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};

/// The most sessions; the oldest is evicted.
const MAX_SESSIONS: usize = 1000;
/// The most answers of one session; the oldest is evicted.
pub(crate) const MAX_ANSWERS: usize = 100;

#[derive(Debug, Deserialize)]
struct Answer {
    session_id: String,
    response_data: Value,
}

#[derive(Debug, Default)]
struct Inbox {
    answers: HashMap<String, VecDeque<Value>>,
    /// Sessions by the time of their first answer.
    order: VecDeque<String>,
}

type SharedInbox = Arc<Mutex<Inbox>>;

impl Inbox {
    fn keep(&mut self, answer: Answer) {
        let answers = self
            .answers
            .entry(answer.session_id.clone())
            .or_insert_with(|| {
                self.order.push_back(answer.session_id);
                VecDeque::new()
            });
        answers.push_back(answer.response_data);
        if answers.len() > MAX_ANSWERS {
            answers.pop_front();
        }
        if self.order.len() > MAX_SESSIONS
            && let Some(oldest) = self.order.pop_front()
        {
            self.answers.remove(&oldest);
        }
    }
}

pub(crate) fn router() -> Router {
    Router::new()
        .route("/dev/sessions", post(receive))
        .route("/dev/sessions/{session_id}", get(read))
        .with_state(SharedInbox::default())
}

async fn receive(State(inbox): State<SharedInbox>, Json(answer): Json<Answer>) -> StatusCode {
    inbox.lock().keep(answer);
    StatusCode::NO_CONTENT
}

async fn read(State(inbox): State<SharedInbox>, Path(session_id): Path<String>) -> Json<Value> {
    let inbox = inbox.lock();
    let responses = inbox.answers.get(&session_id).cloned().unwrap_or_default();
    Json(json!({"session_id": session_id, "responses": responses}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(session: usize, number: usize) -> Answer {
        Answer {
            session_id: session.to_string(),
            response_data: json!(number),
        }
    }

    #[test]
    fn the_inbox_is_bounded_and_keeps_the_latest() {
        let mut inbox = Inbox::default();
        for number in 0..=MAX_ANSWERS {
            inbox.keep(answer(0, number));
        }
        assert_eq!(inbox.answers["0"].len(), MAX_ANSWERS);
        assert_eq!(inbox.answers["0"].back(), Some(&json!(MAX_ANSWERS)));
        for session in 1..=MAX_SESSIONS {
            inbox.keep(answer(session, 0));
        }
        assert_eq!(inbox.answers.len(), MAX_SESSIONS);
        assert!(!inbox.answers.contains_key("0"));
    }
}
