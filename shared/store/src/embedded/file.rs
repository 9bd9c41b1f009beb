//! The SQLite file: its schema, its connections, and the threads that they run on.
//!
//! Invariant: at most [`MAX_CONNECTIONS`] blocking threads are taken, whatever the number of
//! callers; a caller waits no longer than the time limit.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use tokio::sync::Semaphore;

use crate::{OpenError, StoreError, TimedOut};

/// The most connections, and blocking threads, at once.
const MAX_CONNECTIONS: usize = 4;
/// `PRAGMA application_id`: "RtSt". It tells the file from other SQLite files.
const APPLICATION_ID: i64 = 0x5274_5374;
/// `PRAGMA user_version`: the schema below.
const SCHEMA_VERSION: i64 = 1;
/// How long to wait before the file is tried again while another process opens it.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// How many prepared statements a connection keeps.
const STATEMENT_CACHE: usize = 16;

/// `channel_name` is beside the document so that a query can sort by it.
const SCHEMA: &str = "
    CREATE TABLE channels (
        channel_id TEXT NOT NULL PRIMARY KEY,
        channel_name TEXT NOT NULL,
        document TEXT NOT NULL
    ) STRICT;
    CREATE INDEX channels_by_name ON channels (channel_name, channel_id);
";

/// An open file.
pub(super) struct File {
    shared: Arc<Shared>,
    permits: Arc<Semaphore>,
    timeout: Duration,
}

struct Shared {
    path: PathBuf,
    timeout: Duration,
    idle: Mutex<Vec<Connection>>,
}

impl File {
    pub(super) async fn open(path: PathBuf, timeout: Duration) -> Result<Self, OpenError> {
        let deadline = Instant::now() + timeout;
        let connection = loop {
            let prepared = path.clone();
            let opened = tokio::task::spawn_blocking(move || prepare(&prepared, timeout)).await;
            match opened {
                Ok(Ok(connection)) => break connection,
                // The change to WAL does not wait by itself for another process that opens too.
                Ok(Err(Refused::Sqlite(error))) if is_busy(&error) && Instant::now() < deadline => {
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                Ok(Err(refused)) => return Err(refused.into_open_error(path)),
                Err(died) => return Err(file_error(path, died)),
            }
        };
        Ok(Self {
            shared: Arc::new(Shared {
                path,
                timeout,
                idle: Mutex::new(vec![connection]),
            }),
            permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            timeout,
        })
    }

    /// Runs something on a connection, on a blocking thread. It gets the time by which its caller
    /// has stopped waiting.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection, Instant) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let deadline = Instant::now() + self.timeout;
        let (shared, permits) = (Arc::clone(&self.shared), Arc::clone(&self.permits));
        let run = async move {
            let permit = permits.acquire_owned().await.map_err(boxed)?;
            tokio::task::spawn_blocking(move || {
                // Held for as long as the thread is: its caller may have gone by then.
                let _permit = permit;
                let mut connection = shared.take()?;
                let done = work(&mut connection, deadline);
                shared.put_back(connection);
                done
            })
            .await
            .map_err(boxed)?
        };
        tokio::time::timeout(self.timeout, run)
            .await
            .map_err(|_| boxed(TimedOut(self.timeout)))?
    }
}

impl Shared {
    fn take(&self) -> Result<Connection, StoreError> {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        idle.map_or_else(|| connect(&self.path, self.timeout).map_err(boxed), Ok)
    }

    fn put_back(&self, connection: Connection) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
    }
}

/// What a scan answers when its caller has stopped waiting.
pub(super) fn too_slow() -> StoreError {
    boxed(rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_INTERRUPT),
        Some("the scan took longer than the time limit".to_owned()),
    ))
}

fn boxed(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Away(Box::new(error))
}

fn connect(path: &Path, timeout: Duration) -> rusqlite::Result<Connection> {
    // Without the default's URI flag: a path is a path, whatever it looks like.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(timeout)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
    Ok(connection)
}

/// Why a file was not opened.
enum Refused {
    Sqlite(rusqlite::Error),
    Folder(std::io::Error),
    Foreign,
    Newer(i64),
}

impl From<rusqlite::Error> for Refused {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Refused {
    fn into_open_error(self, path: PathBuf) -> OpenError {
        match self {
            Self::Sqlite(source) => file_error(path, source),
            Self::Folder(source) => file_error(path, source),
            Self::Foreign => OpenError::Foreign { path },
            Self::Newer(found) => OpenError::Newer {
                path,
                found,
                known: SCHEMA_VERSION,
            },
        }
    }
}

fn file_error(path: PathBuf, source: impl std::error::Error + Send + Sync + 'static) -> OpenError {
    OpenError::File {
        path,
        source: Box::new(source),
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

/// Opens the file and sees to its schema.
fn prepare(path: &Path, timeout: Duration) -> Result<Connection, Refused> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        fs::create_dir_all(folder).map_err(Refused::Folder)?;
    }
    let mut connection = connect(path, timeout)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let number = |sql: &str| transaction.query_row(sql, [], |row| row.get::<_, i64>(0));
    let version = number("PRAGMA user_version")?;
    let application = number("PRAGMA application_id")?;
    let tables = number("SELECT count(*) FROM sqlite_schema")?;
    match (application, version) {
        (0, 0) if tables == 0 => {
            transaction.execute_batch(SCHEMA)?;
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        }
        (APPLICATION_ID, SCHEMA_VERSION) => {}
        (APPLICATION_ID, newer) => return Err(Refused::Newer(newer)),
        _ => return Err(Refused::Foreign),
    }
    transaction.commit()?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    Ok(connection)
}
