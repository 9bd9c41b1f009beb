//! The connection to MongoDB: made when it is first needed, and bounded in time and number.
//!
//! Invariant: a future of the driver's is never dropped half-way, for that would cost its
//! connection. Each call runs as a task of its own, and the time limit is on waiting for the task.
//! Before the client goes, [`Connection::close`] waits for the tasks: one that outlives it panics.
//! Queries, which may be any amount of work, have a small share of the connections, and what reads by
//! a key or writes never waits for one.

use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mongodb::{
    Client, Database,
    options::{ClientOptions, ConnectionString, Tls, TlsOptions, WriteConcern},
};
use roundtrip_tls::Roots;
use tokio::{
    sync::{OnceCell, Semaphore},
    task::JoinHandle,
    time::{self, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::{
    away,
    indexes::{self, Uniqueness},
};
use crate::{Config, OpenError, StoreError, TimedOut};

/// How the server's log names us.
const APP_NAME: &str = "roundtrip";
/// How long the end waits for the calls that are under way.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);
/// How long to wait before the indexes are tried again.
const INDEX_PAUSE: Duration = Duration::from_secs(5);
/// How much of a call's time limit the driver may spend on finding a server. Less than all: only
/// the driver can say why there is none, such as a certificate that is not to be trusted.
const SELECTION_SHARE: f64 = 0.9;
/// How much of the connections queries have at once: one in so many, and no more than
/// [`MAX_QUERIES`].
const QUERY_SHARE: u32 = 4;
/// The most queries of one process at once.
const MAX_QUERIES: u32 = 8;
/// How much of its time limit a query waits for its turn at the most.
const TURN_SHARE: f64 = 0.5;
/// How much of the time that a query has left the server may work on it. Less than all: only the
/// server can say that it was too much work, and not that nobody answered.
const WORK_SHARE: f64 = 0.8;
/// The longest name that MongoDB gives a database.
const MAX_DATABASE_BYTES: usize = 63;

/// What is said of a URL that cannot be read.
const MALFORMED: &str = "is malformed; it is mongodb://user:password@host:port/database?option=value \
                         as MongoDB's drivers have it, with the user's name and the password \
                         percent-encoded";

/// What is said of the URL's own authorities.
const BAD_CA_FILE: &str =
    "names a tlsCAFile that cannot be read, holds no certificate, or a damaged one";

/// A connection, perhaps not yet made.
pub(super) struct Connection {
    shared: Arc<Shared>,
    /// Sees to the indexes in the background.
    indexing: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.indexing.abort();
    }
}

/// What the tasks share.
pub(super) struct Shared {
    url: ConnectionString,
    ca_file: Option<PathBuf>,
    database_name: String,
    timeout: Duration,
    max_connections: u32,
    retention: Duration,
    permits: Arc<Semaphore>,
    queries: Arc<Semaphore>,
    database: OnceCell<Database>,
    channels_indexed: OnceCell<Uniqueness>,
    /// All that the driver is at work on.
    tasks: TaskTracker,
    closing: CancellationToken,
}

impl Connection {
    pub(super) fn open(config: &Config) -> Result<Self, OpenError> {
        let setting = |setting, problem: String| OpenError::Setting { setting, problem };
        // What the driver says may quote the URL, and so the password in it.
        let url = ConnectionString::parse(&config.url)
            .map_err(|_| setting("url", MALFORMED.to_owned()))?;
        if let Some(Tls::Enabled(options)) = &url.tls
            && let Some(path) = &options.ca_file_path
        {
            // The driver looks at it when it connects, and the store would be away for ever.
            Roots::read(path).map_err(|_| setting("url", BAD_CA_FILE.to_owned()))?;
        }
        if let Some(Tls::Enabled(options)) = &url.tls
            && options.allow_invalid_certificates == Some(true)
        {
            let problem = "must not turn the verification of certificates off; trust an authority of \
                           your own by ca_file";
            return Err(setting("url", problem.to_owned()));
        }
        if let Some(path) = &config.ca_file {
            if matches!(url.tls, Some(Tls::Disabled)) {
                return Err(setting(
                    "ca_file",
                    "is of no use: the url turns TLS off".to_owned(),
                ));
            }
            // The driver passes over what it cannot read in this file.
            Roots::read(path)?;
        }
        let database = config.database.as_str();
        if database.is_empty()
            || database.len() > MAX_DATABASE_BYTES
            || database.contains(['/', '\\', '.', ' ', '"', '$', '\0'])
        {
            return Err(setting("database", "is no name for a database".to_owned()));
        }
        // The driver reads 0 as no limit.
        if config.max_connections == 0 {
            return Err(setting("max_connections", "must be at least 1".to_owned()));
        }
        let permits = |count: u32| {
            let count = usize::try_from(count).unwrap_or(Semaphore::MAX_PERMITS);
            Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)))
        };
        let shared = Arc::new(Shared {
            url,
            ca_file: config.ca_file.clone(),
            database_name: database.to_owned(),
            timeout: config.timeout,
            max_connections: config.max_connections,
            retention: config.retention,
            permits: permits(config.max_connections),
            queries: permits((config.max_connections / QUERY_SHARE).clamp(1, MAX_QUERIES)),
            database: OnceCell::new(),
            channels_indexed: OnceCell::new(),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
        });
        let indexing = tokio::spawn(see_to_indexes(Arc::clone(&shared)));
        Ok(Self { shared, indexing })
    }

    /// Makes no further index, and waits for every call that is under way; then ends the client.
    pub(super) async fn close(&self) {
        self.shared.closing.cancel();
        self.shared.tasks.close();
        let ended = async {
            self.shared.tasks.wait().await;
            if let Some(database) = self.shared.database.get() {
                database.client().clone().shutdown().await;
            }
        };
        if time::timeout(CLOSE_LIMIT, ended).await.is_err() {
            warn!("MongoDB did not answer in time; what was asked of it last may go on there");
        }
    }

    /// Runs something as a task, and waits for it as long as the time limit.
    pub(super) async fn run<T, F>(
        &self,
        work: impl FnOnce(Arc<Shared>, Database) -> F + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        run(&self.shared, self.shared.timeout, work).await
    }

    /// Runs what [`Connection::query`] does, for who is no caller of the API and waits for no turn.
    pub(super) async fn read<T, F>(
        &self,
        work: impl FnOnce(Database, Duration) -> F + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        let timeout = self.shared.timeout;
        self.run(move |_, database| work(database, timeout)).await
    }

    /// Runs a query, as [`Connection::run`] does, once it is its turn. It is told how long the server
    /// may work on it.
    pub(super) async fn query<T, F>(
        &self,
        work: impl FnOnce(Database, Duration) -> F + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        let deadline = Instant::now() + self.shared.timeout;
        let turn = Arc::clone(&self.shared.queries).acquire_owned();
        let turn = time::timeout(self.shared.timeout.mul_f64(TURN_SHARE), turn)
            .await
            .map_err(|_too_long| StoreError::TooBusy)?
            .map_err(|closed| StoreError::Away(closed.into()))?;
        let left = deadline.saturating_duration_since(Instant::now());
        run(&self.shared, left, move |_, database| async move {
            // Held until the driver is done, as the permit is.
            let _turn = turn;
            work(database, left.mul_f64(WORK_SHARE)).await
        })
        .await
    }
}

