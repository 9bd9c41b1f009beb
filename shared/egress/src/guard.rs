//! The rules: which URL may be posted to, and which addresses its host's name may resolve to.
//!
//! Invariant: no I/O, and the same result for every spelling of a host. The parsed URL is both what
//! is judged and what is connected to, so no second parser can read it differently. `deny` wins
//! over everything. `allow` wins only over the built-in rules about hosts and addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use roundtrip_model::channel::http_url;
use url::{Host, Url};

use crate::{
    address::{LAST_32_BITS, Special, embedded, is_ambiguous, special},
    pattern::Patterns,
    ports::Ports,
};

const MAX_NAME_BYTES: usize = 253;

/// Domains that mean this machine or its network (RFC 6761, 6762 and 8375, ICANN's `.internal`),
/// with all names below them.
const LOCAL_DOMAINS: [&str; 5] = ["localhost", "local", "internal", "localdomain", "home.arpa"];

/// Names that machines have for themselves, or that resolve to a cloud's own service.
const LOCAL_NAMES: [&str; 6] = [
    "ip6-localhost",
    "ip6-loopback",
    "broadcasthost",
    "metadata",
    "metadata.goog",
    "instance-data",
];

/// Why an endpoint is refused. The text continues the name of a field, and is shown to the
/// channel's owner. It reveals only what the owner has written, and never an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    Url(String),
    #[error("must not contain backslashes or control characters")]
    Spelling,
    #[error("must be an http or https URL")]
    Scheme,
    /// The scheme is http, and the operator requires https.
    #[error("must be an https URL, because egress.https_only is set")]
    Plain,
    #[error("must not contain a user name or a password")]
    UserInfo,
    #[error("must not use port {0}, which egress.ports or egress.refused_ports excludes")]
    Port(u16),
    #[error("must name a host as DNS knows it")]
    NoName,
    /// Its host's name means the gateway's own machine or network.
    #[error(
        "must not name a host of the gateway's own network, unless the operator lists it in egress.allow"
    )]
    LocalName,
    /// Its host is, or resolves to, a special address.
    #[error("must not lead to {0}, unless the operator lists it in egress.allow")]
    Address(Special),
    #[error("must not lead to a host that egress.deny lists")]
    Denied,
}

/// Whether this machine may be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loopback {
    /// On every port: the development default, whose channels run on the same machine.
    Allowed,
    /// Only if the configuration allows it.
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    Allowed,
    /// Any third party may have registered it.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    allow: Patterns,
    deny: Patterns,
    ports: Ports,
    loopback: Loopback,
    https_only: bool,
}

