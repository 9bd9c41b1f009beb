//! The ingress's section of the configuration.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::batch;

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000);
/// 1 MiB.
const DEFAULT_MAX_BODY_BYTES: usize = 1 << 20;
/// 128 MiB.
const DEFAULT_MAX_BYTES_IN_FLIGHT: usize = 128 << 20;
const DEFAULT_MAX_JSON_DEPTH: usize = 64;
const DEFAULT_MAX_REQUESTS_IN_FLIGHT: usize = 4096;
const DEFAULT_MAX_CONNECTIONS: usize = 4096;
/// 16 KiB.
const DEFAULT_MAX_HEADER_BYTES: usize = 16 << 10;
const DEFAULT_HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than the 60 s for which load balancers keep a connection, so that they close it first.
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(75);
const DEFAULT_MAX_ANSWERS_PER_DELIVERY: u16 = 100;
const DEFAULT_ANSWER_RATE_PER_CHANNEL: u32 = 1_000;
const DEFAULT_KEYS_MAX_AGE: Duration = Duration::from_hours(1);

/// The least depth that every call of the API fits into.
const MIN_JSON_DEPTH: usize = 8;
/// The limit of MongoDB's documents.
const MAX_JSON_DEPTH: usize = 100;
/// Fewer bytes would refuse what proxies add; more would be memory of every connection.
const HEADER_BYTES: std::ops::RangeInclusive<usize> = (4 << 10)..=(256 << 10);
/// No client waits longer than an hour.
const MAX_TIMEOUT: Duration = Duration::from_hours(1);
/// Each of the remembered answers takes memory.
const MAX_ANSWERS_PER_DELIVERY: u16 = 10_000;
const MAX_CONNECTIONS: usize = 1_000_000;

const DEFAULT_SECRET_OVERLAP: Duration = Duration::from_hours(24);
/// The longest overlap of secrets.
pub(crate) const MAX_SECRET_OVERLAP: Duration = Duration::from_hours(30 * 24);

/// Whether an answer needs a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallbackAuth {
    /// An answer without a valid token is refused.
    Signed,
    /// An answer without a token is accepted and belongs to no message; a bad token is refused.
    Open,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub listen: SocketAddr,
    /// The certificate, if the API is served over https.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// The longest request body, in bytes.
    pub max_body_bytes: usize,
    /// The most bytes of the bodies of all requests in progress; beyond it 503.
    pub max_bytes_in_flight: usize,
    /// How deep a body's JSON may nest, `message` and `response_data` included.
    pub max_json_depth: usize,
    /// The most requests in progress; beyond it 503.
    pub max_requests_in_flight: usize,
    /// The most connections; a further one is answered 503 and closed.
    pub max_connections: usize,
    /// The most bytes of one request's headers.
    pub max_header_bytes: usize,
    /// How long a request's headers may take to arrive, and a TLS handshake.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// How long a request's body may take to arrive.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    /// How long an idle connection is kept.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// How long a channel's old secret also signs, if a rotation does not say.
    #[serde(with = "humantime_serde")]
    pub secret_overlap: Duration,
    /// The most requests a second, on each ingress, with a key that has no rate of its own. `None`
    /// is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_per_key: Option<u32>,
    /// The most different answers to one delivery; beyond it 409.
    pub max_answers_per_delivery: u16,
    /// The most answers a second of one channel, on each ingress; beyond it 429.
    pub answer_rate_per_channel: u32,
    /// How long the last read API keys are used while the store is unavailable.
    #[serde(with = "humantime_serde")]
    pub keys_max_age: Duration,
}

/// The section `ingress.tls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate chain in PEM, the server's certificate first.
    pub cert_file: PathBuf,
    /// The certificate's private key, in PEM.
    pub key_file: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: DEFAULT_LISTEN,
            tls: None,
            max_body_bytes: DEFAULT_MAX_BODY_BYTES,
            max_bytes_in_flight: DEFAULT_MAX_BYTES_IN_FLIGHT,
            max_json_depth: DEFAULT_MAX_JSON_DEPTH,
            max_requests_in_flight: DEFAULT_MAX_REQUESTS_IN_FLIGHT,
            max_connections: DEFAULT_MAX_CONNECTIONS,
            max_header_bytes: DEFAULT_MAX_HEADER_BYTES,
            header_timeout: DEFAULT_HEADER_TIMEOUT,
            body_timeout: DEFAULT_BODY_TIMEOUT,
            idle_timeout: DEFAULT_IDLE_TIMEOUT,
            secret_overlap: DEFAULT_SECRET_OVERLAP,
            rate_per_key: None,
            max_answers_per_delivery: DEFAULT_MAX_ANSWERS_PER_DELIVERY,
            answer_rate_per_channel: DEFAULT_ANSWER_RATE_PER_CHANNEL,
            keys_max_age: DEFAULT_KEYS_MAX_AGE,
        }
    }
}

