//! The SQLite file: its connections, and the threads that they run on.
//!
//! Invariant: at most [`MAX_CONNECTIONS`] blocking threads are taken, and [`QUERY_CONNECTIONS`] more
//! for queries, whatever the number of callers; a caller waits no longer than the time limit. What
//! reads by a key, or writes, never waits for a query. One writer of this process is at work at
//! a time, and the others take no thread while they wait: SQLite's own lock would have each of them
//! sleep on one.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use roundtrip_private_file::create_missing;
use rusqlite::{
    Connection, ErrorCode, InterruptHandle, OpenFlags, Transaction, TransactionBehavior,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{timeout, timeout_at},
};

use super::schema::{self, Refused, SCHEMA_VERSION};
use crate::{OpenError, StoreError, TimedOut};

/// The most connections, and blocking threads, at once.
const MAX_CONNECTIONS: usize = 4;
/// The most queries at once, on connections that nothing else waits for.
const QUERY_CONNECTIONS: usize = 2;
/// How much of its time limit a query waits for its turn at the most.
const TURN_SHARE: f64 = 0.5;
/// How long to wait before the file is tried again while another process opens it.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// How many prepared statements a connection keeps.
const STATEMENT_CACHE: usize = 64;

/// An open file.
pub(super) struct File {
    shared: Arc<Shared>,
    permits: Arc<Semaphore>,
    queries: Arc<Semaphore>,
    writer: Arc<Semaphore>,
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
        let file = path.clone();
        // SQLite gives its other files the rights of this one.
        match tokio::task::spawn_blocking(move || create_missing(&file)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(file_error(path, error)),
            Err(died) => return Err(file_error(path, died)),
        }
        let connection = loop {
            let prepared = path.clone();
            let opened = tokio::task::spawn_blocking(move || prepare(&prepared, timeout)).await;
            match opened {
                Ok(Ok(connection)) => break connection,
                // The change to WAL does not wait by itself for another process that opens too.
                Ok(Err(Refused::Sqlite(error))) if is_busy(&error) && Instant::now() < deadline => {
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                Ok(Err(why)) => return Err(refused(why, path)),
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
            queries: Arc::new(Semaphore::new(QUERY_CONNECTIONS)),
            writer: Arc::new(Semaphore::new(1)),
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
        self.limited(self.on_thread(None, move |connection| work(connection, deadline)))
            .await
    }

    /// Runs a query on a connection, as [`File::run`] does, and ends it where its time is over: what
    /// a caller asks for may be any amount of work.
    pub(super) async fn query<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection, Instant) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let deadline = Instant::now() + self.timeout;
        let turn = Arc::clone(&self.queries).acquire_owned();
        let permit = timeout(self.timeout.mul_f64(TURN_SHARE), turn)
            .await
            .map_err(|_too_long| StoreError::TooBusy)?
            .map_err(boxed)?;
        let shared = Arc::clone(&self.shared);
        // Ends the work also where the caller does not even wait for as long.
        let running = EndsWith(Arc::new(Running::default()));
        let interruptible = Arc::clone(&running.0);
        let thread = tokio::task::spawn_blocking(move || {
            let _held = permit;
            let mut connection = shared.take()?;
            interruptible.begin(&connection);
            let done = work(&mut connection, deadline);
            interruptible.end();
            shared.put_back(connection);
            done
        });
        timeout_at(deadline.into(), thread)
            .await
            .map_err(|_too_long| StoreError::TooCostly)?
            .map_err(boxed)?
    }

    /// Runs something within a transaction, and commits it where it went well. The transaction has
    /// the file's write lock from its beginning, so that nothing changes between what it reads and
    /// what it writes.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let write = async {
            let turn = Arc::clone(&self.writer).acquire_owned().await;
            self.on_thread(Some(turn.map_err(boxed)?), |connection| {
                let transaction = connection
                    .transaction_with_behavior(TransactionBehavior::Immediate)
                    .map_err(boxed)?;
                let done = work(&transaction)?;
                transaction.commit().map_err(boxed)?;
                Ok(done)
            })
            .await
        };
        self.limited(write).await
    }

    async fn limited<T>(
        &self,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        tokio::time::timeout(self.timeout, work)
            .await
            .map_err(|_| boxed(TimedOut(self.timeout)))?
    }

    async fn on_thread<T: Send + 'static>(
        &self,
        turn: Option<OwnedSemaphorePermit>,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(boxed)?;
        tokio::task::spawn_blocking(move || {
            // Held for as long as the thread is: its caller may have gone by then.
            let _held = (permit, turn);
            let mut connection = shared.take()?;
            let done = work(&mut connection);
            shared.put_back(connection);
            done
        })
        .await
        .map_err(boxed)?
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

/// A query that can be told to end, for as long as its connection is its own.
#[derive(Default)]
struct Running(Mutex<Option<InterruptHandle>>);

impl Running {
    fn begin(&self, connection: &Connection) {
        *self.handle() = Some(connection.get_interrupt_handle());
    }

    fn end(&self) {
        *self.handle() = None;
    }

    fn handle(&self) -> MutexGuard<'_, Option<InterruptHandle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells a query to end, if it has not, once nobody waits for it.
struct EndsWith(Arc<Running>);

impl Drop for EndsWith {
    fn drop(&mut self) {
        if let Some(handle) = &*self.0.handle() {
            handle.interrupt();
        }
    }
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

fn refused(refused: Refused, path: PathBuf) -> OpenError {
    match refused {
        Refused::Sqlite(source) => file_error(path, source),
        Refused::Foreign => OpenError::Foreign { path },
        Refused::Newer(found) => OpenError::Newer {
            path,
            found,
            known: SCHEMA_VERSION,
        },
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
    let mut connection = connect(path, timeout)?;
    schema::prepare(&mut connection)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    Ok(connection)
}
