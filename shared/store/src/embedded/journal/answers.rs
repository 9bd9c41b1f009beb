//! The contents of answers, as they are read.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::super::rows::{Columns, unreadable};
use crate::{
    AnswerRecord, Answers, MAX_ANSWERS, StoredAnswer, TurnCursor,
    ledger::{Part, latest_entry},
    page::PageBudget,
};

const ANSWERS: &str = "
    SELECT callback_id, at, content, erased_at FROM answers WHERE message_id = ?1
    ORDER BY at DESC, callback_id DESC LIMIT ?2";
const ANSWER: &str = "
    SELECT callback_id, at, content, erased_at FROM answers
    WHERE message_id = ?1 AND (?2 IS NULL OR callback_id = ?2)
    ORDER BY at, callback_id LIMIT 1";
const ANSWERED: &str = "
    SELECT * FROM answers
    WHERE session_id = ?1 AND (at, callback_id) > (?2, ?3)
    AND (?4 IS NULL OR channel_id IN (SELECT value FROM json_each(?4)))
    ORDER BY at, callback_id LIMIT ?5";

/// The latest answers to a message.
pub(super) fn all(connection: &Connection, message_id: &str) -> rusqlite::Result<Answers> {
    let mut budget = PageBudget::of(MAX_ANSWERS);
    let mut page = Answers::default();
    let mut select = connection.prepare_cached(ANSWERS)?;
    let mut found = select.query((message_id, MAX_ANSWERS + 1))?;
    while let Some(row) = found.next()? {
        if !budget.take(row.get_ref("content")?.as_str()?.len()) {
            page.has_earlier = true;
            break;
        }
        page.answers.push(answer_record(row)?);
    }
    page.answers.reverse();
    Ok(page)
}

/// The answer with this id, or the first one.
pub(super) fn one(
    connection: &Connection,
    message_id: &str,
    which: Option<&str>,
) -> rusqlite::Result<Option<AnswerRecord>> {
    let mut select = connection.prepare_cached(ANSWER)?;
    select
        .query_row((message_id, which), answer_record)
        .optional()
}

fn answer_record(row: &Row<'_>) -> rusqlite::Result<AnswerRecord> {
    let columns = Columns(row);
    let contents_erased_at = columns.optional_time("erased_at")?;
    Ok(AnswerRecord {
        callback_id: columns.parsed("callback_id")?,
        at: columns.time("at")?,
        content: match contents_erased_at {
            Some(_) => None,
            None => Some(columns.json("content")?),
        },
        contents_erased_at,
    })
}

/// An answer, with or without a message.
pub(in super::super) fn stored_answer(row: &Row<'_>) -> rusqlite::Result<StoredAnswer> {
    let columns = Columns(row);
    let latest: Option<String> = columns.get("latest")?;
    let latest = latest.map(|text| latest_entry(&text)).transpose();
    let contents_erased_at = columns.optional_time("erased_at")?;
    let content: Option<String> = columns.get("content")?;
    let content = content.filter(|_| contents_erased_at.is_none());
    let content = content.map(|text| serde_json::from_str(&text)).transpose();
    Ok(StoredAnswer {
        callback_id: columns.parsed("callback_id")?,
        at: columns.time("at")?,
        content: content.map_err(unreadable)?,
        message_id: columns.optional("message_id")?,
        channel_id: columns.optional("channel_id")?,
        session_id: columns.parsed("session_id")?,
        latest: latest.map_err(unreadable)?,
        contents_erased_at,
    })
}

/// The answers in a session, from these channels.
pub(super) fn in_session(
    snapshot: &Transaction<'_>,
    (session, channels): (&str, Option<&str>),
    after: Option<&TurnCursor>,
    limit: u16,
) -> rusqlite::Result<Part<StoredAnswer>> {
    let mut part = Part::of(limit);
    let (at, id) = after.map_or((i64::MIN, String::new()), TurnCursor::answer);
    let mut select = snapshot.prepare_cached(ANSWERED)?;
    let mut found = select.query(params![session, at, id, channels, u32::from(limit) + 1])?;
    while let Some(row) = found.next()? {
        let answer = stored_answer(row)?;
        let bytes = answer.bytes();
        if !part.add(answer, bytes) {
            break;
        }
    }
    Ok(part)
}
