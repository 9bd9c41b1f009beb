//! Dead letters.
//!
//! Invariant: a replayed dead letter is kept without its contents, so that a redelivery from the dead
//! queue does not insert it again.

use async_trait::async_trait;
use bytes::Bytes;
use roundtrip_model::{DeadReason, ReplayId, millis};
use rusqlite::{Connection, Row, Transaction, params, params_from_iter};

use super::{
    SqliteStore,
    erased::of_sessions,
    rows::{self, Columns, Conditions, Selection, Table, counted, name},
};
use crate::{DeadFilter, DeadLetter, DeadLetters, Detail, QueryError, Unavailable, ledger::ERASED};

const TABLE: Table = Table {
    name: "dead_letters",
    id: "dead_id",
    order: "dead_id",
};

/// How many dead letters a purge removes in one transaction.
const PURGE_STEP: usize = 500;

const INSERT: &str = "
    INSERT INTO dead_letters (dead_id, queue, parcel_id, message_id, channel_id, session_id,
        reason, detail, tries, round, accepted_at, dead_at, body, erased_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
    ON CONFLICT DO NOTHING";
const WHOLE: &str = "SELECT * FROM dead_letters WHERE dead_id = ?1";
const OUTLINE: &str = "
    SELECT dead_id, queue, parcel_id, message_id, channel_id, session_id, reason, detail, tries,
        round, accepted_at, dead_at, x'' AS body, erased_at
    FROM dead_letters WHERE dead_id = ?1";
const MARK: &str = "
    UPDATE dead_letters SET replayed_by = ?2, body = x'', detail = ''
    WHERE dead_id = ?1 AND replayed_by IS NULL";
// Without an index: this runs only when a replay is resumed.
const COUNT_REPLAYED: &str =
    "SELECT count(*) FROM dead_letters WHERE replayed_by = ?1 AND dead_id > ?2";

#[async_trait]
impl DeadLetters for SqliteStore {
    async fn insert(&self, letters: &[DeadLetter]) -> Result<(), Unavailable> {
        if letters.is_empty() {
            return Ok(());
        }
        let letters = letters.to_vec();
        self.write(move |transaction| insert(transaction, &letters))
            .await
    }

    async fn dead_letters(
        &self,
        filter: &DeadFilter,
        after: Option<&str>,
        limit: u16,
        detail: Detail,
    ) -> Result<Vec<DeadLetter>, QueryError> {
        let mut conditions = conditions(filter);
        conditions.maybe("dead_id > ?", after.map(str::to_owned));
        let page = move |connection: &mut Connection| page(connection, &conditions, limit, detail);
        match detail {
            Detail::Outline => self.run_query(move |connection, _| page(connection)).await,
            // For a replay, which must not wait for clients' queries.
            Detail::Whole => self.run(page).await,
        }
    }

    async fn count_dead_letters(&self, filter: &DeadFilter) -> Result<u64, QueryError> {
        let conditions = conditions(filter);
        self.run_query(move |connection, _| conditions.count(connection))
            .await
    }

    async fn mark_replayed(&self, dead_ids: &[String], by: &ReplayId) -> Result<(), Unavailable> {
        let (dead_ids, by) = (dead_ids.to_vec(), by.to_string());
        self.write(move |transaction| mark(transaction, &dead_ids, &by))
            .await
    }

    async fn count_replayed(&self, by: &ReplayId, after: Option<&str>) -> Result<u64, Unavailable> {
        let (by, after) = (by.to_string(), after.unwrap_or_default().to_owned());
        self.run(move |connection| counted(connection, COUNT_REPLAYED, (by, after)))
            .await
    }

    async fn purge_dead_letters(&self, filter: &DeadFilter) -> Result<u64, Unavailable> {
        let mut purged = 0;
        // In steps, so that other writers never wait for long.
        loop {
            let conditions = conditions(filter);
            let step = move |transaction: &Transaction<'_>| purge(transaction, &conditions);
            let removed = self.write::<_, _, Unavailable>(step).await?;
            purged += removed as u64;
            if removed < PURGE_STEP {
                return Ok(purged);
            }
        }
    }
}

pub(super) fn conditions(filter: &DeadFilter) -> Conditions {
    let DeadFilter {
        ids,
        queue,
        channel,
        channels,
        session,
        reason,
        since,
        until,
    } = filter;
    let mut conditions = Conditions::selected(
        &TABLE,
        &Selection {
            with_ids: "(dead_id IN (SELECT value FROM json_each(?))
                        OR parcel_id IN (SELECT value FROM json_each(?)))",
            ids: ids.as_deref(),
            session: session.as_ref(),
            channel: channel.as_ref(),
            channels: channels.as_deref(),
        },
    );
    conditions.plain("replayed_by IS NULL");
    let queue = queue.map(name);
    let reason = reason.map(|kind| kind.as_str().to_owned());
    let (since, until) = (since.map(millis::not_before), until.map(millis::not_before));
    if conditions.is_by_channel() {
        // The unary plus keeps SQLite from using the indexes over all channels' dead letters.
        conditions.maybe("+queue = ?", queue);
        conditions.maybe("+reason = ?", reason);
        conditions.maybe("+dead_at >= ?", since);
        conditions.maybe("+dead_at < ?", until);
    } else {
        conditions.maybe("queue = ?", queue);
        conditions.maybe("reason = ?", reason);
        conditions.maybe("dead_at >= ?", since);
        conditions.maybe("dead_at < ?", until);
    }
    conditions
}

