//! The ingress's section of the configuration.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

/// The longest request body, where nothing is configured: 1 MiB.
const DEFAULT_MAX_BODY_BYTES: usize = 1 << 20;
/// How long a request's body may take to arrive, where nothing is configured.
const DEFAULT_BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The most requests under way at once, where nothing is configured.
const DEFAULT_MAX_REQUESTS_IN_FLIGHT: usize = 4096;
/// How long API keys outlive an outage of the store, where nothing is configured.
const DEFAULT_KEYS_MAX_AGE: Duration = Duration::from_hours(1);
/// Where the API listens, where nothing is configured.
const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8000);

/// Where the API listens, and what it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The address of the API.
    pub listen: SocketAddr,
    /// The longest request body, in bytes.
    pub max_body_bytes: usize,
    /// How long a request's body may take to arrive.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    /// The most requests under way at once; one more is answered 503.
    pub max_requests_in_flight: usize,
    /// The most requests a second with one key that names no rate of its own, to each ingress;
    /// none is without a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_per_key: Option<u32>,
    /// How long API keys are used as they were last read while the store is away.
    #[serde(with = "humantime_serde")]
    pub keys_max_age: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: DEFAULT_LISTEN,
            max_body_bytes: DEFAULT_MAX_BODY_BYTES,
            body_timeout: DEFAULT_BODY_TIMEOUT,
            max_requests_in_flight: DEFAULT_MAX_REQUESTS_IN_FLIGHT,
            rate_per_key: None,
            keys_max_age: DEFAULT_KEYS_MAX_AGE,
        }
    }
}
