//! The table, in SQL, without any decisions.

use bytes::Bytes;
use roundtrip_model::{DeadReason, Waiting, decision::DeadKind, millis};
use rusqlite::{Connection, OptionalExtension, Params, Row, TransactionBehavior, params};
use serde::Serialize;

use super::timeline;
use crate::{Message, Queue};

/// Bytes that a probe writes to prove that a full disk has space again.
const PROBE_BYTES: i64 = 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) due: i64,
    pub(super) seq: i64,
}

impl Key {
    pub(super) const FIRST: Self = Self {
        due: i64::MIN,
        seq: i64::MIN,
    };
}

pub(super) enum Change<'a> {
    Insert {
        queue: Queue,
        key: Key,
        message: &'a Message,
    },
    Delete {
        queue: Queue,
        seq: i64,
        bytes: usize,
    },
    Defer {
        sub_queue: i64,
        key: Key,
        delay: i64,
        attempts: u32,
    },
    Move {
        from: Queue,
        queue: Queue,
        key: Key,
        bytes: usize,
        attempts: u32,
        dead: Option<&'a DeadReason>,
        waiting: Option<&'a Waiting>,
    },
}

/// How changes affect the bytes that each queue holds, indexed as [`Queue::ALL`].
#[derive(Default)]
struct HeldBytes([i64; Queue::ALL.len()]);

impl HeldBytes {
    fn add(&mut self, change: &Change<'_>) {
        match change {
            Change::Insert { queue, message, .. } => self.of(*queue, signed(message.body.len())),
            Change::Delete { queue, bytes, .. } => self.of(*queue, -signed(*bytes)),
            Change::Defer { .. } => {}
            Change::Move {
                from, queue, bytes, ..
            } => {
                self.of(*from, -signed(*bytes));
                self.of(*queue, signed(*bytes));
            }
        }
    }

    fn of(&mut self, queue: Queue, bytes: i64) {
        self.0[queue as usize] += bytes;
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct ReadBudget {
    pub(super) rows: usize,
    /// The read ends with the row that reaches this size.
    pub(super) bytes: usize,
}

/// The rows of a read, and whether there may be more.
pub(super) struct RowPage {
    pub(super) rows: Vec<(Key, Message)>,
    pub(super) is_full: bool,
    bytes: usize,
}

pub(super) struct SubQueueCounts {
    pub(super) total: u64,
    pub(super) ready: u64,
    pub(super) next_due: Option<i64>,
}

pub(super) struct Table {
    connection: Connection,
}

impl Table {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// Commits and syncs all the changes, or none.
    pub(super) fn commit<'a>(
        &mut self,
        changes: impl IntoIterator<Item = Change<'a>>,
    ) -> rusqlite::Result<()> {
        // If it is dropped before its commit, as by `?`, it rolls back.
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut bytes = HeldBytes::default();
        for change in changes {
            bytes.add(&change);
            change.apply(&transaction)?;
        }
        let mut add = transaction.prepare_cached(ADD_BYTES)?;
        for (queue, bytes) in Queue::ALL.into_iter().zip(bytes.0) {
            if bytes != 0 {
                add.execute([code(queue), bytes])?;
            }
        }
        drop(add);
        transaction.commit()
    }

    /// The rows after `after` that were ready by `until`, in order.
    pub(super) fn read(
        &self,
        sub_queue: i64,
        after: Key,
        until: i64,
        budget: ReadBudget,
    ) -> rusqlite::Result<RowPage> {
        let mut read = RowPage {
            rows: Vec::new(),
            is_full: false,
            bytes: 0,
        };
        // Two steps, because SQLite does not use its whole index for `(due, seq) > (?, ?)`: it
        // would scan every row of the same millisecond.
        let limit = signed(budget.rows);
        let same_due = params![sub_queue, after.due, after.seq, limit];
        self.add(&mut read, budget, READ_SAME_DUE, same_due)?;
        if !read.is_full {
            let limit = signed(budget.rows - read.rows.len());
            let later_due = params![sub_queue, after.due, until, limit];
            self.add(&mut read, budget, READ_LATER_DUE, later_due)?;
        }
        Ok(read)
    }

    fn add(
        &self,
        read: &mut RowPage,
        budget: ReadBudget,
        sql: &str,
        params: impl Params,
    ) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare_cached(sql)?;
        // The statement is stepped a row at a time, so later rows are not read.
        for row in statement.query_map(params, message)? {
            let (key, message) = row?;
            read.bytes += message.body.len();
            read.rows.push((key, message));
            if read.rows.len() >= budget.rows || read.bytes >= budget.bytes {
                read.is_full = true;
                break;
            }
        }
        Ok(())
    }

