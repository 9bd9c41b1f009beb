//! What is erased, or is to be: the erasures of sessions, and the marks of messages.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    str::FromStr,
};

use roundtrip_model::{Entry, SessionId, millis};
use rusqlite::{Connection, Row, Transaction};
use serde::Serialize;

use super::rows::Columns;
use crate::{Erasure, ledger::Subject};

const ERASURES: &str = "
    SELECT * FROM erasures WHERE session_id IN (SELECT value FROM json_each(?1))";
const MARKED_MESSAGES: &str = "
    SELECT message_id AS id, erased_at FROM messages
    WHERE message_id IN (SELECT value FROM json_each(?1)) AND erased_at IS NOT NULL";
const MARKED_ANSWERS: &str = "
    SELECT callback_id AS id, erased_at FROM answers
    WHERE callback_id IN (SELECT value FROM json_each(?1)) AND erased_at IS NOT NULL";

/// The erasures of those of these sessions that have one.
pub(super) fn of_sessions<'a>(
    connection: &Connection,
    sessions: impl IntoIterator<Item = &'a SessionId>,
) -> rusqlite::Result<BTreeMap<SessionId, Erasure>> {
    let distinct: BTreeSet<&SessionId> = sessions.into_iter().collect();
    let mut select = connection.prepare_cached(ERASURES)?;
    let found = select.query_map([serde_json::json!(distinct).to_string()], erasure)?;
    let found = found.map(|erasure| erasure.map(|one| (one.session_id.clone(), one)));
    found.collect()
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
    let (mut messages, mut answers) = (Vec::new(), Vec::new());
    for subject in subjects.keys() {
        match subject {
            Subject::Message(id) => messages.push(*id),
            Subject::Answer(id) => answers.push(*id),
        }
    }
    let mut erased = BTreeMap::new();
    for (id, at) in marked(transaction, MARKED_MESSAGES, &messages)? {
        erased.insert(Subject::Message(id), at);
    }
    if !answers.is_empty() {
        for (id, at) in marked(transaction, MARKED_ANSWERS, &answers)? {
            erased.insert(Subject::Answer(id), at);
        }
    }
    let erasures = of_sessions(transaction, subjects.values().copied())?;
    for (subject, session) in subjects {
        if let Some(erasure) = erasures.get(session)
            && erasure.covers_subject(&subject)
        {
            let at = millis::of(erasure.requested_at);
            erased.entry(subject).or_insert(at);
        }
    }
    Ok(erased)
}

fn marked<Id: FromStr + Serialize>(
    transaction: &Transaction<'_>,
    sql: &str,
    ids: &[Id],
) -> rusqlite::Result<Vec<(Id, i64)>>
where
    Id::Err: Error + Send + Sync + 'static,
{
    let mut marked = transaction.prepare_cached(sql)?;
    let marked = marked.query_map([serde_json::json!(ids).to_string()], |row| {
        let columns = Columns(row);
        Ok((columns.parsed("id")?, columns.get("erased_at")?))
    })?;
    marked.collect()
}
