//! The choice of a store and its connection.
//!
//! Invariant: the URL may contain a password, so `Debug` and every error show only its scheme, or
//! the path of a file.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use roundtrip_model::SystemClock;
use roundtrip_tls::RootsError;
use serde::{Deserialize, Serialize};

use crate::{SharedStore, embedded::SqliteStore, mongo::MongoStore};

/// The store's section of the configuration.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `sqlite:PATH`, `mongodb://…` or `mongodb+srv://…`.
    pub url: String,
    /// For MongoDB: a PEM file of certificate authorities that replaces the public ones. It turns
    /// TLS on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// MongoDB's database, if the URL names none.
    pub database: String,
    /// The time limit on each call to the store.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// The most connections that one process opens to MongoDB.
    pub max_connections: u32,
    /// How long a cached channel is used before it is read again.
    #[serde(with = "humantime_serde")]
    pub cache_ttl: Duration,
    /// The most memory for cached channels, in bytes. The least used are evicted first.
    pub cache_bytes: u64,
    /// How long messages, ended replays, replayed dead letters and idempotency keys are kept. A
    /// dead letter that was not replayed stays until it is purged.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
}

/// The default of [`Config::timeout`].
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);
/// The default of [`Config::max_connections`].
const DEFAULT_MAX_CONNECTIONS: u32 = 100;
/// The default of [`Config::cache_ttl`].
const DEFAULT_CACHE_TTL: Duration = Duration::from_secs(5);
/// The default of [`Config::cache_bytes`]: 32 MiB, about 15,000 channels.
const DEFAULT_CACHE_BYTES: u64 = 32 << 20;
/// The default of [`Config::retention`]: 30 days.
const DEFAULT_RETENTION: Duration = Duration::from_hours(30 * 24);

impl Default for Config {
    fn default() -> Self {
        Self {
            url: "sqlite:data/store.db".to_owned(),
            ca_file: None,
            database: "roundtrip".to_owned(),
            timeout: DEFAULT_TIMEOUT,
            max_connections: DEFAULT_MAX_CONNECTIONS,
            cache_ttl: DEFAULT_CACHE_TTL,
            cache_bytes: DEFAULT_CACHE_BYTES,
            retention: DEFAULT_RETENTION,
        }
    }
}

impl Config {
    /// The URL for logs: a file's whole URL, and only the scheme of any other.
    #[must_use]
    pub fn shown_url(&self) -> String {
        masked(&self.url)
    }

    /// The file of the embedded engine, if the URL chooses it.
    #[must_use]
    pub fn embedded_file(&self) -> Option<&str> {
        self.url.strip_prefix(SQLITE)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            url,
            ca_file,
            database,
            timeout,
            max_connections,
            cache_ttl,
            cache_bytes,
            retention,
        } = self;
        f.debug_struct("Config")
            .field("url", &masked(url))
            .field("ca_file", ca_file)
            .field("database", database)
            .field("timeout", timeout)
            .field("max_connections", max_connections)
            .field("cache_ttl", cache_ttl)
            .field("cache_bytes", cache_bytes)
            .field("retention", retention)
            .finish()
    }
}

/// Why the store could not be opened. Each message is one line without credentials.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL's scheme belongs to no engine.
    #[error("store.url must begin with sqlite:, mongodb:// or mongodb+srv://")]
    Scheme,
    /// The URL, or a setting beside it, is invalid.
    #[error("store.{setting} {problem}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The certificate authorities cannot be used.
    #[error("store.ca_file")]
    Roots(#[from] RootsError),
    /// The embedded store's file cannot be used.
    #[error("cannot open the store's file '{}'", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file belongs to another program, or to another part of Roundtrip.
    #[error("the file '{}' is not a Roundtrip store", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A newer version of Roundtrip wrote the embedded store's file.
    #[error(
        "the store's file '{}' has schema {found}, and this version knows only up to {known}",
        .path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The file's schema.
        found: i64,
        /// The newest schema that this version knows.
        known: i64,
    },
}

