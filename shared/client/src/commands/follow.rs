//! `roundtrip sessions tail`: prints the events of a session, those that are kept and then new ones.
//!
//! The gateway may send events again after a look, so the latest ids are remembered.

use std::collections::{BTreeSet, VecDeque};

use reqwest::header::HeaderName;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::tail::{LOOK_EVERY, Patience};
use crate::{
    api::{Api, Call, not_ours},
    failure::Failure,
    screen::{Screen, document},
    table::{Cell, Table},
    values,
};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// More events than come again.
const MAX_REMEMBERED: usize = 10_000;

const HEADS: [&str; 5] = ["AT", "EVENT", "ID", "STATE", "CONTENT"];

pub(super) async fn follow(api: &Api, screen: Screen, session: &str) -> Result<(), Failure> {
    let mut seen = Seen::default();
    let mut patience = Patience::default();
    let mut heads: &[&'static str] = &HEADS;
    loop {
        let looked = look(api, session, &mut seen, |events| {
            if screen.is_json() {
                for event in events {
                    document(&event.document().to_string())?;
                }
                return Ok(());
            }
            if events.is_empty() {
                return Ok(());
            }
            let mut table = Table::new(std::mem::take(&mut heads));
            for event in events {
                table.add(event.row());
            }
            screen.table(&table)
        });
        patience.after(looked.await)?;
        sleep(LOOK_EVERY).await;
    }
}

async fn look(
    api: &Api,
    session: &str,
    seen: &mut Seen,
    print: impl FnOnce(&[SessionEvent]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut call = Call::get(&["sessions", session, "events"]).query("wait", "0");
    if let Some(last) = &seen.last {
        call = call.header(LAST_EVENT_ID, last);
    }
    let reply = api.call(call).await?;
    let mut new = Vec::new();
    for event in events(&reply.body)? {
        if seen.is_new(&event.id) {
            new.push(event);
        }
    }
    print(&new)
}

#[derive(Debug, PartialEq)]
struct SessionEvent {
    id: String,
    name: String,
    data: Value,
}

/// The server-sent events of a response, without its comments.
fn events(text: &str) -> Result<Vec<SessionEvent>, Failure> {
    let blocks = text.split("\n\n").filter(|block| block.contains("data: "));
    let read = |block: &str| {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
        Some(SessionEvent {
            id: field("id: ")?.to_owned(),
            name: field("event: ")?.to_owned(),
            data: serde_json::from_str(field("data: ")?).ok()?,
        })
    };
    blocks
        .map(|block| read(block).ok_or_else(not_ours))
        .collect()
}

impl SessionEvent {
    fn document(&self) -> Value {
        json!({"id": self.id, "event": self.name, "data": self.data})
    }

    fn row(&self) -> Vec<Cell> {
        let data = &self.data;
        let own = data.get("callback_id").unwrap_or(&data["message_id"]);
        vec![
            values::time(&data["at"]).into(),
            self.name.clone().into(),
            values::text(own).into(),
            values::state(&data["state"]),
            values::excerpt(values::content(data)).into(),
        ]
    }
}

/// The latest events.
#[derive(Default)]
struct Seen {
    ids: BTreeSet<String>,
    order: VecDeque<String>,
    last: Option<String>,
}

impl Seen {
    fn is_new(&mut self, id: &str) -> bool {
        if !self.ids.insert(id.to_owned()) {
            return false;
        }
        self.order.push_back(id.to_owned());
        if self.order.len() > MAX_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        self.last = Some(id.to_owned());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_new_once() {
        let text = "event: answer\nid: 1.cb_1\ndata: {\"response_data\":\"a\"}\n\n: \n\n\
                    event: ended\nid: 2.msg_1.dead.0\ndata: {\"state\":\"dead\"}\n\n";
        let read = events(text).unwrap();
        let names: Vec<_> = read.iter().map(|event| event.name.as_str()).collect();
        assert_eq!(names, ["answer", "ended"]);
        let mut seen = Seen::default();
        assert!(read.iter().all(|event| seen.is_new(&event.id)));
        assert!(!read.iter().any(|event| seen.is_new(&event.id)));
        assert_eq!(seen.last.as_deref(), Some("2.msg_1.dead.0"));
    }

    #[test]
    fn a_response_of_another_server_is_an_error() {
        assert!(events("data: {}\n\n").is_err());
        assert_eq!(events("").unwrap(), []);
    }
}
