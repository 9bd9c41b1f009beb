//! Classifies addresses: the IANA registries of special addresses, and the IPv6 addresses that
//! contain an IPv4 address.
//!
//! Invariant: an address for which [`special`] returns `None` is global unicast: it never belongs
//! to this machine, its network or its cloud. A new special range is one line in the table.
//!
//! Sources: IANA IPv4 and IPv6 Special-Purpose Address Registries, IANA IPv6 Address Space (only
//! 2000::/3 is allocated as global unicast), and the documentation of the large clouds.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
};

use ipnet::IpNet;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// `0.0.0.0/8`, `::`: this machine, on most systems.
    Unspecified,
    Loopback,
    /// RFC 1918, and IPv6's unique local and site-local addresses.
    Private,
    /// Between a carrier and its customers (RFC 6598).
    Shared,
    /// This link, including the metadata services of most clouds.
    LinkLocal,
    /// A cloud's own service for its machines, outside the link-local range.
    Metadata,
    Multicast,
    Broadcast,
    Documentation,
    Benchmarking,
    Protocol,
    /// Reserved, or not allocated as global unicast.
    Reserved,
    Embedding(Embedding),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Embedding {
    /// `::a.b.c.d`, long deprecated.
    Compatible,
    /// `64:ff9b::a.b.c.d` (RFC 6052): a translator forwards to that IPv4 address. In
    /// `64:ff9b:1::/48` only the translator's configuration says which bits are the address.
    Nat64,
    /// `::ffff:0:a.b.c.d` (RFC 2765): a translator forwards to that address too.
    Translated,
    /// `2002:aabb:ccdd::/48`.
    SixToFour,
    /// `2001::/32`: a server's address, and a client's with inverted bits.
    Teredo,
    /// An interface identifier of `0:5efe:a.b.c.d` or `200:5efe:a.b.c.d`, under any prefix.
    Isatap,
}

impl fmt::Display for Special {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "the unspecified address",
            Self::Loopback => "a loopback address",
            Self::Private => "a private address",
            Self::Shared => "a shared address of a carrier",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "a cloud's own service",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "the broadcast address",
            Self::Documentation => "an address for documentation",
            Self::Benchmarking => "an address for benchmarking",
            Self::Protocol => "an address reserved for a protocol",
            Self::Reserved => "a reserved address",
            Self::Embedding(Embedding::Compatible) => "an IPv4-compatible IPv6 address",
            Self::Embedding(Embedding::Nat64) => "a NAT64 address",
            Self::Embedding(Embedding::Translated) => "an IPv4-translated IPv6 address",
            Self::Embedding(Embedding::SixToFour) => "a 6to4 address",
            Self::Embedding(Embedding::Teredo) => "a Teredo address",
            Self::Embedding(Embedding::Isatap) => "an ISATAP address",
        })
    }
}

impl Special {
    /// Whether a name in `allow` may resolve to this address. Services that only the machine and
    /// its cloud may reach need an entry for the address itself. Otherwise an allowed name whose
    /// DNS was taken over could fetch credentials.
    pub(crate) const fn yields_to_a_name(self) -> bool {
        !matches!(self, Self::LinkLocal | Self::Metadata)
    }
}

/// The special ranges. The first match counts.
const TABLE: [(&str, Special); 42] = [
    // Alibaba Cloud.
    ("100.100.100.200/32", Special::Metadata),
    // Oracle Cloud's alternative.
    ("192.0.0.192/32", Special::Metadata),
    // Azure's wire server: a public address that is in no registry.
    ("168.63.129.16/32", Special::Metadata),
    ("0.0.0.0/8", Special::Unspecified),
    ("10.0.0.0/8", Special::Private),
    ("100.64.0.0/10", Special::Shared),
    ("127.0.0.0/8", Special::Loopback),
    // 169.254.169.254 (AWS, Azure, Google Cloud, …), 169.254.170.2 (credentials of AWS's
    // containers) and other cloud services.
    ("169.254.0.0/16", Special::LinkLocal),
    ("172.16.0.0/12", Special::Private),
    ("192.0.0.0/24", Special::Protocol),
    ("192.0.2.0/24", Special::Documentation),
    // AS112: sinks for misdirected DNS queries.
    ("192.31.196.0/24", Special::Protocol),
    // Automatic multicast tunnelling.
    ("192.52.193.0/24", Special::Protocol),
    // The former anycast of 6to4 relays.
    ("192.88.99.0/24", Special::Protocol),
    ("192.168.0.0/16", Special::Private),
    // AS112 again.
    ("192.175.48.0/24", Special::Protocol),
    ("198.18.0.0/15", Special::Benchmarking),
    ("198.51.100.0/24", Special::Documentation),
    ("203.0.113.0/24", Special::Documentation),
    // MCAST-TEST-NET, before the range that contains it.
    ("233.252.0.0/24", Special::Documentation),
    ("224.0.0.0/4", Special::Multicast),
    ("255.255.255.255/32", Special::Broadcast),
    ("240.0.0.0/4", Special::Reserved),
    ("::/128", Special::Unspecified),
    ("::1/128", Special::Loopback),
    ("::/96", Special::Embedding(Embedding::Compatible)),
    ("::ffff:0:0:0/96", Special::Embedding(Embedding::Translated)),
    ("64:ff9b::/96", Special::Embedding(Embedding::Nat64)),
    ("64:ff9b:1::/48", Special::Embedding(Embedding::Nat64)),
    ("2001::/32", Special::Embedding(Embedding::Teredo)),
    ("2001:2::/48", Special::Benchmarking),
    ("2001:db8::/32", Special::Documentation),
    // The other assignments to IETF protocols: ORCHID, AMT, AS112, anycasts, drone ids.
    ("2001::/23", Special::Protocol),
    ("2002::/16", Special::Embedding(Embedding::SixToFour)),
    ("2620:4f:8000::/48", Special::Protocol),
    ("3fff::/20", Special::Documentation),
    // AWS (fd00:ec2::254 and its neighbours) and Google Cloud, before the range that contains them.
    ("fd00:ec2::/32", Special::Metadata),
    ("fd20:ce::254/128", Special::Metadata),
    ("fe80::/10", Special::LinkLocal),
    ("ff00::/8", Special::Multicast),
    // Unique local addresses, and the site-local ones that they replaced.
    ("fc00::/7", Special::Private),
    ("fec0::/10", Special::Private),
];

