//! Opens the file: its directory, its lock, its schema.
//!
//! Invariant: an open file is inaccessible to other processes (`locking_mode=EXCLUSIVE`), so the
//! writer's state in memory stays correct.

use std::{fs, io, path::Path, time::Duration};

use roundtrip_private_file::create_missing;
use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig, params};

use super::table::{code, retry_sub_queue};
use crate::{OpenError, Queue};

/// The newest schema version that this build supports, in SQLite's `user_version`.
const VERSION: i64 = 3;

/// "RTbq", in SQLite's `application_id`: identifies a broker's file.
const APPLICATION: i64 = 0x5254_6271;

/// How long to wait for a process that is ending to release its lock.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// Pages of the write-ahead log (4 KiB each) that start a checkpoint.
const CHECKPOINT_PAGES: i64 = 4096;

/// Bytes to which a longer write-ahead log is truncated.
const LOG_BYTES: i64 = 64 * 1024 * 1024;

/// Memory of the page cache, in KiB.
const CACHE_KIB: i64 = 8192;

const STATEMENTS: usize = 32;

pub(super) const CREATE: &str = "
    CREATE TABLE parcel (
        seq         INTEGER PRIMARY KEY,
        queue       INTEGER NOT NULL,
        due         INTEGER NOT NULL, -- ready from this time on
        delay       INTEGER NOT NULL, -- how long it was to wait for that
        tries       INTEGER NOT NULL,
        accepted_at INTEGER NOT NULL,
        id          TEXT NOT NULL,
        dead        TEXT,             -- the reason, as JSON
        body        BLOB NOT NULL,
        round       INTEGER NOT NULL DEFAULT 0 -- how many times it was replayed
    ) STRICT;
    -- and by seq, as every index of SQLite's ends with the row's own key
    CREATE INDEX parcel_by_due ON parcel (queue, due);
    -- the bytes of the bodies in each queue
    CREATE TABLE held (queue INTEGER PRIMARY KEY, bytes INTEGER NOT NULL) STRICT;
    CREATE TABLE probe (id INTEGER PRIMARY KEY, room BLOB NOT NULL) STRICT;
";

/// The steps from each version to the next, from version 1 on. Sub-queue 0 holds new outbound
/// messages, sub-queue 6 their retries and snoozes.
const MIGRATIONS: [&str; 2] = [
    "ALTER TABLE parcel ADD COLUMN round INTEGER NOT NULL DEFAULT 0;",
    "CREATE TABLE held (queue INTEGER PRIMARY KEY, bytes INTEGER NOT NULL) STRICT;
     INSERT INTO held SELECT CASE queue WHEN 6 THEN 0 ELSE queue END AS of, sum(length(body))
         FROM parcel GROUP BY of;",
];

/// Opens the file at the engine's time `now`, or creates it.
pub(super) fn open(path: &Path, now: i64) -> Result<Connection, OpenError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| OpenError::File {
        path: path.to_owned(),
        source,
    };
    // SQLite creates its other files with this file's permissions.
    create_missing(path).map_err(|error| failed(error.into()))?;
    let mut connection = connect(path).map_err(|error| match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            OpenError::InUse(path.to_owned())
        }
        _ => failed(error.into()),
    })?;
    match version(&connection).map_err(|error| failed(error.into()))? {
        Found::Broker(found) if found > VERSION => {
            return Err(OpenError::NewerSchema {
                path: path.to_owned(),
                found,
                known: VERSION,
            });
        }
        Found::Foreign => return Err(failed("it is a database of another program".into())),
        Found::Broker(found) => {
            migrate(&mut connection, found).map_err(|error| failed(error.into()))?;
        }
        Found::Empty => create(&mut connection).map_err(|error| failed(error.into()))?,
    }
    cap_the_waits_at_their_delay(&connection, now).map_err(|error| failed(error.into()))?;
    // The file's directory entry must be as durable as its content.
    sync_folder(path).map_err(|error| failed(error.into()))?;
    Ok(connection)
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    // Without SQLITE_OPEN_URI the path is taken literally, whatever characters it has.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(LOCK_WAIT)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // Set before the first access, so that the write-ahead log's index is kept in memory. As a
    // mapped file, a full disk would kill the process.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    // Takes the lock, which is held until the file is closed.
    connection.execute_batch("BEGIN EXCLUSIVE; COMMIT")?;
    Ok(connection)
}

enum Found {
    Empty,
    Broker(i64),
    Foreign,
}

fn version(connection: &Connection) -> rusqlite::Result<Found> {
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(match (pragma("application_id")?, pragma("user_version")?) {
        (APPLICATION, version) => Found::Broker(version),
        (0, 0) if tables == 0 => Found::Empty,
        _ => Found::Foreign,
    })
}

fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(CREATE)?;
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

/// Migrates a file of an older version, or leaves it unchanged.
fn migrate(connection: &mut Connection, found: i64) -> rusqlite::Result<()> {
    if found == VERSION {
        return Ok(());
    }
    let lacks = usize::try_from(found - 1).unwrap_or_default();
    let transaction = connection.transaction()?;
    for migration in MIGRATIONS.iter().skip(lacks) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
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

#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    let named = |folder: &&Path| !folder.as_os_str().is_empty();
    let folder = path.parent().filter(named).unwrap_or(Path::new("."));
    fs::File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}
