//! The file: its lock and its tables.
//!
//! Invariant: an open file is inaccessible to other processes (`locking_mode=EXCLUSIVE`), so the
//! writer's state in memory stays correct.

use std::{path::Path, time::Duration};

use roundtrip_files::sqlite::{OpenError, Schema};
use rusqlite::{Connection, params};

use super::table::{code, retry_sub_queue};
use crate::Queue;

/// "RTbq" identifies a broker's file. Sub-queue 0 holds new outbound messages, sub-queue 6 their
/// retries and snoozes.
pub(super) const SCHEMA: Schema = Schema {
    application_id: 0x5254_6271,
    steps: &[PARCELS, ROUNDS, HELD, WAITING],
};

/// How long to wait for a process that is ending to release its lock.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// Pages of the write-ahead log (4 KiB each) that start a checkpoint.
const CHECKPOINT_PAGES: i64 = 4096;

/// Bytes to which a longer write-ahead log is truncated.
const LOG_BYTES: i64 = 64 * 1024 * 1024;

const CACHE_KIB: i64 = 8192;

/// Version 1.
const PARCELS: &str = "
    CREATE TABLE parcel (
        seq         INTEGER PRIMARY KEY,
        queue       INTEGER NOT NULL,
        due         INTEGER NOT NULL, -- ready from this time on
        delay       INTEGER NOT NULL, -- how long it was to wait for that
        tries       INTEGER NOT NULL,
        accepted_at INTEGER NOT NULL,
        id          TEXT NOT NULL,
        dead        TEXT,             -- the reason, as JSON
        body        BLOB NOT NULL
    ) STRICT;
    -- and by seq, as every index of SQLite's ends with the row's own key
    CREATE INDEX parcel_by_due ON parcel (queue, due);
    CREATE TABLE probe (id INTEGER PRIMARY KEY, room BLOB NOT NULL) STRICT;
";

/// Version 2: how many times a message was replayed.
const ROUNDS: &str = "ALTER TABLE parcel ADD COLUMN round INTEGER NOT NULL DEFAULT 0;";

/// Version 3: the bytes of the bodies in each queue.
const HELD: &str = "
    CREATE TABLE held (queue INTEGER PRIMARY KEY, bytes INTEGER NOT NULL) STRICT;
    INSERT INTO held SELECT CASE queue WHEN 6 THEN 0 ELSE queue END AS of, sum(length(body))
        FROM parcel GROUP BY of;
";

/// Version 4: why a message waits in the store, as JSON.
const WAITING: &str = "ALTER TABLE parcel ADD COLUMN waiting TEXT;";

pub(super) fn open(path: &Path, now: i64) -> Result<Connection, OpenError> {
    let connection = SCHEMA.open(path, LOCK_WAIT, |connection| {
        // Set before the first access, so that the write-ahead log's index is kept in memory. As a
        // mapped file, a full disk would kill the process.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        connection.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        // Takes the lock, which is held until the file is closed.
        connection.execute_batch("BEGIN EXCLUSIVE; COMMIT")
    })?;
    cap_the_waits_at_their_delay(&connection, now).map_err(|error| OpenError::File {
        path: path.to_owned(),
        source: error.into(),
    })?;
    Ok(connection)
}

/// After the time of day was set back, due times of the last process would lie too far in the
/// future. No message waits longer than its own delay from now.
fn cap_the_waits_at_their_delay(connection: &Connection, now: i64) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(
        "UPDATE parcel SET due = ?2 + delay
         WHERE queue = ?1 AND due > ?2 AND due > ?2 + delay",
    )?;
    for queue in Queue::ALL {
        for sub_queue in [code(queue), retry_sub_queue(queue)] {
            statement.execute(params![sub_queue, now])?;
        }
    }
    Ok(())
}