static SPECIAL: LazyLock<[(IpNet, Special); TABLE.len()]> = LazyLock::new(|| {
    TABLE.map(|(net, special)| (net.parse().expect("the table has valid ranges"), special))
});

/// The range that global unicast is allocated from; the table lists its special parts.
const fn is_in_global_unicast(address: Ipv6Addr) -> bool {
    address.segments()[0] >> 13 == 0b001
}

/// `64:ff9b:1::/48`, for local translators (RFC 8215): their prefixes have 48, 56, 64 or 96 bits.
fn is_of_own_translator(address: Ipv6Addr) -> bool {
    address.segments()[..3] == [0x64, 0xff9b, 1]
}

/// Why an address is special, if it is. An IPv4-mapped IPv6 address counts as its IPv4 address,
/// because the system connects there.
pub fn special(address: IpAddr) -> Option<Special> {
    let address = address.to_canonical();
    let found = SPECIAL.iter().find(|(net, _)| net.contains(&address));
    if let Some((_, special)) = found {
        return Some(*special);
    }
    match address {
        IpAddr::V6(address) if !is_in_global_unicast(address) => Some(Special::Reserved),
        IpAddr::V6(address) if is_isatap(address) => Some(Special::Embedding(Embedding::Isatap)),
        _ => None,
    }
}

/// The IPv4 addresses inside an IPv6 address: where a translator, a relay or the system itself
/// would forward to. If that is ambiguous, all candidates are returned, the last 32 bits first.
pub fn embedded(address: IpAddr) -> impl Iterator<Item = Ipv4Addr> {
    let found = match address {
        IpAddr::V4(_) => [None; MOST_EMBEDDED],
        IpAddr::V6(address) => embedded_v6(address),
    };
    found.into_iter().flatten()
}

/// Whether the address is in a range whose translator prefix may have any length. Only the operator
/// knows that length.
pub fn is_ambiguous(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if is_of_own_translator(address))
}

/// A prefix of 96 bits leaves the last 32 for the IPv4 address.
pub const LAST_32_BITS: u8 = 96;

const MOST_EMBEDDED: usize = 4;

fn embedded_v6(address: Ipv6Addr) -> [Option<Ipv4Addr>; MOST_EMBEDDED] {
    let of = address.segments();
    let last = join(of[6], of[7]);
    if address.to_ipv4_mapped().is_some() {
        return [Some(last), None, None, None];
    }
    if is_of_own_translator(address) {
        // RFC 6052, section 2.2: bits 64 to 71 are skipped, and the bits after the IPv4 address are
        // ignored.
        let octets = address.octets();
        let at = |places: [usize; 4]| Ipv4Addr::from(places.map(|place| octets[place]));
        let of_48 = at([6, 7, 9, 10]);
        let of_56 = at([7, 9, 10, 11]);
        let of_64 = at([9, 10, 11, 12]);
        return [Some(last), Some(of_64), Some(of_56), Some(of_48)];
    }
    // Under any prefix, including one that contains an address itself. Private and link-local
    // addresses are refused earlier.
    let isatap = is_isatap(address).then_some(last);
    match special(address.into()) {
        Some(Special::Embedding(Embedding::SixToFour)) => {
            [Some(join(of[1], of[2])), isatap, None, None]
        }
        // The client's address is written with inverted bits.
        Some(Special::Embedding(Embedding::Teredo)) => {
            let client = join(!of[6], !of[7]);
            [Some(join(of[2], of[3])), Some(client), isatap, None]
        }
        Some(Special::Embedding(_)) => [Some(last), None, None, None],
        _ => [isatap, None, None, None],
    }
}

/// The interface identifier of ISATAP; the second bit of the first byte means "unique".
const fn is_isatap(address: Ipv6Addr) -> bool {
    let [_, _, _, _, e, f, _, _] = address.segments();
    f == 0x5efe && (e == 0 || e == 0x200)
}

const fn join(high: u16, low: u16) -> Ipv4Addr {
    let [a, b] = high.to_be_bytes();
    let [c, d] = low.to_be_bytes();
    Ipv4Addr::new(a, b, c, d)
}

#[cfg(test)]
mod tests;
