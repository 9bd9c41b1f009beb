//! The ingress's section of the configuration.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::batch;

/// Where the API listens, where nothing is configured.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000);
/// [`Config::max_body_bytes`] where nothing is configured: 1 MiB.
const DEFAULT_MAX_BODY_BYTES: usize = 1 << 20;
/// [`Config::max_bytes_in_flight`] where nothing is configured: 128 MiB.
const DEFAULT_MAX_BYTES_IN_FLIGHT: usize = 128 << 20;
/// [`Config::max_json_depth`] where nothing is configured.
const DEFAULT_MAX_JSON_DEPTH: usize = 64;
/// [`Config::max_requests_in_flight`] where nothing is configured.
const DEFAULT_MAX_REQUESTS_IN_FLIGHT: usize = 4096;
/// [`Config::max_connections`] where nothing is configured.
const DEFAULT_MAX_CONNECTIONS: usize = 4096;
/// [`Config::max_header_bytes`] where nothing is configured: 16 KiB.
const DEFAULT_MAX_HEADER_BYTES: usize = 16 << 10;
/// [`Config::header_timeout`] where nothing is configured.
const DEFAULT_HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// [`Config::body_timeout`] where nothing is configured.
const DEFAULT_BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// [`Config::idle_timeout`] where nothing is configured: longer than the 60 s for which load
/// balancers keep a connection, so that it is they who close it.
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// [`Config::max_answers_per_delivery`] where nothing is configured.
const DEFAULT_MAX_ANSWERS_PER_DELIVERY: u16 = 100;
/// [`Config::answer_rate_per_channel`] where nothing is configured.
const DEFAULT_ANSWER_RATE_PER_CHANNEL: u32 = 1_000;
/// How long API keys outlive an outage of the store, where nothing is configured.
const DEFAULT_KEYS_MAX_AGE: Duration = Duration::from_hours(1);

/// The least depth at which every call of the API can be made.
const MIN_JSON_DEPTH: usize = 8;
/// The greatest depth that can be asked for: MongoDB's documents end there.
const MAX_JSON_DEPTH: usize = 100;
/// The least and the most bytes of headers that can be asked for. Less would refuse what proxies
/// add; more is read into every connection's memory.
const HEADER_BYTES: std::ops::RangeInclusive<usize> = (4 << 10)..=(256 << 10);
/// The longest of the time limits: nobody waits for more than an hour.
const MAX_TIMEOUT: Duration = Duration::from_hours(1);
/// The most answers to one delivery that can be asked for: each is remembered.
const MAX_ANSWERS_PER_DELIVERY: u16 = 10_000;
/// The most connections that can be asked for.
const MAX_CONNECTIONS: usize = 1_000_000;

/// How long a rotated secret signs beside the new one, where nothing is configured.
const DEFAULT_SECRET_OVERLAP: Duration = Duration::from_hours(24);
/// The longest that it can be asked to.
pub(crate) const MAX_SECRET_OVERLAP: Duration = Duration::from_hours(30 * 24);

/// Whether an answer needs a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallbackAuth {
    /// None without a good one is taken.
    Signed,
    /// One without a token is taken too, and belongs to no message; one with a bad one is not.
    Open,
}

/// Where the API listens, and what it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The address of the API.
    pub listen: SocketAddr,
    /// The certificate, where the API is served by https.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// The longest request body, in bytes.
    pub max_body_bytes: usize,
    /// The most bytes of the bodies of all requests under way together; what does not fit is
    /// answered 503.
    pub max_bytes_in_flight: usize,
    /// How deep a body's JSON may nest, `message` and `response_data` included.
    pub max_json_depth: usize,
    /// The most requests under way at once; one more is answered 503.
    pub max_requests_in_flight: usize,
    /// The most connections at once; one more is answered 503 and closed.
    pub max_connections: usize,
    /// The most bytes of one request's headers.
    pub max_header_bytes: usize,
    /// How long a request's headers may take to arrive; also the TLS handshake.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// How long a request's body may take to arrive.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    /// How long a connection is kept on which no request is under way.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// How long a channel's old secret signs beside the new one, where a rotation does not say.
    #[serde(with = "humantime_serde")]
    pub secret_overlap: Duration,
    /// The most requests a second with one key that names no rate of its own, to each ingress;
    /// none is without a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_per_key: Option<u32>,
    /// The most different answers to one delivery; one more is answered 409.
    pub max_answers_per_delivery: u16,
    /// The most answers a second of one channel, to each ingress; beyond it 429.
    pub answer_rate_per_channel: u32,
    /// How long API keys are used as they were last read while the store is away.
    #[serde(with = "humantime_serde")]
    pub keys_max_age: Duration,
}

/// The section `ingress.tls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate and those between it and its authority, in PEM.
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

/// A setting that is out of its bounds.
#[derive(Debug, thiserror::Error)]
#[error("{setting} {problem}")]
pub struct ConfigError {
    setting: &'static str,
    problem: String,
}

impl Config {
    /// Checks every setting against its bounds.
    ///
    /// # Errors
    /// Names the first that is out of them.
    pub fn check(&self) -> Result<(), ConfigError> {
        let fail = |setting, problem| Err(ConfigError { setting, problem });
        for (setting, value) in [
            ("max_body_bytes", self.max_body_bytes),
            ("max_requests_in_flight", self.max_requests_in_flight),
        ] {
            if value == 0 {
                return fail(setting, "must be more than nothing".to_owned());
            }
        }
        if self.secret_overlap > MAX_SECRET_OVERLAP {
            let most = humantime::format_duration(MAX_SECRET_OVERLAP);
            return fail("secret_overlap", format!("must be at most {most}"));
        }
        if self.rate_per_key == Some(0) {
            return fail("rate_per_key", "must be more than nothing".to_owned());
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
                    "must be more than nothing and at most 1h".to_owned(),
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
