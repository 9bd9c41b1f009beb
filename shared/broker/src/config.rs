//! The broker's configuration: which engine, with which bounds.
//!
//! Invariant: the URL may contain a password, so `Debug` and every error show at most its scheme.

use std::{fmt, path::PathBuf, time::Duration};

use roundtrip_model::config::masked;

roundtrip_model::section! {
    #[derive(Eq)]
    pub struct Config {
        /// `sqlite:` and a path for the embedded engine; `amqp://` or `amqps://` for RabbitMQ.
        url: String = "sqlite:data/broker.db".to_owned();
        /// PEM file of the certificate authorities for `amqps://` and `https://`. It replaces the
        /// system's.
        #[serde(skip_serializing_if = "Option::is_none")]
        ca_file: Option<PathBuf> = None;
        /// Prefix of every name in RabbitMQ, so that several systems can share one broker.
        namespace: String = "roundtrip".to_owned();
        /// RabbitMQ's management API (`http://` or `https://`), used to check policies. A URL without
        /// a user uses the user of `url`.
        #[serde(skip_serializing_if = "Option::is_none")]
        management_url: Option<String> = None;
        /// Number of RabbitMQ queues that the outbound messages are spread over, by channel. It can
        /// be raised at any time. Lower it only when no messages wait.
        outbound_shards: u16 = 1, in 1..=MAX_OUTBOUND_SHARDS;
        /// How long a publish waits for its confirm. The default leaves the ingress time to answer
        /// 503 within two seconds.
        #[serde(with = "humantime_serde")]
        publish_timeout: Duration = Duration::from_millis(1500), in MIN_TIMEOUT..;
        /// Maximum number of messages in a queue; a full queue refuses. In RabbitMQ a policy of
        /// [`policies`](crate::policies) sets it.
        max_backlog: u64 = 10_000_000, in 1..;
        /// Maximum bytes of bodies in a queue; a full queue refuses.
        max_backlog_bytes: u64 = 10 << 30, in 1..;
    }
}

/// Upper bound on the outbound shards: each is a queue and a consumer.
const MAX_OUTBOUND_SHARDS: u16 = 64;
const MIN_TIMEOUT: Duration = Duration::from_millis(1);

impl Config {
    /// The embedded engine's file, or `None` for RabbitMQ. Only one process can open it.
    pub fn embedded_file(&self) -> Option<&str> {
        self.url.strip_prefix(SQLITE)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("url", &masked(&self.url, SQLITE, &AMQP))
            .finish_non_exhaustive()
    }
}

pub(crate) const SQLITE: &str = "sqlite:";
pub(crate) const AMQP: [&str; 2] = ["amqp://", "amqps://"];
