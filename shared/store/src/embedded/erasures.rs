//! The erasure of contents.
//!
//! Invariant: what is erased is overwritten in the file (`secure_delete`), and an erasure ends only
//! after the WAL file was emptied, which may hold earlier forms of pages.

use async_trait::async_trait;
use roundtrip_model::{CallbackId, MessageId, SessionId, millis};
use rusqlite::{OptionalExtension, Transaction};
use time::OffsetDateTime;

use super::{
    SqliteStore,
    erased::{erasure, of_sessions},
    rows::{Columns, unwritable},
    waiting::{cancelled, outline},
};
use crate::{
    Erasure, Erasures, MAX_ERASED_AT_ONCE, TurnCursor, Unavailable, WaitingMessage,
    ledger::{ERASED, latest_without_contents, without_contents},
};

const REQUEST: &str = "
    INSERT INTO erasures (session_id, requested_at) VALUES (?1, ?2)
    ON CONFLICT DO UPDATE SET
        requested_at = max(requested_at, excluded.requested_at), ended_at = NULL";
const UNFINISHED: &str = "
    SELECT * FROM erasures WHERE ended_at IS NULL ORDER BY requested_at, session_id LIMIT ?1";
const END: &str = "UPDATE erasures SET ended_at = ?3 WHERE session_id = ?1 AND requested_at = ?2";
const MESSAGES: &str = "
    SELECT message_id FROM messages
    WHERE session_id = ?1 AND message_id > ?2 AND message_id < ?3
    ORDER BY message_id LIMIT ?4";
const MARK: &str = "UPDATE messages SET erased_at = ?2 WHERE message_id = ?1 AND erased_at IS NULL";
const ERASE_CONTENT: &str = "DELETE FROM contents WHERE message_id = ?1";
const ERASE_ANSWERS: &str = "
    UPDATE answers SET content = '', erased_at = ?2 WHERE message_id = ?1 AND erased_at IS NULL";
const ANSWERS_ALONE: &str = "
    SELECT callback_id, at FROM answers
    WHERE session_id = ?1 AND (at, callback_id) > (?2, ?3)
        AND message_id IS NULL AND callback_id < ?4
    ORDER BY at, callback_id LIMIT ?5";
const LATEST: &str = "
    SELECT latest FROM answers
    WHERE callback_id = ?1 AND message_id IS NULL AND erased_at IS NULL";
const ERASE_ANSWER: &str = "
    UPDATE answers SET content = '', latest = ?2, erased_at = ?3 WHERE callback_id = ?1";
const ERASE_EVENTS: &str = "
    DELETE FROM entry_contents
    WHERE entry_id IN (SELECT entry_id FROM entries WHERE message_id = ?1)";
// Those of an earlier version, whose contents have no table of their own.
const EVENTS: &str = "SELECT at, entry_id, event FROM entries WHERE message_id = ?1";
const ERASE_EVENT: &str =
    "UPDATE entries SET event = ?4 WHERE message_id = ?1 AND at = ?2 AND entry_id = ?3";
// A replayed letter has no contents.
const LETTERS: &str = "
    SELECT dead_id FROM dead_letters
    WHERE session_id = ?1 AND replayed_by IS NULL AND dead_id > ?2
        AND iif(message_id IS NULL, parcel_id < ?4, message_id < ?3)
    ORDER BY dead_id LIMIT ?5";
const ERASE_LETTER: &str = "
    UPDATE dead_letters SET body = x'', detail = ?2, erased_at = ?3
    WHERE dead_id = ?1 AND erased_at IS NULL";
const WAITING: &str = "
    SELECT * FROM waiting WHERE session_id = ?1 AND message_id > ?2 AND message_id < ?3
    ORDER BY message_id LIMIT ?4";
const REMOVE_WAITING: &str = "DELETE FROM waiting WHERE message_id = ?1";
const EMPTY_WAL: &str = "PRAGMA wal_checkpoint(TRUNCATE)";

/// A reader of an old snapshot keeps the WAL file from being emptied.
#[derive(Debug, thiserror::Error)]
#[error("another connection still reads from the WAL file")]
struct WalInUse;

#[async_trait]
impl Erasures for SqliteStore {
    async fn request_erasure(
        &self,
        session: &SessionId,
        at: OffsetDateTime,
    ) -> Result<(), Unavailable> {
        let row = (session.to_string(), millis::of(at));
        self.write(move |transaction| transaction.prepare_cached(REQUEST)?.execute(row).map(drop))
            .await
    }