impl Guard {
    pub(crate) fn new(
        mut allow: Patterns,
        deny: Patterns,
        ports: Ports,
        loopback: Loopback,
    ) -> Self {
        if loopback == Loopback::Allowed {
            allow.add_net(IpNet::V4(Ipv4Net::new_assert(
                Ipv4Addr::new(127, 0, 0, 0),
                8,
            )));
            allow.add_net(IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)));
        }
        Self {
            allow,
            deny,
            ports,
            loopback,
            https_only: false,
        }
    }

    pub(crate) fn https_only(mut self, https_only: bool) -> Self {
        self.https_only = https_only;
        self
    }

    /// Parses and vets an endpoint's URL, as far as possible without DNS.
    pub fn vet_url(&self, text: &str) -> Result<Url, Refusal> {
        // URL parsers read a backslash as a slash and drop line ends. A program with other rules
        // sees another host in the same text.
        if text.contains(|character: char| character == '\\' || character.is_control()) {
            return Err(Refusal::Spelling);
        }
        let url = http_url(text).map_err(Refusal::Url)?;
        self.vet(&url)?;
        Ok(url)
    }

    /// Vets a URL, as far as possible without DNS: its scheme, its host's name or address, its
    /// port. For a host that is an address, this check is complete.
    pub fn vet(&self, url: &Url) -> Result<(), Refusal> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refusal::Scheme);
        }
        if self.https_only && url.scheme() != "https" {
            return Err(Refusal::Plain);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refusal::UserInfo);
        }
        let any_port = match url.host() {
            Some(Host::Ipv4(address)) => self.literal(address.into())?,
            Some(Host::Ipv6(address)) => self.literal(address.into())?,
            Some(Host::Domain(name)) => {
                let name = normal(name);
                self.name(&name)?;
                self.loopback == Loopback::Allowed && is_localhost(&name)
            }
            None => return Err(Refusal::NoName),
        };
        match url.port_or_known_default() {
            Some(port) if any_port || self.ports.allow(port) => Ok(()),
            port => Err(Refusal::Port(port.unwrap_or_default())),
        }
    }

    /// Vets all addresses that a name resolves to. One refused address refuses the whole answer: a
    /// mixed answer is a way to reach the refused one sooner or later.
    ///
    /// # Errors
    /// The first rule that the name or one of the addresses breaks.
    pub(crate) fn vet_answer(
        &self,
        name: &str,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<(), Refusal> {
        let named = self.name(&normal(name))?;
        for address in addresses {
            self.address(address, named)?;
        }
        Ok(())
    }

    fn literal(&self, address: IpAddr) -> Result<bool, Refusal> {
        self.address(address, Named::Unknown)?;
        let is_loopback = special(address) == Some(Special::Loopback);
        Ok(self.loopback == Loopback::Allowed && is_loopback)
    }

    fn address(&self, address: IpAddr, named: Named) -> Result<(), Refusal> {
        // Each by itself: an allowed IPv6 range does not allow a private IPv4 address inside it.
        let all = || {
            let hidden = embedded(address).map(IpAddr::V4);
            std::iter::once(address.to_canonical()).chain(hidden)
        };
        if all().any(|address| self.deny.has_address(address)) {
            return Err(Refusal::Denied);
        }
        // If `allow` lists a translator's prefix of 96 bits itself, the bits before the last 32 are
        // the operator's own. Readings by other prefix lengths are then vetted as addresses of an
        // allowed name. The IPv6 address itself and its last 32 bits are still vetted in full.
        let by_prefix =
            is_ambiguous(address) && self.allow.has_address_within(LAST_32_BITS, address);
        for (place, address) in all().enumerate() {
            let by_operator = by_prefix && place > 1;
            match special(address) {
                None => {}
                Some(_) if self.allow.has_address(address) => {}
                Some(special)
                    if special.yields_to_a_name() && (by_operator || named == Named::Allowed) => {}
                Some(special) => return Err(Refusal::Address(special)),
            }
        }
        Ok(())
    }

    fn name(&self, name: &str) -> Result<Named, Refusal> {
        if self.deny.has_name(name) {
            return Err(Refusal::Denied);
        }
        if self.allow.has_name(name) {
            return Ok(Named::Allowed);
        }
        if self.loopback == Loopback::Allowed && is_localhost(name) {
            return Ok(Named::Unknown);
        }
        // The system's resolver accepts numbers in forms that a URL parser does not. The parser
        // normally converts all of them; this check refuses any that remain.
        if !is_dns_name(name) || ends_in_a_number(name) {
            return Err(Refusal::NoName);
        }
        let is_local = LOCAL_DOMAINS.iter().any(|domain| is_below(name, domain));
        if is_local || LOCAL_NAMES.contains(&name) {
            return Err(Refusal::LocalName);
        }
        Ok(Named::Unknown)
    }
}

/// Lower case, without the final dot: `LOCALHOST.` is `localhost`.
fn normal(name: &str) -> String {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.to_ascii_lowercase()
}

fn is_localhost(name: &str) -> bool {
    is_below(name, "localhost")
}

fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn is_dns_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(plain);
    name.len() <= MAX_NAME_BYTES && name.split('.').all(label)
}

fn ends_in_a_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    let digits = |text: &str, radix| text.chars().all(|character| character.is_digit(radix));
    digits(last, 10) || last.strip_prefix("0x").is_some_and(|rest| digits(rest, 16))
}

#[cfg(test)]
mod tests;