/// Opens the store that the URL names. An unavailable MongoDB is not an error here: every call
/// returns [`crate::StoreError::Unavailable`] until it is available.
///
/// # Errors
///
/// The URL is malformed or belongs to no engine; the embedded engine's file cannot be used.
pub async fn open(config: &Config) -> Result<SharedStore, OpenError> {
    let url = config.url.as_str();
    for (setting, duration) in [("timeout", config.timeout), ("retention", config.retention)] {
        if duration.is_zero() {
            return Err(OpenError::Setting {
                setting,
                problem: "must be greater than zero".to_owned(),
            });
        }
    }
    if let Some(path) = url.strip_prefix(SQLITE) {
        // SQLite would take `sqlite://data/store.db` for a file in the folder `/data`.
        if path.is_empty() || path.starts_with("//") {
            return Err(OpenError::Setting {
                setting: "url",
                problem: "must be sqlite:PATH, and PATH must not be empty or begin with //"
                    .to_owned(),
            });
        }
        // Refused, because a missing or damaged file would stay unnoticed until the URL is
        // MongoDB's.
        if config.ca_file.is_some() {
            return Err(OpenError::Setting {
                setting: "ca_file",
                problem: "has no effect: the URL is not a MongoDB URL".to_owned(),
            });
        }
        let store = SqliteStore::open(path, config.timeout).await?;
        return Ok(Arc::new(
            store.keeping(config.retention, Arc::new(SystemClock)),
        ));
    }
    if MONGODB.iter().any(|scheme| url.starts_with(scheme)) {
        return Ok(Arc::new(MongoStore::open(config)?));
    }
    Err(OpenError::Scheme)
}

const SQLITE: &str = "sqlite:";
const MONGODB: [&str; 2] = ["mongodb://", "mongodb+srv://"];

/// The whole URL of a file, and only the scheme of any other. An unknown scheme is hidden too,
/// because a mistyped URL may begin with the password.
fn masked(url: &str) -> String {
    if url.starts_with(SQLITE) {
        return url.to_owned();
    }
    let scheme = MONGODB.iter().find(|scheme| url.starts_with(**scheme));
    format!("{}…", scheme.unwrap_or(&""))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("mongodb://user:se@cret@host:27017/db?x=1", "mongodb://…")]
    #[case("mongodb://user:sec?cret@host/", "mongodb://…")]
    #[case("mongodb+srv://user:secret@host/", "mongodb+srv://…")]
    #[case("mongodb:/user:secret@host/", "…")]
    #[case("user:secret://host/", "…")]
    #[case("sqlite:data/store.db", "sqlite:data/store.db")]
    fn printed_configuration_contains_no_credentials(#[case] url: &str, #[case] printed: &str) {
        assert_eq!(masked(url), printed);
        let config = Config {
            url: url.to_owned(),
            ..Config::default()
        };
        assert!(!format!("{config:?}").contains("cret"));
    }

    #[rstest]
    #[case("postgres://user:secret@host/db")]
    #[case("mongo://user:sec?cret@host/")]
    #[case("mongodb:/user:sec?cret@host")]
    #[case("secret://host")]
    #[case("store.db")]
    #[case("")]
    #[tokio::test]
    async fn a_url_of_no_engine_is_one_clear_line(#[case] url: &str) {
        let config = Config {
            url: url.to_owned(),
            ..Config::default()
        };
        let Err(error) = open(&config).await else {
            panic!("opened {url}")
        };
        assert!(matches!(error, OpenError::Scheme), "{error}");
        assert!(!error.to_string().contains("cret"), "{error}");
    }

    #[tokio::test]
    async fn unused_certificate_authorities_are_refused() {
        let config = Config {
            ca_file: Some("/nowhere/ca.pem".into()),
            ..Config::default()
        };
        let Err(error) = open(&config).await else {
            panic!("opened {config:?}")
        };
        let error = error.to_string();
        assert!(error.starts_with("store.ca_file has no effect"), "{error}");
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let read = serde_json::from_str::<Config>(r#"{"uri": "sqlite:x"}"#);
        assert!(read.unwrap_err().to_string().contains("uri"));
    }
}
