//! What is erased, or is to be: the erasures of sessions, and the marks of messages.

use std::collections::BTreeMap;

use roundtrip_model::{Entry, MessageId, SessionId, millis};
use rusqlite::{Connection, OptionalExtension, Row, Transaction};

use super::rows::Columns;
use crate::Erasure;

const ERASURE: &str = "SELECT * FROM erasures WHERE session_id = ?1";
const MARKED: &str = "
    SELECT message_id, erased_at FROM messages
    WHERE message_id IN (SELECT value FROM json_each(?1)) AND erased_at IS NOT NULL";

/// The erasure of a session, if there is one.
pub(super) fn of_session(
    connection: &Connection,
    session: &str,
) -> rusqlite::Result<Option<Erasure>> {
    let mut select = connection.prepare_cached(ERASURE)?;
    select.query_row([session], erasure).optional()
}

pub(super) fn erasure(row: &Row<'_>) -> rusqlite::Result<Erasure> {
    let columns = Columns(row);
    Ok(Erasure {
        session_id: columns.parsed("session_id")?,
        requested_at: columns.time("requested_at")?,
        ended_at: columns.optional_time("ended_at")?,
    })
}

/// Those of the messages of these entries whose contents are erased, and since when.
pub(super) fn erased(
    transaction: &Transaction<'_>,
    entries: &[Entry],
) -> rusqlite::Result<BTreeMap<MessageId, i64>> {
    let sessions: BTreeMap<MessageId, &SessionId> = entries
        .iter()
        .map(|entry| (entry.message_id, &entry.session_id))
        .collect();
    let ids: Vec<&MessageId> = sessions.keys().collect();
    let mut marked = transaction.prepare_cached(MARKED)?;
    let marked = marked.query_map([serde_json::json!(ids).to_string()], |row| {
        let columns = Columns(row);
        Ok((columns.parsed("message_id")?, columns.get("erased_at")?))
    })?;
    let mut erased: BTreeMap<MessageId, i64> = marked.collect::<rusqlite::Result<_>>()?;
    for (id, session) in &sessions {
        if let Some(erasure) = of_session(transaction, session.as_str())?
            && erasure.covers(&id.to_string())
        {
            let at = millis::of(erasure.requested_at);
            erased.entry(*id).or_insert(at);
        }
    }
    Ok(erased)
}
