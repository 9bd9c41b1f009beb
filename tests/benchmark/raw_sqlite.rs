//! SQLite's raw rate: rows with one index, many in a transaction, each transaction synced to disk.
//!
//! Invariant: the file has the embedded broker's settings (WAL, `synchronous=FULL`), so both wait
//! for the disk alike.

use std::{path::Path, time::Instant};

use anyhow::Context;
use rusqlite::{Connection, params};

use crate::options::Size;

/// Rows in one transaction.
pub(crate) const ROWS: u64 = 64;

/// Rows per second.
pub(crate) fn measure(folder: &Path, size: Size) -> anyhow::Result<f64> {
    std::fs::create_dir_all(folder)?;
    // A temporary folder, so that a later round finds no rows.
    let own = tempfile::tempdir_in(folder)?;
    let mut connection = Connection::open(own.path().join("raw.db")).context("making the file")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch(
        "CREATE TABLE messages (id INTEGER PRIMARY KEY, queue INTEGER NOT NULL,
             ready_at INTEGER NOT NULL, body BLOB NOT NULL);
         CREATE INDEX messages_ready ON messages (queue, ready_at);",
    )?;
    let body = vec![b'x'; size.body_bytes];
    let since = Instant::now();
    let mut written = 0;
    while written < size.messages {
        let until = size.messages.min(written + ROWS);
        let transaction = connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached(
                "INSERT INTO messages (queue, ready_at, body) VALUES (?1, ?2, ?3)",
            )?;
            for row in written..until {
                insert.execute(params![0, row.cast_signed(), body])?;
            }
        }
        transaction.commit()?;
        written = until;
    }
    Ok(size.per_second(since.elapsed()))
}
