//! Whether a `response_url` is the gateway's own.

use url::{Host, Url};

/// Whether answers to this URL come to the gateway whose `/webhook-response` is `own`.
pub fn is_own(own: &Url, url: &Url) -> bool {
    url.scheme() == own.scheme()
        && url.path() == own.path()
        && url.port_or_known_default() == own.port_or_known_default()
        // On one machine `localhost` and 127.0.0.1 mean the same host.
        && (url.host() == own.host() || is_loopback(url) && is_loopback(own))
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