    pub(super) fn read_one(&self, seq: i64) -> rusqlite::Result<Option<(Key, Message)>> {
        self.connection
            .prepare_cached(READ_ONE)?
            .query_row([seq], message)
            .optional()
    }

    /// How many rows after `after` were ready by `until`. Reads only the index.
    pub(super) fn count(&self, sub_queue: i64, after: i64, until: i64) -> rusqlite::Result<u64> {
        let count: i64 = self
            .connection
            .prepare_cached(
                "SELECT count(*) FROM parcel WHERE queue = ?1 AND due > ?2 AND due <= ?3",
            )?
            .query_row(params![sub_queue, after, until], |row| row.get(0))?;
        Ok(count.unsigned_abs())
    }

    /// When the first row that is not ready at `now` becomes due.
    pub(super) fn next_due(&self, sub_queue: i64, now: i64) -> rusqlite::Result<Option<i64>> {
        self.connection
            .prepare_cached("SELECT min(due) FROM parcel WHERE queue = ?1 AND due > ?2")?
            .query_row(params![sub_queue, now], |row| row.get(0))
    }

    pub(super) fn sub_queue_counts(
        &self,
        sub_queue: i64,
        now: i64,
    ) -> rusqlite::Result<SubQueueCounts> {
        let ready = self.count(sub_queue, i64::MIN, now)?;
        let delayed = self.count(sub_queue, now, i64::MAX)?;
        Ok(SubQueueCounts {
            total: ready + delayed,
            ready,
            next_due: self.next_due(sub_queue, now)?,
        })
    }

    /// The bytes of all bodies in a queue. The file stores this count, because a sum would read
    /// every row.
    pub(super) fn bytes(&self, queue: Queue) -> rusqlite::Result<u64> {
        let bytes: Option<i64> = self
            .connection
            .prepare_cached("SELECT bytes FROM held WHERE queue = ?1")?
            .query_row([code(queue)], |row| row.get(0))
            .optional()?;
        Ok(bytes.unwrap_or_default().max(0).unsigned_abs())
    }

    pub(super) fn last_seq(&self) -> rusqlite::Result<i64> {
        self.connection
            .query_row("SELECT coalesce(max(seq), 0) FROM parcel", [], |row| {
                row.get(0)
            })
    }

    /// Writes, syncs and removes about as much as a few messages need. It succeeds if there is
    /// space.
    pub(super) fn probe(&mut self) -> rusqlite::Result<()> {
        // Two transactions: within one, SQLite would never write the pages.
        self.connection.execute(
            "INSERT OR REPLACE INTO probe (id, room) VALUES (1, zeroblob(?1))",
            [PROBE_BYTES],
        )?;
        self.connection.execute("DELETE FROM probe", [])?;
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }
}

pub(super) const READ_SAME_DUE: &str = "
    SELECT due, seq, id, tries, accepted_at, dead, body, round, waiting FROM parcel
    WHERE queue = ?1 AND due = ?2 AND seq > ?3 ORDER BY seq LIMIT ?4";

pub(super) const READ_LATER_DUE: &str = "
    SELECT due, seq, id, tries, accepted_at, dead, body, round, waiting FROM parcel
    WHERE queue = ?1 AND due > ?2 AND due <= ?3 ORDER BY due, seq LIMIT ?4";

