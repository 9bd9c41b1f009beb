//! What is erased, or is to be: the erasures of sessions, and the marks of messages.

use std::collections::BTreeMap;

use roundtrip_model::{Entry, SessionId, millis};
use rusqlite::{Connection, OptionalExtension, Row, Transaction};

use super::rows::Columns;
use crate::{Erasure, ledger::Subject};

const ERASURE: &str = "SELECT * FROM erasures WHERE session_id = ?1";
const MARKED_MESSAGE: &str = "SELECT erased_at FROM messages WHERE message_id = ?1";
const MARKED_ANSWER: &str = "SELECT erased_at FROM answers WHERE callback_id = ?1";

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

/// Those of the subjects of these entries whose contents are erased, and since when.
pub(super) fn erased(
    transaction: &Transaction<'_>,
    entries: &[Entry],
) -> rusqlite::Result<BTreeMap<Subject, i64>> {
    let subjects: BTreeMap<Subject, &SessionId> = entries
        .iter()
        .filter_map(|entry| Some((Subject::of(entry)?, &entry.session_id)))
        .collect();
    let mut erased = BTreeMap::new();
    for (subject, session) in subjects {
        if let Some(at) = marked(transaction, &subject)? {
            erased.insert(subject, at);
        } else if let Some(erasure) = of_session(transaction, session.as_str())?
            && erasure.covers_subject(&subject)
        {
            erased.insert(subject, millis::of(erasure.requested_at));
        }
    }
    Ok(erased)
}

fn marked(transaction: &Transaction<'_>, subject: &Subject) -> rusqlite::Result<Option<i64>> {
    let (sql, id) = match subject {
        Subject::Message(id) => (MARKED_MESSAGE, id.to_string()),
        Subject::Answer(id) => (MARKED_ANSWER, id.to_string()),
    };
    let mut select = transaction.prepare_cached(sql)?;
    let marked = select.query_row([id], |row| row.get(0)).optional()?;
    Ok(marked.flatten())
}