async fn run<T, F>(
    shared: &Arc<Shared>,
    limit: Duration,
    work: impl FnOnce(Arc<Shared>, Database) -> F + Send + 'static,
) -> Result<T, StoreError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, StoreError>> + Send,
{
    let boxed = |error| StoreError::Away(error);
    let run = async {
        let permits = Arc::clone(&shared.permits);
        let permit = permits
            .acquire_owned()
            .await
            .map_err(|closed| boxed(closed.into()))?;
        let shared = Arc::clone(shared);
        let tasks = shared.tasks.clone();
        let task = tasks.spawn(async move {
            // Held until the driver is done: a server that hangs ties up no more tasks than this.
            let _permit = permit;
            let database = shared.database().await?.clone();
            work(shared, database).await
        });
        task.await.map_err(|died| boxed(died.into()))?
    };
    time::timeout(limit, run)
        .await
        .map_err(|_| boxed(TimedOut(limit).into()))?
}

async fn see_to_indexes(shared: Arc<Shared>) {
    let channels = || {
        run(&shared, shared.timeout, |shared, _| async move {
            shared.uniqueness().await.map(drop)
        })
    };
    until_made(&shared, channels).await;
    for needed in &indexes::LEDGER {
        // Without a time limit, and without a permit: how long it takes is the collection's size,
        // and nobody waits for it.
        let make = || async {
            let shared = Arc::clone(&shared);
            let tasks = shared.tasks.clone();
            let made = tasks.spawn(async move {
                let database = shared.database().await?;
                let made = needed.make(database, shared.retention).await;
                made.map_err(away)
            });
            made.await
                .map_err(|died| StoreError::Away(Box::new(died)))?
        };
        until_made(&shared, make).await;
    }
}