const ADD_BYTES: &str = "
    INSERT INTO held (queue, bytes) VALUES (?1, ?2)
    ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes";

const READ_ONE: &str = "SELECT due, seq, id, tries, accepted_at, dead, body, round, waiting FROM parcel WHERE seq = ?1";

impl Change<'_> {
    fn apply(self, connection: &Connection) -> rusqlite::Result<()> {
        match self {
            Self::Insert {
                queue,
                key,
                message,
            } => connection
                .prepare_cached(
                    "INSERT INTO parcel (
                         seq, queue, due, delay, tries, accepted_at, id, body, round, dead, waiting
                     ) VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                )?
                .execute(params![
                    key.seq,
                    code(queue),
                    key.due,
                    message.attempts,
                    millis::of(message.accepted_at),
                    message.id,
                    &message.body[..],
                    message.replay_count,
                    message.dead.as_ref().map(json),
                    message.waiting.as_ref().map(json),
                ])?,
            Self::Delete { seq, .. } => connection
                .prepare_cached("DELETE FROM parcel WHERE seq = ?1")?
                .execute([seq])?,
            Self::Defer {
                sub_queue,
                key,
                delay,
                attempts,
            } => connection
                .prepare_cached(
                    "UPDATE parcel SET queue = ?2, due = ?3, delay = ?4, tries = ?5
                     WHERE seq = ?1",
                )?
                .execute(params![key.seq, sub_queue, key.due, delay, attempts])?,
            Self::Move {
                queue,
                key,
                attempts,
                dead,
                waiting,
                ..
            } => connection
                .prepare_cached(
                    "UPDATE parcel
                     SET queue = ?2, due = ?3, delay = 0, tries = ?4, dead = ?5, waiting = ?6
                     WHERE seq = ?1",
                )?
                .execute(params![
                    key.seq,
                    code(queue),
                    key.due,
                    attempts,
                    dead.map(json),
                    waiting.map(json)
                ])?,
        };
        Ok(())
    }
}

fn signed(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn message(row: &Row<'_>) -> rusqlite::Result<(Key, Message)> {
    let dead: Option<String> = row.get(5)?;
    let waiting: Option<String> = row.get(8)?;
    let key = Key {
        due: row.get(0)?,
        seq: row.get(1)?,
    };
    let message = Message {
        id: row.get(2)?,
        attempts: row.get(3)?,
        replay_count: row.get(7)?,
        accepted_at: timeline::time_of_day(row.get(4)?),
        dead: dead.map(|text| reason(&text)),
        waiting: waiting.and_then(|text| serde_json::from_str(&text).ok()),
        body: Bytes::copy_from_slice(row.get_ref(6)?.as_blob()?),
    };
    Ok((key, message))
}

/// A struct of enums, texts and numbers always serializes.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn reason(text: &str) -> DeadReason {
    serde_json::from_str(text).unwrap_or_else(|_| DeadReason::new(DeadKind::Undecodable, text))
}

/// The sub-queue of outbound retries and snoozes in the file. It is separate from new messages, so
/// that neither waits behind the other.
const OUTBOUND_RETRY: i64 = 6;

/// The sub-queue to which a retried or snoozed message returns.
pub(super) const fn retry_sub_queue(queue: Queue) -> i64 {
    match queue {
        Queue::Outbound => OUTBOUND_RETRY,
        other => code(other),
    }
}

/// A queue's number in the file. It never changes.
pub(super) const fn code(queue: Queue) -> i64 {
    match queue {
        Queue::Outbound => 0,
        Queue::Callbacks => 1,
        Queue::OutboundDead => 2,
        Queue::CallbacksDead => 3,
        Queue::Journal => 4,
        Queue::JournalDead => 5,
        // 6 is OUTBOUND_RETRY.
        Queue::Waiting => 7,
        Queue::Notices => 8,
        Queue::NoticesDead => 9,
    }
}