    async fn erasure(&self, session: &SessionId) -> Result<Option<Erasure>, Unavailable> {
        let session = session.clone();
        self.run(move |connection| {
            of_sessions(connection, [&session]).map(|mut found| found.remove(&session))
        })
        .await
    }

    async fn unfinished_erasures(&self, limit: u16) -> Result<Vec<Erasure>, Unavailable> {
        self.run(move |connection| {
            let mut select = connection.prepare_cached(UNFINISHED)?;
            let found = select.query_map([limit], erasure)?;
            found.collect::<rusqlite::Result<_>>()
        })
        .await
    }

    async fn erase_session(
        &self,
        erasure: &Erasure,
        now: OffsetDateTime,
    ) -> Result<(), Unavailable> {
        // First, so that no further attempt begins. In steps, so that other writers never wait for
        // long.
        self.erase_in_steps(erasure, cancel_waiting).await?;
        self.erase_in_steps(erasure, erase_letters).await?;
        self.erase_in_steps(erasure, erase_contents).await?;
        self.erase_in_steps(erasure, erase_answers).await?;
        self.overwrite_erased().await?;
        let requested_at = millis::of(erasure.requested_at);
        let row = (
            erasure.session_id.to_string(),
            requested_at,
            millis::of(now),
        );
        self.write(move |transaction| transaction.prepare_cached(END)?.execute(row).map(drop))
            .await
    }

    async fn erase_messages(
        &self,
        ids: &[MessageId],
        at: OffsetDateTime,
    ) -> Result<(), Unavailable> {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        self.write(move |transaction| {
            ids.iter()
                .try_for_each(|id| erase_message(transaction, id, millis::of(at)))
        })
        .await
    }

    async fn erase_answers(
        &self,
        ids: &[CallbackId],
        at: OffsetDateTime,
    ) -> Result<(), Unavailable> {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        self.write(move |transaction| {
            ids.iter()
                .try_for_each(|id| erase_answer(transaction, id, millis::of(at)))
        })
        .await
    }

    async fn erase_dead_letters(
        &self,
        dead_ids: &[String],
        at: OffsetDateTime,
    ) -> Result<(), Unavailable> {
        let dead_ids = dead_ids.to_vec();
        self.write(move |transaction| {
            dead_ids
                .iter()
                .try_for_each(|id| erase_letter(transaction, id, millis::of(at)))
        })
        .await
    }

    async fn overwrite_erased(&self) -> Result<(), Unavailable> {
        self.run(|connection| {
            let is_busy: bool = connection
                .query_row(EMPTY_WAL, [], |row| row.get(0))
                .map_err(Unavailable::new)?;
            if is_busy {
                return Err(Unavailable::new(WalInUse));
            }
            Ok(())
        })
        .await
    }
}

/// Erases up to [`MAX_ERASED_AT_ONCE`] items after this id or cursor, and returns their ids or cursors.
type Step = fn(&Transaction<'_>, &Erasure, &str) -> rusqlite::Result<Vec<String>>;

impl SqliteStore {
    async fn erase_in_steps(&self, erasure: &Erasure, step: Step) -> Result<(), Unavailable> {
        let mut after = String::new();
        loop {
            let of = erasure.clone();
            let step = move |transaction: &Transaction<'_>| step(transaction, &of, &after);
            let done = self.write::<_, _, Unavailable>(step).await?;
            if done.len() < usize::from(MAX_ERASED_AT_ONCE) {
                return Ok(());
            }
            after = done.into_iter().next_back().unwrap_or_default();
        }
    }
}

/// Erases the contents of a session's messages and of their answers.
fn erase_contents(
    transaction: &Transaction<'_>,
    erasure: &Erasure,
    after: &str,
) -> rusqlite::Result<Vec<String>> {
    let ids = found(transaction, MESSAGES, erasure, after)?;
    let at = millis::of(erasure.requested_at);
    for id in &ids {
        erase_message(transaction, id, at)?;
    }
    Ok(ids)
}

fn erase_message(transaction: &Transaction<'_>, id: &str, at: i64) -> rusqlite::Result<()> {
    let marked = transaction.prepare_cached(MARK)?.execute((id, at))?;
    // The message has its mark already: its contents were erased, and none are stored after that.
    if marked == 0 {
        return Ok(());
    }
    transaction.prepare_cached(ERASE_CONTENT)?.execute([id])?;
    transaction
        .prepare_cached(ERASE_ANSWERS)?
        .execute((id, at))?;
    transaction.prepare_cached(ERASE_EVENTS)?.execute([id])?;
    let mut events = transaction.prepare_cached(EVENTS)?;
    let events = events.query_map([id], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get::<_, String>(2)?))
    })?;
    let events: Vec<(i64, String, String)> = events.collect::<rusqlite::Result<_>>()?;
    let mut erase = transaction.prepare_cached(ERASE_EVENT)?;
    for (entry_at, entry_id, event) in events {
        if let Some(event) = without_contents(&event).map_err(unwritable)? {
            erase.execute((id, entry_at, entry_id, event))?;
        }
    }
    Ok(())
}