/// Makes what is to be made, however long that takes; once the connection is closing, not at all.
async fn until_made<F: Future<Output = Result<(), StoreError>>>(
    shared: &Shared,
    make: impl Fn() -> F,
) {
    while !shared.closing.is_cancelled()
        && let Err(error) = make().await
    {
        debug!(error = ?error, "the indexes are not yet there");
        tokio::select! {
            () = time::sleep(INDEX_PAUSE) => {}
            () = shared.closing.cancelled() => {}
        }
    }
}

/// Turns TLS on and trusts these authorities, unless the URL has named some.
fn trust(tls: &mut Option<Tls>, ca_file: &Path) {
    let mut options = match tls.take() {
        Some(Tls::Enabled(options)) => options,
        _ => TlsOptions::default(),
    };
    let path = &mut options.ca_file_path;
    path.get_or_insert_with(|| ca_file.to_owned());
    *tls = Some(Tls::Enabled(options));
}

impl Shared {
    /// The database; no server is asked for it, but a `mongodb+srv` URL asks the DNS.
    async fn database(&self) -> Result<&Database, StoreError> {
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
        made.await.map_err(away)
    }

    /// Makes the indexes of channels, unless that was done; all who need them wait for the one
    /// try.
    pub(super) async fn uniqueness(&self) -> Result<Uniqueness, StoreError> {
        let database = self.database().await?;
        let made = self
            .channels_indexed
            .get_or_try_init(|| indexes::of_channels(database));
        made.await.copied().map_err(away)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mongo::MongoStore;

    /// Nobody listens there: the port is reserved.
    const AWAY: &str = "mongodb://127.0.0.1:1/";

    fn config(url: &str) -> Config {
        Config {
            url: url.to_owned(),
            timeout: Duration::from_millis(200),
            ..Config::default()
        }
    }

    #[tokio::test]
    async fn a_server_that_is_away_opens_and_says_so_at_each_call() {
        let store = crate::open(&config(AWAY)).await.unwrap();
        for _ in 0..2 {
            let refused = store.ping().await;
            assert!(matches!(refused, Err(StoreError::Away(_))), "{refused:?}");
        }
        let refused = store.get(&"c".parse().unwrap()).await;
        assert!(matches!(refused, Err(StoreError::Away(_))), "{refused:?}");
    }

    #[tokio::test]
    async fn what_is_malformed_is_named_without_the_password() {
        let bad_url = config("mongodb://user:se/cret@host:x/");
        let no_roots = config("mongodb://host/?tls=true&tlsCAFile=/nowhere/secret.pem");
        let bad_option = config("mongodb://host/?maxPoolSize=many");
        let no_at = config("mongodb://user:secret:5998");
        let several_urls = config("mongodb://user:b@h1/db,mongodb://user:secret@h2/db");
        let several_users = config("mongodb://user:b@h1,user:secret@h2/db");
        let bad_mark = config("mongodb://user:sec?cret@host/");
        let bad_database = Config {
            database: "a b".to_owned(),
            ..config(AWAY)
        };
        let no_connections = Config {
            max_connections: 0,
            ..config(AWAY)
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
            let Err(OpenError::Setting { setting, problem }) = MongoStore::open(&config) else {
                panic!("opened {config:?}")
            };
            assert_eq!(setting, named, "{problem}");
            assert!(!problem.contains("cret"), "{problem}");
        }
    }
}
