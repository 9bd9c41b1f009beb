//! The broker's configuration: which engine, with which bounds. Opens it too.
//!
//! Invariant: the URL may contain a password, so `Debug` and every error show at most its scheme.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use roundtrip_model::Clock;
use roundtrip_tls::RootsError;
use serde::{Deserialize, Serialize};

use crate::{SharedBroker, embedded::Embedded, rabbitmq::RabbitMq};

/// The embedded engine's file by default.
const DEFAULT_URL: &str = "sqlite:data/broker.db";

/// The default prefix of every RabbitMQ name.
const DEFAULT_NAMESPACE: &str = "roundtrip";

/// Leaves the ingress time to answer 503 within two seconds.
const DEFAULT_PUBLISH_TIMEOUT: Duration = Duration::from_millis(1500);

/// Messages a queue holds at most, by default.
const DEFAULT_MAX_BACKLOG: u64 = 10_000_000;

/// Bytes of bodies a queue holds at most, by default: 10 GiB.
const DEFAULT_MAX_BACKLOG_BYTES: u64 = 10 << 30;

/// Upper bound on the outbound shards: each is a queue and a consumer.
const MAX_OUTBOUND_SHARDS: u16 = 64;

/// The section `broker` of the configuration.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `sqlite:` and a path for the embedded engine; `amqp://` or `amqps://` for RabbitMQ.
    pub url: String,
    /// PEM file of the certificate authorities for `amqps://` and `https://`. It replaces the
    /// system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Prefix of every name in RabbitMQ, so that several systems can share one broker.
    pub namespace: String,
    /// RabbitMQ's management API (`http://` or `https://`), used to check policies. A URL without a
    /// user uses the user of `url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub management_url: Option<String>,
    /// Number of RabbitMQ queues that the outbound messages are spread over, by channel. It can be
    /// raised at any time. Lower it only when no messages wait.
    pub outbound_shards: u16,
    /// How long a publish waits for its confirm.
    #[serde(with = "humantime_serde")]
    pub publish_timeout: Duration,
    /// Maximum number of messages in a queue; a full queue refuses. In RabbitMQ a policy of
    /// [`policies`] sets it.
    ///
    /// [`policies`]: crate::policies
    pub max_backlog: u64,
    /// Maximum bytes of bodies in a queue; a full queue refuses.
    pub max_backlog_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: DEFAULT_URL.to_owned(),
            ca_file: None,
            namespace: DEFAULT_NAMESPACE.to_owned(),
            management_url: None,
            outbound_shards: 1,
            publish_timeout: DEFAULT_PUBLISH_TIMEOUT,
            max_backlog: DEFAULT_MAX_BACKLOG,
            max_backlog_bytes: DEFAULT_MAX_BACKLOG_BYTES,
        }
    }
}

impl Config {
    /// The embedded engine's file, or `None` for RabbitMQ. Only one process can open it.
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
            namespace,
            management_url,
            outbound_shards,
            publish_timeout,
            max_backlog,
            max_backlog_bytes,
        } = self;
        f.debug_struct("Config")
            .field("url", &Masked(url))
            .field("ca_file", ca_file)
            .field("namespace", namespace)
            .field("management_url", &management_url.as_deref().map(Masked))
            .field("outbound_shards", outbound_shards)
            .field("publish_timeout", publish_timeout)
            .field("max_backlog", max_backlog)
            .field("max_backlog_bytes", max_backlog_bytes)
            .finish()
    }
}

/// Shows the whole URL of a file. Of any other URL it shows only a known scheme, because a typing
/// error can put a password in the scheme's place.
struct Masked<'a>(&'a str);

impl fmt::Debug for Masked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.starts_with(SQLITE) {
            return fmt::Debug::fmt(self.0, f);
        }
        let mut known = AMQP.iter().chain(&HTTP);
        match known.find(|scheme| self.0.starts_with(**scheme)) {
            Some(scheme) => write!(f, "\"{scheme}…\""),
            None => f.write_str("\"…\""),
        }
    }
}

const SQLITE: &str = "sqlite:";
const AMQP: [&str; 2] = ["amqp://", "amqps://"];
const HTTP: [&str; 2] = ["http://", "https://"];

