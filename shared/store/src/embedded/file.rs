//! The SQLite file: its connections, and their threads.
//!
//! Invariant: at most [`MAX_CONNECTIONS`] blocking threads are used, and [`QUERY_CONNECTIONS`] more
//! for queries, for any number of callers. A caller waits no longer than the time limit. Reads by
//! key and writes never wait for a query. Only one writer of this process runs at a time. The
//! others wait without a thread; SQLite's own lock would block a thread for each.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use roundtrip_files::sqlite;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time::{timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::schema::SCHEMA;
use crate::{
    QueryError, Unavailable,
    error::TimedOut,
    metrics::{StoreError, counted},
};

const MAX_CONNECTIONS: usize = 4;
/// The most concurrent queries, on connections that only queries use.
const QUERY_CONNECTIONS: usize = 2;
/// The most of its time limit that a query spends waiting for its turn, as a fraction.
const TURN_SHARE: f64 = 0.5;
/// How much of its remaining time a query may evaluate channels. The rest lets it return the page.
const WORK_SHARE: f64 = 0.8;
/// How many steps of SQLite's machine, about, a query makes between two looks at whether it is
/// interrupted.
const STEPS_PER_CHECK: i32 = 1000;
/// The wait before the next attempt to open the file while another process opens it.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

#[derive(Clone)]
pub(crate) struct SqliteStore {
    connections: Arc<Connections>,
    permits: Arc<Semaphore>,
    queries: Arc<Semaphore>,
    writer: Arc<Semaphore>,
    timeout: Duration,
    background_task: Option<Arc<AbortOnDropHandle<()>>>,
}

struct Connections {
    path: PathBuf,
    timeout: Duration,
    idle: Mutex<Vec<Connection>>,
}

impl SqliteStore {
    pub(crate) async fn open(
        path: impl AsRef<Path>,
        wait: Duration,
    ) -> Result<Self, sqlite::OpenError> {
        let path = path.as_ref().to_owned();
        let deadline = Instant::now() + wait;
        let connection = loop {
            let file = path.clone();
            let open = move || SCHEMA.open(&file, wait, overwrite_deleted);
            match tokio::task::spawn_blocking(open).await {
                // The change to WAL mode fails at once when another process is opening the file.
                Ok(Err(sqlite::OpenError::InUse(_))) if Instant::now() < deadline => {
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                Ok(opened) => break opened?,
                Err(died) => {
                    let source = died.into();
                    return Err(sqlite::OpenError::File { path, source });
                }
            }
        };
        Ok(Self {
            connections: Arc::new(Connections {
                path,
                timeout: wait,
                idle: Mutex::new(vec![connection]),
            }),
            permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            queries: Arc::new(Semaphore::new(QUERY_CONNECTIONS)),
            writer: Arc::new(Semaphore::new(1)),
            timeout: wait,
            background_task: None,
        })
    }

    pub(super) fn with_background_task(mut self, task: JoinHandle<()>) -> Self {
        self.background_task = Some(Arc::new(AbortOnDropHandle::new(task)));
        self
    }

    pub(super) async fn run<T, C, E>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, C> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<C> + StoreError,
    {
        self.limited(self.on_thread(None, |connection| Ok(work(connection)?)))
            .await
    }

    /// Runs a query on a connection, as [`SqliteStore::run`] does, and interrupts it at the time limit: a
    /// client's filter may need any amount of work. The function receives the time at which it
    /// should return what it has.
    pub(super) async fn run_query<T: Send + 'static, C>(
        &self,
        work: impl FnOnce(&mut Connection, Instant) -> Result<T, C> + Send + 'static,
    ) -> Result<T, QueryError>
    where
        QueryError: From<C>,
    {
        let deadline = Instant::now() + self.timeout;
        let turn = Arc::clone(&self.queries).acquire_owned();
        let permit = timeout(self.timeout.mul_f64(TURN_SHARE), turn)
            .await
            .map_err(|_too_long| QueryError::TooBusy)?
            .map_err(Unavailable::new)?;
        let left = deadline.saturating_duration_since(Instant::now());
        let work_until = Instant::now() + left.mul_f64(WORK_SHARE);
        let connections = Arc::clone(&self.connections);
        // Also interrupts the query if its caller is dropped earlier.
        let interrupted = CancellationToken::new();
        let _interrupts = interrupted.clone().drop_guard();
        let thread = tokio::task::spawn_blocking(move || {
            let _held = permit;
            let mut connection = connections.take()?;
            interrupt_with(&mut connection, interrupted)?;
            let done = work(&mut connection, work_until);
            let kept = connection.progress_handler(0, None::<fn() -> bool>);
            if kept.is_ok() {
                connections.put_back(connection);
            }
            Ok(done?)
        });
        counted(async {
            timeout_at(deadline.into(), thread)
                .await
                .map_err(|_too_long| QueryError::TooCostly)?
                .map_err(Unavailable::new)?
        })
        .await
    }

    /// Runs a function in a transaction, and commits if it succeeds. The transaction takes the
    /// write lock at its beginning, so that nothing changes between its reads and its writes.
    pub(super) async fn write<T, C, E>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, C> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<C> + StoreError,
    {
        let write = async {
            let turn = Arc::clone(&self.writer).acquire_owned().await;
            self.on_thread(Some(turn.map_err(Unavailable::new)?), |connection| {
                let transaction = connection
                    .transaction_with_behavior(TransactionBehavior::Immediate)
                    .map_err(Unavailable::new)?;
                let done = work(&transaction)?;
                transaction.commit().map_err(Unavailable::new)?;
                Ok(done)
            })
            .await
        };
        self.limited(write).await
    }

    async fn limited<T, E: StoreError>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        counted(async {
            timeout(self.timeout, work)
                .await
                .map_err(|_too_long| Unavailable::new(TimedOut(self.timeout)))?
        })
        .await
    }

    async fn on_thread<T, E>(
        &self,
        turn: Option<OwnedSemaphorePermit>,
        work: impl FnOnce(&mut Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: StoreError,
    {
        let connections = Arc::clone(&self.connections);
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(Unavailable::new)?;
        tokio::task::spawn_blocking(move || {
            // Held while the thread runs, even if the caller was dropped.
            let _held = (permit, turn);
            let mut connection = connections.take()?;
            let done = work(&mut connection);
            connections.put_back(connection);
            done
        })
        .await
        .map_err(Unavailable::new)?
    }
}

impl Connections {
    fn take(&self) -> Result<Connection, Unavailable> {
        let idle = self.idle.lock().pop();
        if let Some(connection) = idle {
            return Ok(connection);
        }
        let connection = sqlite::connect(&self.path, self.timeout)?;
        overwrite_deleted(&connection)?;
        Ok(connection)
    }

    fn put_back(&self, connection: Connection) {
        self.idle.lock().push(connection);
    }
}

/// Has the connection overwrite what it deletes with zeros: an erasure cannot find the free parts of
/// the file in which earlier deletions have left contents.
fn overwrite_deleted(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "secure_delete", true)
}

/// Stops the statement that the connection runs, once the token is cancelled. This also works if the
/// token is cancelled before the statement begins: SQLite's own interrupt is lost in that case.
fn interrupt_with(connection: &mut Connection, token: CancellationToken) -> rusqlite::Result<()> {
    connection.progress_handler(STEPS_PER_CHECK, Some(move || token.is_cancelled()))
}