/// Erases a session's answers without a message.
fn erase_answers(
    transaction: &Transaction<'_>,
    erasure: &Erasure,
    after: &str,
) -> rusqlite::Result<Vec<String>> {
    let after: Option<TurnCursor> = after.parse().ok();
    let (at, id) = after.map_or((i64::MIN, String::new()), |after| after.answer());
    let mut find = transaction.prepare_cached(ANSWERS_ALONE)?;
    let session = erasure.session_id.as_str();
    let values = (
        session,
        at,
        id,
        erasure.end_of_answer_ids(),
        MAX_ERASED_AT_ONCE,
    );
    let found = find.query_map(values, |row| {
        let columns = Columns(row);
        Ok((columns.parsed("callback_id")?, columns.time("at")?))
    })?;
    let found: Vec<(CallbackId, OffsetDateTime)> = found.collect::<rusqlite::Result<_>>()?;
    for (id, _) in &found {
        erase_answer(
            transaction,
            &id.to_string(),
            millis::of(erasure.requested_at),
        )?;
    }
    let cursors = found.into_iter();
    let cursors = cursors.map(|(id, at)| TurnCursor::after_answer(at, id).to_string());
    Ok(cursors.collect())
}

fn erase_answer(transaction: &Transaction<'_>, id: &str, at: i64) -> rusqlite::Result<()> {
    let mut latest = transaction.prepare_cached(LATEST)?;
    let latest: Option<Option<String>> = latest.query_row([id], |row| row.get(0)).optional()?;
    let Some(latest) = latest else {
        return Ok(());
    };
    let erased = latest.as_deref().map(latest_without_contents).transpose();
    let erased = erased.map_err(unwritable)?.flatten();
    let mut erase = transaction.prepare_cached(ERASE_ANSWER)?;
    erase.execute((id, erased.or(latest), at)).map(drop)
}

fn erase_letters(
    transaction: &Transaction<'_>,
    erasure: &Erasure,
    after: &str,
) -> rusqlite::Result<Vec<String>> {
    let ids: Vec<String> = transaction
        .prepare_cached(LETTERS)?
        .query_map(
            (
                erasure.session_id.as_str(),
                after,
                erasure.end_of_ids(),
                erasure.end_of_answer_ids(),
                MAX_ERASED_AT_ONCE,
            ),
            |row| row.get(0),
        )?
        .collect::<rusqlite::Result<_>>()?;
    let at = millis::of(erasure.requested_at);
    for id in &ids {
        erase_letter(transaction, id, at)?;
    }
    Ok(ids)
}

/// The ids that this statement finds next.
fn found(
    transaction: &Transaction<'_>,
    sql: &str,
    erasure: &Erasure,
    after: &str,
) -> rusqlite::Result<Vec<String>> {
    let mut find = transaction.prepare_cached(sql)?;
    let session = erasure.session_id.as_str();
    let end = erasure.end_of_ids();
    let found = find.query_map((session, after, end, MAX_ERASED_AT_ONCE), |row| row.get(0))?;
    found.collect()
}

fn erase_letter(transaction: &Transaction<'_>, dead_id: &str, at: i64) -> rusqlite::Result<()> {
    let mut erase = transaction.prepare_cached(ERASE_LETTER)?;
    erase.execute((dead_id, ERASED, at)).map(drop)
}

/// Removes a session's waiting messages, and records that they are cancelled.
fn cancel_waiting(
    transaction: &Transaction<'_>,
    erasure: &Erasure,
    after: &str,
) -> rusqlite::Result<Vec<String>> {
    let mut find = transaction.prepare_cached(WAITING)?;
    let session = erasure.session_id.as_str();
    let values = (session, after, erasure.end_of_ids(), MAX_ERASED_AT_ONCE);
    let rows = find.query_map(values, outline)?;
    let rows: Vec<WaitingMessage> = rows.collect::<rusqlite::Result<_>>()?;
    let mut remove = transaction.prepare_cached(REMOVE_WAITING)?;
    for row in &rows {
        remove.execute([&row.id])?;
    }
    cancelled(transaction, &rows, erasure.requested_at)?;
    Ok(rows.into_iter().map(|row| row.id).collect())
}
