//! The store's section of the configuration.
//!
//! Invariant: the URL may contain a password, so `Debug` and every error show only its scheme, or
//! the path of a file.

use std::{fmt, path::PathBuf, time::Duration};

use roundtrip_model::config::masked;

roundtrip_model::section! {
    #[derive(Eq)]
    pub struct Config {
        /// `sqlite:PATH`, `mongodb://…` or `mongodb+srv://…`.
        url: String = "sqlite:data/store.db".to_owned();
        /// For MongoDB: a PEM file of certificate authorities that replaces the public ones. It turns
        /// TLS on.
        #[serde(skip_serializing_if = "Option::is_none")]
        ca_file: Option<PathBuf> = None;
        /// MongoDB's database, if the URL names none.
        database: String = "roundtrip".to_owned();
        #[serde(with = "humantime_serde")]
        timeout: Duration = Duration::from_secs(2), in LEAST..;
        /// The most connections that one process opens to MongoDB, where 0 would mean no limit.
        max_connections: u32 = 100, in 1..;
        /// The most messages of one channel and reason that MongoDB counts for the summary of waiting
        /// messages. SQLite counts all.
        max_counted_waiting: u32 = 10_000, in 1..;
        #[serde(with = "humantime_serde")]
        cache_ttl: Duration = Duration::from_secs(5);
        /// The most memory for cached channels, in bytes. The least used are evicted first. The
        /// default holds about 15,000 channels.
        cache_bytes: u64 = 32 << 20;
        /// How long messages, ended replays, replayed dead letters and idempotency keys are kept. A
        /// dead letter that was not replayed stays until it is purged.
        #[serde(with = "humantime_serde")]
        retention: Duration = Duration::from_hours(30 * 24), in LEAST..;
        /// How long the contents of messages, answers and dead letters are kept. `None`: as long as
        /// the rest.
        #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
        content_retention: Option<Duration> = None;
    }
}

pub(crate) const LEAST: Duration = Duration::from_millis(1);

impl Config {
    /// The URL for logs: a file's whole URL, and only the scheme of any other.
    #[must_use]
    pub fn shown_url(&self) -> String {
        masked(&self.url, SQLITE, &MONGODB)
    }

    /// The file of the embedded engine, if the URL chooses it.
    #[must_use]
    pub fn embedded_file(&self) -> Option<&str> {
        self.url.strip_prefix(SQLITE)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("url", &self.shown_url())
            .finish_non_exhaustive()
    }
}

pub(crate) const SQLITE: &str = "sqlite:";
pub(crate) const MONGODB: [&str; 2] = ["mongodb://", "mongodb+srv://"];

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
        assert_eq!(masked(url, SQLITE, &MONGODB), printed);
        let config = Config {
            url: url.to_owned(),
            ..Config::default()
        };
        assert!(!format!("{config:?}").contains("cret"));
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let read = serde_json::from_str::<Config>(r#"{"uri": "sqlite:x"}"#);
        assert!(read.unwrap_err().to_string().contains("uri"));
    }
}
