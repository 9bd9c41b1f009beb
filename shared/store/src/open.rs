//! Checks the configuration and opens the store that it names.

use std::{path::PathBuf, sync::Arc, time::Duration};

use mongodb::options::ConnectionString;
use roundtrip_model::{Check, SystemClock, WrongSetting};

use crate::{
    Config, OpenError, SharedStore,
    config::{LEAST, MONGODB},
    embedded::SqliteStore,
    mongo::MongoStore,
};

enum Engine {
    Embedded(PathBuf),
    MongoDb(Box<ConnectionString>),
}

impl Config {
    /// Checks every setting, with the files that it names.
    pub fn check(&self, check: &mut Check) {
        self.engine(check);
    }

    fn engine(&self, check: &mut Check) -> Option<Engine> {
        self.check_bounds(check);
        let is_shorter = |own: Duration| (LEAST..self.retention).contains(&own);
        check.unless(
            self.content_retention.is_none_or(is_shorter),
            "content_retention",
            "must be at least 1ms, and shorter than store.retention",
        );
        let Some(path) = self.embedded_file() else {
            if MONGODB.iter().any(|scheme| self.url.starts_with(scheme)) {
                return MongoStore::check(self, check)
                    .map(Box::new)
                    .map(Engine::MongoDb);
            }
            let problem = "must begin with sqlite:, mongodb:// or mongodb+srv://";
            return check.take(Err(WrongSetting::new("url", problem)));
        };
        // SQLite would take `sqlite://data/store.db` for a file in the folder `/data`.
        let problem = "must be sqlite:PATH, and PATH must not be empty or begin with //";
        check.unless(!path.is_empty() && !path.starts_with("//"), "url", problem);
        // Refused, because a missing or damaged file would stay unnoticed until the URL is
        // MongoDB's.
        let problem = "has no effect: the URL is not a MongoDB URL";
        check.unless(self.ca_file.is_none(), "ca_file", problem);
        Some(Engine::Embedded(path.into()))
    }
}

/// Opens the store that the URL names. An unavailable MongoDB is not an error here: every call
/// returns [`crate::Unavailable`] until it is available.
pub async fn open(config: &Config) -> Result<SharedStore, OpenError> {
    let mut check = Check::of("store");
    let engine = config.engine(&mut check);
    Ok(match check.end_with(engine)? {
        Engine::Embedded(path) => {
            let store = SqliteStore::open(path, config.timeout).await?;
            Arc::new(store.keeping(config.retention, Arc::new(SystemClock)))
        }
        Engine::MongoDb(url) => Arc::new(MongoStore::open(config, *url)),
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

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
        assert_eq!(
            error.to_string(),
            "store.url must begin with sqlite:, mongodb:// or mongodb+srv://"
        );
    }

    #[tokio::test]
    async fn contents_are_not_kept_longer_than_the_rest() {
        let config = Config {
            content_retention: Some(Config::default().retention),
            ..Config::default()
        };
        let Err(error) = open(&config).await else {
            panic!("opened {config:?}")
        };
        let error = error.to_string();
        assert!(
            error.starts_with("store.content_retention must be"),
            "{error}"
        );
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
}
