//! The ingress's section of the configuration.

use std::{
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use roundtrip_model::Check;
use serde::{Deserialize, Serialize};

/// The longest body of a batch. Each of its messages also has the single call's limits.
pub(crate) const MAX_BATCH_BYTES: usize = 16 << 20;
pub(crate) const MAX_SECRET_OVERLAP: Duration = Duration::from_hours(30 * 24);

/// At least the nesting of the API's own bodies, at most that of MongoDB's documents.
const JSON_DEPTHS: RangeInclusive<usize> = 8..=100;
/// Fewer bytes would refuse the headers that proxies add. Each connection can use this much memory.
const HEADER_BYTES: RangeInclusive<usize> = (4 << 10)..=(256 << 10);
/// No client waits longer than an hour.
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_hours(1);
/// Most proxies end longer requests.
const WAITS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_mins(10);
/// Each of the remembered answers takes memory.
const MAX_ANSWERS_PER_DELIVERY: u16 = 10_000;
const MAX_CONNECTIONS: usize = 1_000_000;
/// Escaping can double its length, and a message of the journal must fit the broker's limit.
const MAX_KEPT_ANSWER_BYTES: usize = 512 << 10;

roundtrip_model::section! {
    #[derive(Debug, Eq)]
    pub struct Config {
        listen: SocketAddr = (Ipv4Addr::LOCALHOST, 8000).into();
        /// The certificate, if the API is served over https.
        #[serde(skip_serializing_if = "Option::is_none")]
        tls: Option<Tls> = None;
        max_body_bytes: usize = 1 << 20, in 1..;
        /// The most bytes of the bodies of all requests in progress; beyond it 503.
        max_bytes_in_flight: usize = 128 << 20;
        /// How deep a body's JSON may nest, `message` and `response_data` included.
        max_json_depth: usize = 64, in JSON_DEPTHS;
        /// The most requests in progress; beyond it 503.
        max_requests_in_flight: usize = 4096, in 1..;
        /// The most connections; a further one gets 503 and is closed.
        max_connections: usize = 4096, in 1..=MAX_CONNECTIONS;
        max_header_bytes: usize = 16 << 10, in HEADER_BYTES;
        /// How long a request's headers may take to arrive, and a TLS handshake.
        #[serde(with = "humantime_serde")]
        header_timeout: Duration = Duration::from_secs(10), in TIMEOUTS;
        /// How long a request's body may take to arrive.
        #[serde(with = "humantime_serde")]
        body_timeout: Duration = Duration::from_secs(10), in TIMEOUTS;
        /// How long an idle connection is kept. Load balancers keep one for 60 s: with a longer time
        /// they close it first.
        #[serde(with = "humantime_serde")]
        idle_timeout: Duration = Duration::from_secs(75), in TIMEOUTS;
        /// How long a channel's old secret also signs, if a rotation does not say.
        #[serde(with = "humantime_serde")]
        secret_overlap: Duration = Duration::from_hours(24), in ..=MAX_SECRET_OVERLAP;
        /// The most requests a second, on each ingress, with a key that has no rate of its own.
        /// `None` is no limit.
        #[serde(skip_serializing_if = "Option::is_none")]
        rate_per_key: Option<u32> = None;
        /// The most different answers to one delivery; beyond it 409.
        max_answers_per_delivery: u16 = 100, in 1..=MAX_ANSWERS_PER_DELIVERY;
        /// The most answers and inbound messages a second of one channel, on each ingress; beyond it
        /// 429.
        answer_rate_per_channel: u32 = 1_000, in 1..;
        /// The longest time that a request waits for an answer. A request that prefers to wait longer
        /// waits this long.
        #[serde(with = "humantime_serde")]
        max_wait: Duration = Duration::from_mins(1), in WAITS;
        /// The most requests that wait for an answer; a further one gets 503. Each also counts towards
        /// `max_requests_in_flight`. At most half of `max_requests_in_flight` wait, even if this value is
        /// larger, so that channel servers can still post their answers.
        max_waiting_requests: usize = 1024, in 1..;
        /// How long a client follows a session. Then the response ends, and the client continues with a new
        /// request, whose key is checked again.
        #[serde(with = "humantime_serde")]
        max_follow: Duration = Duration::from_mins(15), in TIMEOUTS;
        /// The most clients that follow sessions; a further one gets 503. Each reads the store twice a
        /// second.
        max_followers: usize = 256, in 1..;
        /// How much of the content of an answer or an inbound message the journal keeps.
        max_kept_answer_bytes: usize = 64 << 10, in ..=MAX_KEPT_ANSWER_BYTES;
        /// How long the last read API keys are used while the store is unavailable.
        #[serde(with = "humantime_serde")]
        keys_max_age: Duration = Duration::from_hours(1);
    }
}

impl Config {
    /// How many requests may wait for an answer.
    pub(crate) fn waiting_places(&self) -> usize {
        let most = self.max_requests_in_flight / 2;
        self.max_waiting_requests.min(most)
    }

    pub fn check(&self, check: &mut Check) {
        self.check_bounds(check);
        if let Some(rate) = &self.rate_per_key {
            check.within("rate_per_key", rate, &(1..));
        }
        let (least, most) = (self.max_body_bytes.max(MAX_BATCH_BYTES), u32::MAX as usize);
        let problem = format!("must be {least} (the longest body) to {most}");
        let fits = (least..=most).contains(&self.max_bytes_in_flight);
        check.unless(fits, "max_bytes_in_flight", problem);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallbackAuth {
    Signed,
    /// An answer without a token is accepted and belongs to no message; a bad token is refused.
    Open,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate chain in PEM, the server's certificate first.
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of every setting")]
    fn a_setting_out_of_its_bounds_is_named() {
        let set = Config::default;
        let checked = |config: Config| {
            let mut check = Check::of("ingress");
            config.check(&mut check);
            check.end()
        };
        assert!(checked(set()).is_ok());
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
            (
                Config {
                    max_wait: Duration::from_hours(1),
                    ..set()
                },
                "max_wait",
            ),
            (
                Config {
                    max_waiting_requests: 0,
                    ..set()
                },
                "max_waiting_requests",
            ),
            (
                Config {
                    max_kept_answer_bytes: 1 << 20,
                    ..set()
                },
                "max_kept_answer_bytes",
            ),
        ] {
            let error = checked(config).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("ingress.{setting} must")),
                "{error}"
            );
        }
    }
}