/// A setting out of its bounds.
#[derive(Debug, thiserror::Error)]
#[error("{setting} {problem}")]
pub struct ConfigError {
    setting: &'static str,
    problem: String,
}

impl Config {
    /// Checks the settings against their bounds.
    ///
    /// # Errors
    /// Names the first setting that is out of bounds.
    pub fn check(&self) -> Result<(), ConfigError> {
        let fail = |setting, problem| Err(ConfigError { setting, problem });
        for (setting, value) in [
            ("max_body_bytes", self.max_body_bytes),
            ("max_requests_in_flight", self.max_requests_in_flight),
        ] {
            if value == 0 {
                return fail(setting, "must be greater than zero".to_owned());
            }
        }
        if self.secret_overlap > MAX_SECRET_OVERLAP {
            let most = humantime::format_duration(MAX_SECRET_OVERLAP);
            return fail("secret_overlap", format!("must be at most {most}"));
        }
        if self.rate_per_key == Some(0) {
            return fail("rate_per_key", "must be greater than zero".to_owned());
        }
        if !(1..=MAX_ANSWERS_PER_DELIVERY).contains(&self.max_answers_per_delivery) {
            let problem = format!("must be 1 to {MAX_ANSWERS_PER_DELIVERY}");
            return fail("max_answers_per_delivery", problem);
        }
        if self.answer_rate_per_channel == 0 {
            return fail("answer_rate_per_channel", "must be at least 1".to_owned());
        }
        let (least, most) = (self.max_body_bytes.max(batch::MAX_BYTES), u32::MAX as usize);
        if !(least..=most).contains(&self.max_bytes_in_flight) {
            let problem = format!("must be {least} (the longest body) to {most}");
            return fail("max_bytes_in_flight", problem);
        }
        if !(MIN_JSON_DEPTH..=MAX_JSON_DEPTH).contains(&self.max_json_depth) {
            let problem = format!("must be {MIN_JSON_DEPTH} to {MAX_JSON_DEPTH}");
            return fail("max_json_depth", problem);
        }
        if !(1..=MAX_CONNECTIONS).contains(&self.max_connections) {
            return fail("max_connections", format!("must be 1 to {MAX_CONNECTIONS}"));
        }
        if !HEADER_BYTES.contains(&self.max_header_bytes) {
            let (least, most) = (HEADER_BYTES.start(), HEADER_BYTES.end());
            return fail("max_header_bytes", format!("must be {least} to {most}"));
        }
        for (setting, value) in [
            ("header_timeout", self.header_timeout),
            ("body_timeout", self.body_timeout),
            ("idle_timeout", self.idle_timeout),
        ] {
            if value.is_zero() || value > MAX_TIMEOUT {
                return fail(
                    setting,
                    "must be greater than zero and at most 1h".to_owned(),
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_out_of_its_bounds_is_named() {
        let set = Config::default;
        assert!(set().check().is_ok());
        for (config, setting) in [
            (
                Config {
                    max_body_bytes: 0,
                    ..set()
                },
                "max_body_bytes",
            ),
            (
                Config {
                    max_requests_in_flight: 0,
                    ..set()
                },
                "max_requests_in_flight",
            ),
            (
                Config {
                    max_bytes_in_flight: 1 << 20,
                    ..set()
                },
                "max_bytes_in_flight",
            ),
            (
                Config {
                    max_json_depth: 7,
                    ..set()
                },
                "max_json_depth",
            ),
            (
                Config {
                    max_json_depth: 101,
                    ..set()
                },
                "max_json_depth",
            ),
            (
                Config {
                    max_connections: 0,
                    ..set()
                },
                "max_connections",
            ),
            (
                Config {
                    max_header_bytes: 100,
                    ..set()
                },
                "max_header_bytes",
            ),
            (
                Config {
                    header_timeout: Duration::ZERO,
                    ..set()
                },
                "header_timeout",
            ),
            (
                Config {
                    body_timeout: Duration::ZERO,
                    ..set()
                },
                "body_timeout",
            ),
            (
                Config {
                    idle_timeout: Duration::from_hours(2),
                    ..set()
                },
                "idle_timeout",
            ),
            (
                Config {
                    max_answers_per_delivery: 0,
                    ..set()
                },
                "max_answers_per_delivery",
            ),
            (
                Config {
                    answer_rate_per_channel: 0,
                    ..set()
                },
                "answer_rate_per_channel",
            ),
        ] {
            let error = config.check().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{setting} must")), "{error}");
        }
    }
}
