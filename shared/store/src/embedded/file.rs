//! The SQLite file: its connections, and their threads.
//!
//! Invariant: at most [`MAX_CONNECTIONS`] blocking threads are used, and [`QUERY_CONNECTIONS`] more
//! for queries, for any number of callers. A caller waits no longer than the time limit. Reads by
//! key and writes never wait for a query. Only one writer of this process runs at a time. The
//! others wait without a thread; SQLite's own lock would block a thread for each.

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
/// The most concurrent queries, on connections that only queries use.
const QUERY_CONNECTIONS: usize = 2;
/// The most of its time limit that a query spends waiting for its turn, as a fraction.
const TURN_SHARE: f64 = 0.5;
/// The wait before the next attempt to open the file while another process opens it.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// How many prepared statements a connection keeps.
const STATEMENT_CACHE: usize = 64;

pub(super) struct File {
    connections: Arc<Connections>,
    permits: Arc<Semaphore>,
    queries: Arc<Semaphore>,
    writer: Arc<Semaphore>,
    timeout: Duration,
}

struct Connections {
    path: PathBuf,
    timeout: Duration,
    idle: Mutex<Vec<Connection>>,
}

impl File {
    pub(super) async fn open(path: PathBuf, timeout: Duration) -> Result<Self, OpenError> {
        let deadline = Instant::now() + timeout;
        let file = path.clone();
        // SQLite gives its other files the permissions of this one.
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
                // The change to WAL mode returns BUSY at once when another process is opening the
                // file.
                Ok(Err(Refused::Sqlite(error))) if is_busy(&error) && Instant::now() < deadline => {
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                Ok(Err(why)) => return Err(refused(why, path)),
                Err(died) => return Err(file_error(path, died)),
            }
        };
        Ok(Self {
            connections: Arc::new(Connections {
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

    /// Runs a function on a connection, on a blocking thread. The function receives the time at
    /// which its caller stops waiting.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection, Instant) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let deadline = Instant::now() + self.timeout;
        self.limited(self.on_thread(None, move |connection| work(connection, deadline)))
            .await
    }

    /// Runs a query on a connection, as [`File::run`] does, and interrupts it at the time limit: a
    /// client's filter may need any amount of work.
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
        let connections = Arc::clone(&self.connections);
        // Also interrupts the query if its caller is dropped earlier.
        let running = EndsWith(Arc::new(Running::default()));
        let interruptible = Arc::clone(&running.0);
        let thread = tokio::task::spawn_blocking(move || {
            let _held = permit;
            let mut connection = connections.take()?;
            interruptible.begin(&connection);
            let done = work(&mut connection, deadline);
            interruptible.end();
            connections.put_back(connection);
            done
        });
        timeout_at(deadline.into(), thread)
            .await
            .map_err(|_too_long| StoreError::TooCostly)?
            .map_err(boxed)?
    }

    /// Runs a function in a transaction, and commits if it succeeds. The transaction takes the
    /// write lock at its beginning, so that nothing changes between its reads and its writes.
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
        let connections = Arc::clone(&self.connections);
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(boxed)?;
        tokio::task::spawn_blocking(move || {
            // Held while the thread runs, even if the caller was dropped.
            let _held = (permit, turn);
            let mut connection = connections.take()?;
            let done = work(&mut connection);
            connections.put_back(connection);
            done
        })
        .await
        .map_err(boxed)?
    }
}

impl Connections {
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

/// A query that can be interrupted, for as long as it has its connection.
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

/// Interrupts the query when it is dropped, unless the query has ended.
struct EndsWith(Arc<Running>);

impl Drop for EndsWith {
    fn drop(&mut self) {
        if let Some(handle) = &*self.0.handle() {
            handle.interrupt();
        }
    }
}

fn boxed(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Unavailable(Box::new(error))
}

fn connect(path: &Path, timeout: Duration) -> rusqlite::Result<Connection> {
    // Without the default URI flag: the text is always a path.
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

/// Opens the file and brings its schema up to date.
fn prepare(path: &Path, timeout: Duration) -> Result<Connection, Refused> {
    let mut connection = connect(path, timeout)?;
    schema::prepare(&mut connection)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    Ok(connection)
}
