//! The events of sessions.
//!
//! Invariant: the sequence number of an event is greater than those of all that were committed
//! before, because one transaction writes at a time.

use async_trait::async_trait;
use roundtrip_model::{ChannelId, SessionId, millis};
use rusqlite::{Row, Transaction, params};
use time::OffsetDateTime;

use super::{
    SqliteStore,
    rows::{Columns, unreadable},
};
use crate::{
    EventCursor, QueryError, SessionEvent, SessionEvents,
    ledger::{EventType, NewSessionEvent, message_of},
};

const INSERT: &str = "
    INSERT INTO session_events (event_id, session_id, channel_id, message_id, type, at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6)
    ON CONFLICT DO NOTHING";
const SELECT: &str = "
    SELECT sequence, event_id, session_events.message_id, session_events.channel_id, type,
        session_events.at, coalesce(answers.content, contents.message) AS content,
        coalesce(answers.erased_at, messages.erased_at) AS erased_at
    FROM session_events
    LEFT JOIN answers ON type = 'answer' AND callback_id = event_id
    LEFT JOIN messages ON type = 'inbound' AND messages.message_id = event_id
    LEFT JOIN contents ON type = 'inbound' AND contents.message_id = event_id
    WHERE session_events.session_id = ?1 AND sequence > ?2
    AND (?3 IS NULL OR session_events.channel_id IN (SELECT value FROM json_each(?3)))
    ORDER BY sequence LIMIT ?4";

#[async_trait]
impl SessionEvents for SqliteStore {
    async fn session_events(
        &self,
        session: &SessionId,
        channels: Option<&[ChannelId]>,
        after: Option<&EventCursor>,
        limit: u16,
    ) -> Result<Vec<SessionEvent>, QueryError> {
        let session = session.to_string();
        let channels = channels.map(|channels| serde_json::json!(channels).to_string());
        let after = after.map_or(i64::MIN, |after| after.place);
        self.run_query(move |connection, _| {
            let mut select = connection.prepare_cached(SELECT)?;
            let found = select.query_map(params![session, after, channels, limit], event)?;
            found.collect::<rusqlite::Result<_>>()
        })
        .await
    }

    fn continued(&self, cursor: EventCursor, _now: OffsetDateTime) -> EventCursor {
        cursor
    }
}

pub(super) fn insert<'a>(
    transaction: &Transaction<'_>,
    events: impl Iterator<Item = NewSessionEvent<'a>>,
) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(INSERT)?;
    for event in events {
        let entry = event.entry;
        let (message_id, channel_id) = message_of(entry).unzip();
        insert.execute(params![
            event.id,
            entry.session_id.as_str(),
            channel_id.map(ChannelId::as_str),
            message_id.map(|id| id.to_string()),
            event.event_type.as_str(),
            millis::of(entry.at),
        ])?;
    }
    Ok(())
}

fn event(row: &Row<'_>) -> rusqlite::Result<SessionEvent> {
    let columns = Columns(row);
    let id: String = columns.get("event_id")?;
    let kind = columns.named::<EventType>("type")?.kind(&id);
    let contents_erased_at = columns.optional_time("erased_at")?;
    let content: Option<String> = columns.get("content")?;
    let content = content.filter(|_| contents_erased_at.is_none());
    let content = content.map(|text| serde_json::from_str(&text)).transpose();
    Ok(SessionEvent {
        kind: kind.map_err(unreadable)?,
        cursor: EventCursor {
            place: columns.get("sequence")?,
            id,
        },
        at: columns.time("at")?,
        message_id: columns.optional("message_id")?,
        channel_id: columns.optional("channel_id")?,
        content: content.map_err(unreadable)?,
        contents_erased_at,
    })
}
