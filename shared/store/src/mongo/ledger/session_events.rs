//! The events of sessions.
//!
//! The order of events is that of the times at which the server stored them. Two writes that overlap can
//! become visible in the other order, and the servers of a replica set and the readers have clocks of
//! their own. So a reader reads what was stored within [`OVERLAP`] again.

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use bson::{DateTime, Document, doc};
use roundtrip_model::{ChannelId, Entry, MessageId, SessionId, journal::KeptAnswer, millis};
use serde::Deserialize;
use time::OffsetDateTime;

use super::{
    super::MongoStore, ANSWERS, MESSAGES, SESSION_EVENTS, Unreadable, bulk, of_channels, primary,
    read_time, rows, stored,
};
use crate::{
    EventCursor, QueryError, SessionEvent, SessionEventKind, SessionEvents,
    ledger::{EventType, events_in, message_of},
};

/// Longer than a write takes to become visible, with the difference between two clocks.
const OVERLAP: Duration = Duration::from_secs(10);

#[async_trait]
impl SessionEvents for MongoStore {
    async fn session_events(
        &self,
        session: &SessionId,
        channels: Option<&[ChannelId]>,
        after: Option<&EventCursor>,
        limit: u16,
    ) -> Result<Vec<SessionEvent>, QueryError> {
        // MongoDB reads 0 as no limit.
        if limit == 0 {
            return Ok(Vec::new());
        }
        let asked = asked(session, channels, after);
        let events = self.run_query(SESSION_EVENTS, move |events, max_time| async move {
            let found = events
                .find(asked)
                .sort(doc! { "stored_at": 1, "_id": 1 })
                .limit(i64::from(limit))
                .max_time(max_time)
                .selection_criteria(primary())
                .await?;
            Ok::<_, QueryError>(rows(found, EventRow::event).await?)
        });
        let mut events = events.await?;
        let ids = |kind: fn(&SessionEventKind) -> bool| -> Vec<_> {
            let of_kind = events.iter().filter(|event| kind(&event.kind));
            of_kind.map(|event| event.cursor.id.clone()).collect()
        };
        let answers = ids(|kind| matches!(kind, SessionEventKind::Answer(_)));
        let inbound = ids(|kind| matches!(kind, SessionEventKind::Inbound));
        let mut contents = self.contents(ANSWERS, "content", answers).await?;
        contents.extend(self.contents(MESSAGES, "content.message", inbound).await?);
        for event in &mut events {
            if let Some(found) = contents.remove(&event.cursor.id) {
                event.content = found.content;
                event.contents_erased_at = found.erased_at;
            }
        }
        Ok(events)
    }

    fn continued(&self, cursor: EventCursor, now: OffsetDateTime) -> EventCursor {
        let settled = EventCursor {
            place: millis::of(now - OVERLAP),
            id: String::new(),
        };
        settled.min(cursor)
    }
}

impl MongoStore {
    /// The contents, in this field, of the documents with these ids.
    async fn contents(
        &self,
        collection: &'static str,
        field: &'static str,
        ids: Vec<String>,
    ) -> Result<HashMap<String, Content>, QueryError> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        self.run_query(collection, move |documents, max_time| async move {
            let found = documents
                .aggregate([
                    doc! { "$match": { "_id": { "$in": ids } } },
                    doc! { "$project": { "content": format!("${field}"), "erased_at": 1 } },
                ])
                .max_time(max_time)
                .selection_criteria(primary())
                .await?;
            let read = rows(found, ContentRow::read).await?;
            Ok::<_, QueryError>(read.into_iter().collect())
        })
        .await
    }
}

fn asked(
    session: &SessionId,
    channels: Option<&[ChannelId]>,
    after: Option<&EventCursor>,
) -> Document {
    let mut asked = doc! { "session_id": session.as_str() };
    if let Some(channels) = of_channels(None, channels) {
        asked.insert("channel_id", channels);
    }
    if let Some(after) = after {
        let at = DateTime::from_millis(after.place);
        let later = doc! { "stored_at": { "$gt": at } };
        let same_time = doc! { "stored_at": at, "_id": { "$gt": &after.id } };
        asked.insert("$or", [later, same_time].to_vec());
        // Lets the index find the place.
        asked.insert("stored_at", doc! { "$gte": at });
    }
    asked
}

/// The updates that store the events of these entries. One that finds its event stored is refused as
/// a duplicate, so the time of an event never changes.
pub(super) fn updates(entries: &[Entry]) -> Vec<Vec<Document>> {
    bulk::in_commands(events_in(entries).map(|event| {
        let entry = event.entry;
        let mut set = doc! {
            "session_id": entry.session_id.as_str(),
            "type": event.event_type.as_str(),
            "at": stored(entry.at),
        };
        if let Some((message_id, channel_id)) = message_of(entry) {
            set.insert("message_id", message_id.to_string());
            set.insert("channel_id", channel_id.as_str());
        }
        let statement = doc! {
            "q": { "_id": event.id, "stored_at": { "$exists": false } },
            "u": { "$set": set, "$currentDate": { "stored_at": true } },
            "upsert": true,
        };
        (statement, 0)
    }))
}

#[derive(Deserialize)]
struct EventRow {
    #[serde(rename = "_id")]
    id: String,
    message_id: Option<MessageId>,
    channel_id: Option<ChannelId>,
    #[serde(rename = "type")]
    event_type: EventType,
    at: DateTime,
    stored_at: DateTime,
}

impl EventRow {
    fn event(self) -> Result<SessionEvent, Unreadable> {
        let kind = self.event_type.kind(&self.id);
        Ok(SessionEvent {
            kind: kind.map_err(|error| Unreadable(error.into()))?,
            cursor: EventCursor {
                place: self.stored_at.timestamp_millis(),
                id: self.id,
            },
            at: read_time(self.at)?,
            message_id: self.message_id,
            channel_id: self.channel_id,
            content: None,
            contents_erased_at: None,
        })
    }
}

#[derive(Deserialize)]
struct ContentRow {
    #[serde(rename = "_id")]
    id: String,
    /// The JSON of a `KeptAnswer`.
    content: Option<String>,
    erased_at: Option<DateTime>,
}

struct Content {
    content: Option<KeptAnswer>,
    erased_at: Option<OffsetDateTime>,
}

impl ContentRow {
    fn read(self) -> Result<(String, Content), Unreadable> {
        let content = self.content.filter(|_| self.erased_at.is_none());
        let content = content.map(|text| serde_json::from_str(&text)).transpose();
        let read = Content {
            content: content.map_err(|error| Unreadable(error.into()))?,
            erased_at: self.erased_at.map(read_time).transpose()?,
        };
        Ok((self.id, read))
    }
}