/// Why a broker could not be opened. Each error is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL names no engine.
    #[error("broker.url must begin with sqlite:, amqp:// or amqps://")]
    Scheme,
    /// The scheme is known, but the rest of the URL cannot be used.
    #[error("broker.url {0}")]
    Url(&'static str),
    /// A setting is out of bounds.
    #[error("broker.{field} {problem}")]
    Setting {
        /// The setting's name.
        field: &'static str,
        /// What is wrong with the setting.
        problem: String,
    },
    /// The certificate authorities cannot be used.
    #[error("broker.ca_file")]
    Roots(#[from] RootsError),
    /// Another process has the file open.
    #[error(
        "{} is in use by another process: stop that one, or give this one a broker.url of its own \
         (only RabbitMQ can be shared between processes)",
        .0.display()
    )]
    InUse(PathBuf),
    /// A newer Roundtrip wrote the file.
    #[error(
        "{} has the schema version {found}, and this Roundtrip knows versions up to {known}: run \
         the newer Roundtrip that wrote it",
        path.display()
    )]
    NewerSchema {
        /// The file's path.
        path: PathBuf,
        /// The file's schema version.
        found: i64,
        /// The newest version that this build supports.
        known: i64,
    },
    /// The file cannot be opened, created or read.
    #[error("cannot open {}: {source}", path.display())]
    File {
        /// The file's path.
        path: PathBuf,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Opens the broker that the URL names. RabbitMQ may be unreachable: until it connects, the status
/// is [`Status::Unavailable`](crate::Status::Unavailable).
///
/// # Errors
/// See [`OpenError`].
pub async fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<SharedBroker, OpenError> {
    check(config)?;
    if let Some(path) = config.url.strip_prefix(SQLITE) {
        // A setting without effect is an error: a missing or damaged file would be noticed only
        // when it is needed.
        for (field, is_set) in [
            ("ca_file", config.ca_file.is_some()),
            ("management_url", config.management_url.is_some()),
        ] {
            if is_set {
                return Err(OpenError::Setting {
                    field,
                    problem: "has no effect: broker.url is not amqp:// or amqps://".to_owned(),
                });
            }
        }
        return Ok(Arc::new(Embedded::open(path, config, clock).await?));
    }
    if AMQP.iter().any(|scheme| config.url.starts_with(scheme)) {
        return Ok(Arc::new(RabbitMq::open(config, clock).await?));
    }
    Err(OpenError::Scheme)
}

fn check(config: &Config) -> Result<(), OpenError> {
    let setting = |field, problem| Err(OpenError::Setting { field, problem });
    if !(1..=MAX_OUTBOUND_SHARDS).contains(&config.outbound_shards) {
        return setting(
            "outbound_shards",
            format!("must be 1 to {MAX_OUTBOUND_SHARDS}"),
        );
    }
    if config.publish_timeout.is_zero() {
        return setting("publish_timeout", "must be greater than zero".to_owned());
    }
    if config.max_backlog == 0 {
        return setting("max_backlog", "must be at least 1".to_owned());
    }
    if config.max_backlog_bytes == 0 {
        return setting("max_backlog_bytes", "must be at least 1".to_owned());
    }
    if config.namespace.is_empty() {
        return setting("namespace", "must not be empty".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use roundtrip_model::SystemClock;

    use super::*;

    async fn refusal(config: Config) -> String {
        match open(&config, Arc::new(SystemClock)).await {
            Ok(_) => panic!("it was opened"),
            Err(error) => error.to_string(),
        }
    }

    fn at(url: &str) -> Config {
        Config {
            url: url.to_owned(),
            ..Config::default()
        }
    }

    #[tokio::test]
    async fn a_url_that_names_no_engine_is_refused_without_showing_it() {
        for url in [
            "",
            "broker.db",
            "redis://user:secret@host",
            "postgres:secret",
            "AMQP//secret",
        ] {
            let text = refusal(at(url)).await;
            assert_eq!(
                text,
                "broker.url must begin with sqlite:, amqp:// or amqps://"
            );
        }
    }

    #[tokio::test]
    async fn the_embedded_engine_needs_a_file() {
        for url in ["sqlite:", "sqlite://", "sqlite::memory:"] {
            let text = refusal(at(url)).await;
            assert!(
                text.starts_with("broker.url ") && text.contains("file"),
                "{text}"
            );
        }
    }

    #[tokio::test]
    async fn unused_certificate_authorities_are_refused() {
        for url in [DEFAULT_URL, "amqp://localhost"] {
            let text = refusal(Config {
                ca_file: Some("/nowhere/ca.pem".into()),
                ..at(url)
            });
            let text = text.await;
            assert!(text.starts_with("broker.ca_file has no effect"), "{text}");
        }
    }

    #[tokio::test]
    async fn a_url_that_cannot_be_read_is_not_shown() {
        for url in [
            "amqp://user:secret@host:99999/",
            "amqp://user:sec?ret@host/",
            "amqp://user:sec%zzret@host:x/",
            "amqp://host/?heartbeat=secret",
            "amqps://host/?auth_mechanism=secret",
            "amqp://host/%ff-secret",
        ] {
            let text = refusal(at(url)).await;
            assert!(text.starts_with("broker.url "), "{text}");
            assert!(!text.contains("ret@") && !text.contains("secret"), "{text}");
        }
        for url in ["user:secret://host", "amqp:/user:secret@host"] {
            assert!(!format!("{:?}", at(url)).contains("secret"));
        }
    }

    #[tokio::test]
    async fn a_setting_out_of_its_bounds_is_named() {
        let set = Config::default;
        for (config, field) in [
            (
                Config {
                    outbound_shards: 0,
                    ..set()
                },
                "outbound_shards",
            ),
            (
                Config {
                    outbound_shards: MAX_OUTBOUND_SHARDS + 1,
                    ..set()
                },
                "outbound_shards",
            ),
            (
                Config {
                    publish_timeout: Duration::ZERO,
                    ..set()
                },
                "publish_timeout",
            ),
            (
                Config {
                    max_backlog: 0,
                    ..set()
                },
                "max_backlog",
            ),
            (
                Config {
                    max_backlog_bytes: 0,
                    ..set()
                },
                "max_backlog_bytes",
            ),
            (
                Config {
                    namespace: String::new(),
                    ..set()
                },
                "namespace",
            ),
        ] {
            let text = refusal(config).await;
            assert!(text.starts_with(&format!("broker.{field} ")), "{text}");
        }
    }

    #[tokio::test]
    async fn unusable_certificate_authorities_are_reported() {
        let nowhere = |url| Config {
            ca_file: Some("/nowhere/ca.pem".into()),
            ..at(url)
        };
        let text = refusal(nowhere("amqps://mq.example")).await;
        assert_eq!(text, "broker.ca_file");
        // Such a setting suggests that the connection uses TLS.
        let text = refusal(nowhere("amqp://mq.example")).await;
        assert_eq!(
            text,
            "broker.ca_file has no effect: the URL is not amqps://"
        );
    }

    #[tokio::test]
    async fn a_management_url_that_cannot_be_used_is_refused_without_showing_it() {
        for url in [
            "",
            "secret",
            "amqp://user:secret@host",
            "http://user:secret@host:99999",
            "http://host/?secret",
            "http:///",
        ] {
            let text = refusal(Config {
                management_url: Some(url.to_owned()),
                ..at("amqp://127.0.0.1:1")
            });
            let text = text.await;
            assert!(
                text.starts_with("broker.management_url is malformed"),
                "{url}: {text}"
            );
            assert!(!text.contains("secret"), "{text}");
        }
        let text = refusal(Config {
            management_url: Some("http://host:15672".to_owned()),
            ..Config::default()
        });
        let text = text.await;
        assert!(
            text.starts_with("broker.management_url has no effect"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn rabbitmq_bounds_max_backlog() {
        let text = refusal(Config {
            max_backlog: 10_000_001,
            ..at("amqp://127.0.0.1:1")
        });
        let text = text.await;
        assert!(
            text.starts_with("broker.max_backlog must be at most 10000000"),
            "{text}"
        );
    }

    #[test]
    fn a_password_is_never_shown() {
        for url in [
            "amqps://user:secret@host/vhost",
            "amqp:user:secret@host",
            "https://user:secret@host",
            "secret",
        ] {
            let config = Config {
                management_url: Some(url.to_owned()),
                ..at(url)
            };
            let shown = format!("{config:?}");
            assert!(!shown.contains("secret"), "{shown}");
        }
        assert!(format!("{:?}", Config::default()).contains(DEFAULT_URL));
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let error = serde_json::from_str::<Config>(r#"{"max_backlogs": 5}"#).unwrap_err();
        assert!(error.to_string().contains("max_backlogs"), "{error}");
    }

    #[test]
    fn a_time_limit_is_written_with_its_unit() {
        let config: Config = serde_json::from_str(r#"{"publish_timeout": "700ms"}"#).unwrap();
        let expected = Config {
            publish_timeout: Duration::from_millis(700),
            ..Config::default()
        };
        assert_eq!(config, expected);
    }
}