fn insert(transaction: &Transaction<'_>, letters: &[DeadLetter]) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(INSERT)?;
    let sessions = letters
        .iter()
        .filter_map(|letter| letter.session_id.as_ref());
    let erasures = of_sessions(transaction, sessions)?;
    for letter in letters {
        let session = letter.session_id.as_ref();
        let erasure = session.and_then(|session| erasures.get(session));
        let erasure = erasure.filter(|erasure| erasure.covers_letter(letter));
        let (detail, body) = match &erasure {
            Some(_) => (ERASED, &[][..]),
            None => (&*letter.reason.detail, &letter.body[..]),
        };
        insert.execute(params![
            letter.dead_id,
            name(letter.queue),
            letter.webhook_id,
            letter.message_id.as_ref().map(ToString::to_string),
            letter.channel_id.as_ref().map(ToString::to_string),
            letter.session_id.as_ref().map(ToString::to_string),
            letter.reason.kind.as_str(),
            detail,
            letter.attempts,
            letter.replay_count,
            millis::of(letter.accepted_at),
            millis::of(letter.dead_at),
            body,
            erasure.map(|erasure| millis::of(erasure.requested_at)),
        ])?;
    }
    Ok(())
}

fn page(
    connection: &mut Connection,
    conditions: &Conditions,
    limit: u16,
    detail: Detail,
) -> rusqlite::Result<Vec<DeadLetter>> {
    let sql = match detail {
        Detail::Whole => WHOLE,
        Detail::Outline => OUTLINE,
    };
    rows::page(connection, conditions, limit, sql, |row| {
        let letter = dead_letter(row)?;
        let bytes = letter.body.len();
        Ok((letter, bytes))
    })
}

fn dead_letter(row: &Row<'_>) -> rusqlite::Result<DeadLetter> {
    let columns = Columns(row);
    Ok(DeadLetter {
        dead_id: columns.get("dead_id")?,
        queue: columns.named("queue")?,
        webhook_id: columns.get("parcel_id")?,
        message_id: columns.optional("message_id")?,
        channel_id: columns.optional("channel_id")?,
        session_id: columns.optional("session_id")?,
        reason: DeadReason::new(columns.named("reason")?, columns.get::<String>("detail")?),
        attempts: columns.get("tries")?,
        replay_count: columns.get("round")?,
        accepted_at: columns.time("accepted_at")?,
        dead_at: columns.time("dead_at")?,
        body: Bytes::from(columns.get::<Vec<u8>>("body")?),
        contents_erased_at: columns.optional_time("erased_at")?,
    })
}

fn mark(transaction: &Transaction<'_>, dead_ids: &[String], by: &str) -> rusqlite::Result<()> {
    let mut mark = transaction.prepare_cached(MARK)?;
    for dead_id in dead_ids {
        mark.execute((dead_id, by))?;
    }
    Ok(())
}

fn purge(transaction: &Transaction<'_>, conditions: &Conditions) -> rusqlite::Result<usize> {
    let sql = format!(
        "DELETE FROM dead_letters WHERE rowid IN ({})",
        conditions.rows_sql(PURGE_STEP)
    );
    transaction
        .prepare_cached(&sql)?
        .execute(params_from_iter(&conditions.values))
}
