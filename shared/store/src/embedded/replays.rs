//! Replays and their leases.
//!
//! Invariant: a lease is taken in a write transaction, so that it has one owner.

use std::time::Duration;

use async_trait::async_trait;
use roundtrip_model::{ReplayId, millis};
use rusqlite::{Connection, OptionalExtension, Row, params};
use time::OffsetDateTime;

use super::{
    SqliteStore,
    rows::{self, Columns, Conditions, Table, count, counted, name, unwritable},
};
use crate::{
    MAX_RUNNING_REPLAYS, Progress, QueryError, Replay, ReplayError, ReplayFilter, ReplayStatus,
    Replays, Unavailable,
};

const TABLE: Table = Table {
    name: "replays",
    id: "replay_id",
    order: "replay_id DESC",
};

const SELECT: &str = "SELECT * FROM replays WHERE replay_id = ?1";
const INSERT: &str = "
    INSERT INTO replays (replay_id, source, rate_per_second, status, matched, replayed, skipped,
        cursor, created_at, ended_at, requested_by, channels, skips, lease_until)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, 0)";
const COUNT_RUNNING: &str = "
    SELECT count(*) FROM replays WHERE status = 'running' AND requested_by = ?1";
const WITHIN_CHANNELS: &str = "
    channels IS NOT NULL AND NOT EXISTS (SELECT 1 FROM json_each(channels) AS of_replay
        WHERE of_replay.value NOT IN (SELECT value FROM json_each(?)))";
const CLAIM: &str = "
    UPDATE replays SET owner = ?1, lease_until = ?3
    WHERE replay_id = (
        SELECT replay_id FROM replays
        WHERE status = 'running' AND lease_until <= ?2
        ORDER BY lease_until, replay_id LIMIT 1)
    RETURNING *";
const ADVANCE: &str = "
    UPDATE replays SET replayed = ?3, skipped = ?4, cursor = ?5, lease_until = ?6,
        skips = ?7
    WHERE replay_id = ?1 AND owner = ?2
    RETURNING *";
const END: &str = "
    UPDATE replays SET status = ?2, ended_at = ?3 WHERE replay_id = ?1 AND status = 'running'";

#[async_trait]
impl Replays for SqliteStore {
    async fn create_replay(&self, replay: &Replay) -> Result<(), ReplayError> {
        let replay = replay.clone();
        self.write(move |transaction| {
            let running = counted(transaction, COUNT_RUNNING, [&replay.requested_by]);
            if running? >= u64::from(MAX_RUNNING_REPLAYS) {
                return Err(ReplayError::TooMany);
            }
            Ok(insert(transaction, &replay)?)
        })
        .await
    }

    async fn replays(
        &self,
        filter: &ReplayFilter,
        after: Option<&ReplayId>,
        limit: u16,
    ) -> Result<Vec<Replay>, QueryError> {
        let mut conditions = Conditions::of(&TABLE);
        conditions.maybe("replay_id < ?", after.map(ToString::to_string));
        conditions.maybe("status = ?", filter.status.map(name));
        conditions.ids(WITHIN_CHANNELS, filter.channels.as_deref());
        self.run_query(move |connection, _| {
            rows::page(connection, &conditions, limit, SELECT, |row| {
                Ok((replay(row)?, 0))
            })
        })
        .await
    }

    async fn replay(&self, id: &ReplayId) -> Result<Option<Replay>, Unavailable> {
        let id = *id;
        self.run(move |connection| read(connection, &id)).await
    }

    async fn claim_replay(
        &self,
        owner: &str,
        now: OffsetDateTime,
        lease: Duration,
    ) -> Result<Option<Replay>, Unavailable> {
        let owner = owner.to_owned();
        self.write(move |transaction| {
            let values = params![owner, millis::of(now), millis::of(now + lease)];
            let mut claim = transaction.prepare_cached(CLAIM)?;
            claim.query_row(values, replay).optional()
        })
        .await
    }

    async fn advance_replay(
        &self,
        id: &ReplayId,
        owner: &str,
        progress: &Progress,
        lease_until: OffsetDateTime,
    ) -> Result<Option<ReplayStatus>, Unavailable> {
        let (id, owner, progress) = (id.to_string(), owner.to_owned(), progress.clone());
        self.write(move |transaction| {
            let skips = serde_json::to_string(&progress.skips).map_err(unwritable)?;
            let values = params![
                id,
                owner,
                count(progress.replayed),
                count(progress.skipped),
                progress.cursor,
                millis::of(lease_until),
                skips,
            ];
            let mut advance = transaction.prepare_cached(ADVANCE)?;
            let status = |row: &Row<'_>| Columns(row).named("status");
            advance.query_row(values, status).optional()
        })
        .await
    }

    async fn end_replay(
        &self,
        id: &ReplayId,
        status: ReplayStatus,
        now: OffsetDateTime,
    ) -> Result<Option<Replay>, Unavailable> {
        let id = *id;
        self.write(move |transaction| {
            let values = params![id.to_string(), name(status), millis::of(now)];
            transaction.execute(END, values)?;
            read(transaction, &id)
        })
        .await
    }
}

fn insert(connection: &Connection, replay: &Replay) -> rusqlite::Result<()> {
    let source = serde_json::to_string(&replay.source).map_err(unwritable)?;
    let channels = replay.source.channels();
    let channels = channels.map(|channels| serde_json::json!(channels).to_string());
    let values = params![
        replay.replay_id.to_string(),
        source,
        replay.rate_per_second,
        name(replay.status),
        count(replay.matched),
        count(replay.progress.replayed),
        count(replay.progress.skipped),
        replay.progress.cursor,
        millis::of(replay.created_at),
        replay.ended_at.map(millis::of),
        replay.requested_by,
        channels,
        serde_json::to_string(&replay.progress.skips).map_err(unwritable)?,
    ];
    connection.execute(INSERT, values).map(drop)
}

fn read(connection: &Connection, id: &ReplayId) -> rusqlite::Result<Option<Replay>> {
    connection
        .prepare_cached(SELECT)?
        .query_row([id.to_string()], replay)
        .optional()
}

fn replay(row: &Row<'_>) -> rusqlite::Result<Replay> {
    let columns = Columns(row);
    let number = |column| columns.get::<i64>(column).map(i64::unsigned_abs);
    Ok(Replay {
        replay_id: columns.parsed("replay_id")?,
        requested_by: columns.get("requested_by")?,
        source: columns.json("source")?,
        rate_per_second: columns.get("rate_per_second")?,
        status: columns.named("status")?,
        matched: number("matched")?,
        progress: Progress {
            replayed: number("replayed")?,
            skipped: number("skipped")?,
            skips: columns.json("skips")?,
            cursor: columns.get("cursor")?,
        },
        created_at: columns.time("created_at")?,
        ended_at: columns.optional_time("ended_at")?,
    })
}
