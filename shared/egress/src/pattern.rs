//! The entries of `allow` and `deny`: ranges of addresses, and names.

use std::net::IpAddr;

use ipnet::IpNet;
use url::Host;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Patterns {
    nets: Vec<IpNet>,
    names: Vec<Name>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    Exactly(String),
    /// The suffix of a wildcard, with its dot: `.example.org` for `*.example.org`.
    Below(String),
}

impl Patterns {
    /// Parses a list. An empty entry is skipped, because an unset variable produces one.
    ///
    /// # Errors
    /// The first invalid entry, with its problem in one line.
    pub(crate) fn read(entries: &[String]) -> Result<Self, String> {
        let mut patterns = Self::default();
        for (index, entry) in entries.iter().enumerate() {
            let entry = entry.trim();
            if !entry.is_empty() {
                let added = patterns.add(entry);
                // Only the number is shown: a misplaced entry may be a URL with a password.
                added.map_err(|problem| format!("entry {} {problem}", index + 1))?;
            }
        }
        Ok(patterns)
    }

    fn add(&mut self, entry: &str) -> Result<(), String> {
        if let Ok(address) = entry.parse::<IpAddr>() {
            self.nets.push(address.into());
        } else if entry.contains('/') {
            self.nets.push(net(entry)?);
        } else {
            self.names.push(name(entry)?);
        }
        let mapped = self.nets.last().is_some_and(|net| match net {
            IpNet::V6(net) => net.addr().to_ipv4_mapped().is_some(),
            IpNet::V4(_) => false,
        });
        if mapped {
            // An IPv4-mapped address is looked up as IPv4, so this entry would never match.
            return Err("must be written as IPv4".to_owned());
        }
        Ok(())
    }

    pub(crate) fn add_net(&mut self, net: IpNet) {
        self.nets.push(net);
    }

    /// Whether a range contains this address, which must be canonical.
    pub(crate) fn has_address(&self, address: IpAddr) -> bool {
        self.nets.iter().any(|net| net.contains(&address))
    }

    /// Whether a range with a prefix of at least this length contains this address, which must be
    /// canonical.
    pub(crate) fn has_address_within(&self, prefix: u8, address: IpAddr) -> bool {
        let long = |net: &&IpNet| net.prefix_len() >= prefix;
        let mut nets = self.nets.iter().filter(long);
        nets.any(|net| net.contains(&address))
    }

    /// Whether an entry matches this host, which must be in lower case and without a final dot.
    pub(crate) fn has_name(&self, host: &str) -> bool {
        self.names.iter().any(|name| match name {
            Name::Exactly(name) => host == name,
            Name::Below(end) => host.len() > end.len() && host.ends_with(end.as_str()),
        })
    }
}

fn net(entry: &str) -> Result<IpNet, String> {
    let net: IpNet = entry.parse().map_err(|_| FORMS.to_owned())?;
    if net.addr() != net.network() {
        return Err(format!(
            "has bits beyond its prefix; is {} meant?",
            net.trunc()
        ));
    }
    Ok(net)
}

fn name(entry: &str) -> Result<Name, String> {
    let (below, host) = match entry.strip_prefix("*.") {
        Some(host) => (true, host),
        None => (false, entry),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    // Parsed as in a URL, so that both sides of a comparison have the same spelling.
    match Host::parse(host) {
        Ok(Host::Domain(host)) if is_name(&host) => Ok(if below {
            Name::Below(format!(".{host}"))
        } else {
            Name::Exactly(host)
        }),
        _ => Err(FORMS.to_owned()),
    }
}

/// The valid forms of an entry.
const FORMS: &str = "must be an address, a range such as 10.0.0.0/8, a host name such as \
                     hooks.example.org, or *.example.org for its subdomains";

/// DNS limits of a name and of one label, in bytes.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// Whether this is a valid host name. A URL's host may contain more, such as a `;` or an empty
/// label. Such an entry is two entries or a typing error, and would match nothing.
fn is_name(host: &str) -> bool {
    let is_of_label = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    host.len() <= MAX_NAME
        && host
            .split('.')
            .all(|label| (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(is_of_label))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn read(entries: &[&str]) -> Result<Patterns, String> {
        let entries: Vec<_> = entries.iter().map(|entry| (*entry).to_owned()).collect();
        Patterns::read(&entries)
    }

    #[rstest]
    #[case("10.0.0.0/8", "10.255.255.255", true)]
    #[case("10.0.0.0/8", "11.0.0.0", false)]
    #[case("192.0.2.7", "192.0.2.7", true)]
    #[case("192.0.2.7", "192.0.2.8", false)]
    #[case("fd00::/8", "fdff::1", true)]
    #[case("::1", "::1", true)]
    #[case("0.0.0.0/0", "::1", false)]
    fn a_range_contains_its_addresses(
        #[case] entry: &str,
        #[case] address: &str,
        #[case] holds: bool,
    ) {
        let patterns = read(&[entry]).unwrap();
        assert_eq!(patterns.has_address(address.parse().unwrap()), holds);
    }

    #[rstest]
    #[case("hooks.example.org", "hooks.example.org", true)]
    #[case("Hooks.Example.ORG.", "hooks.example.org", true)]
    #[case("hooks.example.org", "a.hooks.example.org", false)]
    #[case("*.example.org", "a.example.org", true)]
    #[case("*.example.org", "a.b.example.org", true)]
    #[case("*.example.org", "example.org", false)]
    #[case("*.example.org", "badexample.org", false)]
    #[case("*.example.org", ".example.org", false)]
    #[case("bücher.example", "xn--bcher-kva.example", true)]
    #[case("db_1", "db_1", true)]
    fn a_name_matches_itself_and_a_star_its_subdomains(
        #[case] entry: &str,
        #[case] host: &str,
        #[case] named: bool,
    ) {
        assert_eq!(read(&[entry]).unwrap().has_name(host), named);
    }

    #[rstest]
    #[case("*")]
    #[case("*.")]
    #[case("a.*.example")]
    #[case("http://example.org")]
    #[case("example.org:80")]
    #[case("10.0.0.0/33")]
    #[case("10.0.0.1/8")]
    #[case("10.0.0/8")]
    #[case("0x7f.1")]
    #[case("2130706433")]
    #[case("[::1]")]
    #[case("::ffff:10.0.0.0/104")]
    #[case("::ffff:10.0.0.1")]
    #[case("fe80::1%eth0")]
    #[case("user@example.org")]
    #[case(".example.org")]
    #[case("..example.org")]
    #[case("*..example.org")]
    #[case("a..example.org")]
    #[case("example.org..")]
    #[case("one.example.org;two.example.org")]
    #[case("one.example.org two.example.org")]
    #[case("example.org!")]
    #[case("a.example.org=b")]
    #[case("example.org|example.net")]
    #[case("*.*.example.org")]
    #[case("amqp://user:secret@example.org")]
    fn an_invalid_entry_is_refused_by_its_number(#[case] entry: &str) {
        let problem = read(&["example.org", entry]).unwrap_err();
        assert!(problem.starts_with("entry 2 "), "{problem}");
        assert!(!problem.contains("secret"), "{problem}");
    }

    #[test]
    fn a_label_has_at_most_63_bytes() {
        assert!(read(&[&format!("{}.example", "a".repeat(MAX_LABEL))]).is_ok());
        assert!(read(&[&format!("{}.example", "a".repeat(MAX_LABEL + 1))]).is_err());
    }

    #[test]
    fn an_empty_entry_is_ignored() {
        assert_eq!(read(&["", " "]).unwrap(), Patterns::default());
    }
}
