//! `roundtrip healthcheck`: asks a process whether it is ready, as `curl` on `/readyz` does, in images
//! without a shell.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use roundtrip_tls::Roots;

use crate::{
    api::{Api, Call},
    arguments::HealthcheckArguments,
    connection::{Connection, base},
    failure::Failure,
    screen::document,
};

pub(crate) async fn ask(url: Option<&str>, listens: SocketAddr) -> Result<(), Failure> {
    let url = match url {
        Some(url) => base(url)?,
        None => base(&format!("http://{}", reached(listens)))?,
    };
    let readyz = ["readyz"];
    let path: &[&str] = if url.path() == "/" { &readyz } else { &[] };
    let api = Api::open(&Connection {
        url,
        key: None,
        roots: Roots::default(),
    })?;
    let call = Call::get(path).within(HealthcheckArguments::LIMIT);
    let (status, _, body) = api.exchange(call).await?;
    if status.is_success() {
        return document(&body);
    }
    Err(Failure::Failed(format!("not ready ({status}): {body}")))
}

/// The address at which this machine reaches a listener.
fn reached(listens: SocketAddr) -> SocketAddr {
    let ip = match listens.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listens.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_reached_on_the_loopback() {
        for (listens, expected) in [
            ("0.0.0.0:8001", "127.0.0.1:8001"),
            ("[::]:8001", "[::1]:8001"),
            ("10.0.0.1:8001", "10.0.0.1:8001"),
        ] {
            assert_eq!(reached(listens.parse().unwrap()).to_string(), expected);
        }
    }
}
