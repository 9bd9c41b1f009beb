//! The connection to MongoDB: made when it is first needed, and bounded in time and number.
//!
//! Invariant: a future of the driver is never dropped before it ends, because that would close its
//! connection. Each call runs in its own task, and the time limit applies to waiting for the task.
//! [`MongoStore::shut_down`] waits for the tasks before it drops the client, because a task that
//! outlives the client panics. Queries have a small share of the connections, so that reads by key
//! and writes never wait for one.

use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bson::Document;
use mongodb::{
    Client, Collection, Database,
    options::{ClientOptions, ConnectionString, Tls, TlsOptions, WriteConcern},
};
use roundtrip_model::{Check, WrongSetting, config::chain};
use roundtrip_tls::Roots;
use tokio::{
    sync::{OnceCell, Semaphore},
    task::JoinHandle,
    time::{self, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::indexes::{self, Uniqueness};
use crate::{
    Config, QueryError, Unavailable,
    error::TimedOut,
    metrics::{StoreError, counted},
};

const APP_NAME: &str = "roundtrip";
const CLOSE_LIMIT: Duration = Duration::from_secs(10);
const INDEX_PAUSE: Duration = Duration::from_secs(5);
/// How much of a call's time limit the driver may spend on finding a server. The rest lets the
/// driver report why it found none, such as an untrusted certificate.
const SELECTION_SHARE: f64 = 0.9;
/// The share of the connections for queries: one in so many, up to [`MAX_QUERIES`].
const QUERY_SHARE: u32 = 4;
const MAX_QUERIES: u32 = 8;
/// The most of its time limit that a query spends waiting for its turn, as a fraction.
const TURN_SHARE: f64 = 0.5;
/// How much of a query's remaining time the server may use. The rest lets the server report that
/// the query took too long, which a time-out here would hide.
const WORK_SHARE: f64 = 0.8;
const MAX_DATABASE_BYTES: usize = 63;

const MALFORMED: &str = "is malformed; it is mongodb://user:password@host:port/database?option=value \
                         as MongoDB's drivers have it, with the user's name and the password \
                         percent-encoded";

const BAD_CA_FILE: &str =
    "names a tlsCAFile that cannot be read, holds no certificate, or a damaged one";

/// A store in a MongoDB database. Its connection may not have been made yet.
pub(crate) struct MongoStore {
    shared: Arc<ConnectionState>,
    indexing: JoinHandle<()>,
}

impl Drop for MongoStore {
    fn drop(&mut self) {
        self.indexing.abort();
    }
}

struct ConnectionState {
    url: ConnectionString,
    ca_file: Option<PathBuf>,
    database_name: String,
    timeout: Duration,
    max_connections: u32,
    max_counted_waiting: u64,
    retention: Duration,
    permits: Arc<Semaphore>,
    queries: Arc<Semaphore>,
    database: OnceCell<Database>,
    channels_indexed: OnceCell<Uniqueness>,
    tasks: TaskTracker,
    closing: CancellationToken,
}

impl MongoStore {
    pub(crate) fn check(config: &Config, check: &mut Check) -> Option<ConnectionString> {
        let Config {
            ca_file, database, ..
        } = config;
        let is_name = (1..=MAX_DATABASE_BYTES).contains(&database.len())
            && !database.contains(['/', '\\', '.', ' ', '"', '$', '\0']);
        check.unless(is_name, "database", "is not a valid name of a database");
        // The driver's message may quote the URL, including its password.
        let url = ConnectionString::parse(&config.url);
        let url = check.take(url.map_err(|_| WrongSetting::new("url", MALFORMED)));
        let tls = url.as_ref().and_then(|url| url.tls.as_ref());
        match ca_file {
            Some(_) if matches!(tls, Some(Tls::Disabled)) => {
                let problem = "has no effect: the URL turns TLS off";
                check.add(WrongSetting::new("ca_file", problem));
            }
            // The driver ignores unreadable parts of this file.
            Some(path) => drop(check.value("ca_file", Roots::read(path))),
            None => {}
        }
        if let Some(Tls::Enabled(options)) = tls {
            // The driver reads the file only when it connects, and the store would stay
            // unavailable.
            let file = options.ca_file_path.as_ref();
            let is_usable = file.is_none_or(|path| Roots::read(path).is_ok());
            check.unless(is_usable, "url", BAD_CA_FILE);
            check.unless(
                options.allow_invalid_certificates != Some(true),
                "url",
                "must not disable certificate verification; set ca_file to trust your own \
                 authority",
            );
        }
        url
    }

    /// Prepares the connection without waiting: the server may be unavailable.
    pub(crate) fn open(config: &Config, url: ConnectionString) -> Self {
        let permits = |count: u32| {
            let count = usize::try_from(count).unwrap_or(Semaphore::MAX_PERMITS);
            Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)))
        };
        let shared = Arc::new(ConnectionState {
            url,
            ca_file: config.ca_file.clone(),
            database_name: config.database.clone(),
            timeout: config.timeout,
            max_connections: config.max_connections,
            max_counted_waiting: config.max_counted_waiting.into(),
            retention: config.retention,
            permits: permits(config.max_connections),
            queries: permits((config.max_connections / QUERY_SHARE).clamp(1, MAX_QUERIES)),
            database: OnceCell::new(),
            channels_indexed: OnceCell::new(),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
        });
        let indexing = tokio::spawn(see_to_indexes(Arc::clone(&shared)));
        Self { shared, indexing }
    }

    /// The most messages of one channel and reason that a summary counts.
    pub(super) fn max_counted_waiting(&self) -> u64 {
        self.shared.max_counted_waiting
    }

    /// Stops making indexes, waits for every running call, and then drops the client.
    pub(super) async fn shut_down(&self) {
        self.shared.closing.cancel();
        self.shared.tasks.close();
        let ended = async {
            self.shared.tasks.wait().await;
            if let Some(database) = self.shared.database.get() {
                database.client().clone().shutdown().await;
            }
        };
        if time::timeout(CLOSE_LIMIT, ended).await.is_err() {
            warn!("MongoDB did not answer in time; its last operation may still be running");
        }
    }

    pub(super) async fn run<T, C, E, F>(
        &self,
        work: impl FnOnce(Database) -> F + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<C> + StoreError,
        F: Future<Output = Result<T, C>> + Send,
    {
        run(&self.shared, self.shared.timeout, |_, database| {
            work(database)
        })
        .await
    }

    pub(super) async fn on<T, C, E, F>(
        &self,
        collection: &'static str,
        work: impl FnOnce(Collection<Document>) -> F + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<C> + StoreError,
        F: Future<Output = Result<T, C>> + Send,
    {
        self.run(move |database| work(database.collection(collection)))
            .await
    }

    /// Runs a read, as [`MongoStore::run_query`] does, that is not a client's and need not wait for its
    /// turn.
    pub(super) async fn read<T, C, F>(
        &self,
        collection: &'static str,
        work: impl FnOnce(Collection<Document>, Duration) -> F + Send + 'static,
    ) -> Result<T, QueryError>
    where
        T: Send + 'static,
        QueryError: From<C>,
        F: Future<Output = Result<T, C>> + Send,
    {
        let timeout = self.shared.timeout;
        self.on(collection, move |collection| work(collection, timeout))
            .await
    }

    /// Runs a query, as [`MongoStore::on`] does, when its turn comes. The function receives the
    /// time limit for the server.
    pub(super) async fn run_query<T, C, F>(
        &self,
        collection: &'static str,
        work: impl FnOnce(Collection<Document>, Duration) -> F + Send + 'static,
    ) -> Result<T, QueryError>
    where
        T: Send + 'static,
        QueryError: From<C>,
        F: Future<Output = Result<T, C>> + Send,
    {
        let deadline = Instant::now() + self.shared.timeout;
        let turn = Arc::clone(&self.shared.queries).acquire_owned();
        let turn = time::timeout(self.shared.timeout.mul_f64(TURN_SHARE), turn)
            .await
            .map_err(|_too_long| QueryError::TooBusy)?
            .map_err(Unavailable::new)?;
        let left = deadline.saturating_duration_since(Instant::now());
        run(&self.shared, left, move |_, database| async move {
            // Held until the driver is done, like the permit.
            let _turn = turn;
            work(database.collection(collection), left.mul_f64(WORK_SHARE)).await
        })
        .await
    }

    pub(super) async fn uniqueness(&self) -> Result<Uniqueness, Unavailable> {
        uniqueness(&self.shared).await
    }
}

async fn uniqueness(shared: &Arc<ConnectionState>) -> Result<Uniqueness, Unavailable> {
    run(shared, shared.timeout, |shared, database| async move {
        // Concurrent callers wait for the same attempt.
        let made = &shared.channels_indexed;
        let made = made
            .get_or_try_init(|| indexes::of_channels(&database))
            .await;
        made.copied()
    })
    .await
}

async fn run<T, C, E, F>(
    shared: &Arc<ConnectionState>,
    limit: Duration,
    work: impl FnOnce(Arc<ConnectionState>, Database) -> F + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<C> + StoreError,
    F: Future<Output = Result<T, C>> + Send,
{
    let run = async {
        let permits = Arc::clone(&shared.permits);
        let permit = permits.acquire_owned().await.map_err(Unavailable::new)?;
        let shared = Arc::clone(shared);
        let tasks = shared.tasks.clone();
        let task = tasks.spawn(async move {
            // Held until the driver is done, so that a server that hangs blocks no more tasks than
            // this.
            let _permit = permit;
            let database = shared.database().await?.clone();
            Ok(work(shared, database).await?)
        });
        task.await.map_err(Unavailable::new)?
    };
    counted(async {
        time::timeout(limit, run)
            .await
            .map_err(|_too_long| Unavailable::new(TimedOut(limit)))?
    })
    .await
}

async fn see_to_indexes(shared: Arc<ConnectionState>) {
    let unique = || async { uniqueness(&shared).await.map(drop) };
    until_made(&shared, unique).await;
    for needed in &indexes::NEEDED {
        // Without a time limit and a permit: the duration depends on the collection's size, and no
        // caller waits for it.
        let make = || async {
            let shared = Arc::clone(&shared);
            let tasks = shared.tasks.clone();
            let made = tasks.spawn(async move {
                let database = shared.database().await?;
                Ok(needed.make(database, shared.retention).await?)
            });
            made.await.map_err(Unavailable::new)?
        };
        until_made(&shared, make).await;
    }
}

async fn until_made<F: Future<Output = Result<(), Unavailable>>>(
    shared: &ConnectionState,
    make: impl Fn() -> F,
) {
    while !shared.closing.is_cancelled()
        && let Err(error) = make().await
    {
        debug!(error = chain(&error), "the indexes do not exist yet");
        tokio::select! {
            () = time::sleep(INDEX_PAUSE) => {}
            () = shared.closing.cancelled() => {}
        }
    }
}

/// Turns TLS on and trusts these authorities, unless the URL names its own.
fn trust(tls: &mut Option<Tls>, ca_file: &Path) {
    let mut options = match tls.take() {
        Some(Tls::Enabled(options)) => options,
        _ => TlsOptions::default(),
    };
    let path = &mut options.ca_file_path;
    path.get_or_insert_with(|| ca_file.to_owned());
    *tls = Some(Tls::Enabled(options));
}

impl ConnectionState {
    /// The database. This contacts no server, but a `mongodb+srv` URL asks the DNS.
    async fn database(&self) -> Result<&Database, Unavailable> {
        let made = self.database.get_or_try_init(|| async {
            let mut options = ClientOptions::parse(self.url.clone()).await?;
            if let Some(path) = &self.ca_file {
                trust(&mut options.tls, path);
            }
            options.app_name.get_or_insert_with(|| APP_NAME.to_owned());
            options.server_selection_timeout = Some(self.timeout.mul_f64(SELECTION_SHARE));
            options.connect_timeout = Some(self.timeout);
            options.max_pool_size = Some(self.max_connections);
            options
                .write_concern
                .get_or_insert_with(WriteConcern::majority);
            let name = options
                .default_database
                .clone()
                .unwrap_or_else(|| self.database_name.clone());
            Ok(Client::with_options(options)?.database(&name))
        });
        made.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ChannelError;

    /// A reserved port, on which no server listens.
    const UNAVAILABLE: &str = "mongodb://127.0.0.1:1/";

    fn config(url: &str) -> Config {
        Config {
            url: url.to_owned(),
            timeout: Duration::from_millis(200),
            ..Config::default()
        }
    }

    #[tokio::test]
    async fn a_store_opens_without_its_server_and_each_call_fails() {
        let store = crate::open(&config(UNAVAILABLE)).await.unwrap();
        for _ in 0..2 {
            assert!(store.ping().await.is_err());
        }
        let refused = store.get(&"c".parse().unwrap()).await;
        assert!(
            matches!(refused, Err(ChannelError::Unavailable(_))),
            "{refused:?}"
        );
    }

    #[tokio::test]
    async fn a_malformed_url_is_reported_without_its_password() {
        let bad_url = config("mongodb://user:se/cret@host:x/");
        let no_roots = config("mongodb://host/?tls=true&tlsCAFile=/nowhere/secret.pem");
        let bad_option = config("mongodb://host/?maxPoolSize=many");
        let no_at = config("mongodb://user:secret:5998");
        let several_urls = config("mongodb://user:b@h1/db,mongodb://user:secret@h2/db");
        let several_users = config("mongodb://user:b@h1,user:secret@h2/db");
        let bad_mark = config("mongodb://user:sec?cret@host/");
        let bad_database = Config {
            database: "a b".to_owned(),
            ..config(UNAVAILABLE)
        };
        let no_connections = Config {
            max_connections: 0,
            ..config(UNAVAILABLE)
        };
        let unverified = config("mongodb://host/?tls=true&tlsInsecure=true");
        let no_tls = Config {
            ca_file: Some("/nowhere/ca.pem".into()),
            ..config("mongodb://host/?tls=false")
        };
        for (config, named) in [
            (unverified, "url"),
            (no_tls, "ca_file"),
            (bad_url, "url"),
            (no_at, "url"),
            (no_roots, "url"),
            (bad_mark, "url"),
            (several_urls, "url"),
            (several_users, "url"),
            (bad_option, "url"),
            (bad_database, "database"),
            (no_connections, "max_connections"),
        ] {
            let mut check = Check::of("store");
            config.check(&mut check);
            let wrong = check.end().unwrap_err().to_string();
            assert!(wrong.starts_with(&format!("store.{named} ")), "{wrong}");
            assert!(!wrong.contains("cret"), "{wrong}");
        }
    }
}
