use rstest::rstest;

use super::*;

fn of(text: &str) -> Option<Special> {
    special(text.parse().unwrap())
}

/// The first and the last address of each range, and their neighbours outside.
#[rstest]
#[case("0.0.0.0", "0.255.255.255", Special::Unspecified)]
#[case("10.0.0.0", "10.255.255.255", Special::Private)]
#[case("100.64.0.0", "100.127.255.255", Special::Shared)]
#[case("127.0.0.0", "127.255.255.255", Special::Loopback)]
#[case("169.254.0.0", "169.254.255.255", Special::LinkLocal)]
#[case("172.16.0.0", "172.31.255.255", Special::Private)]
#[case("192.0.0.0", "192.0.0.255", Special::Protocol)]
#[case("192.0.2.0", "192.0.2.255", Special::Documentation)]
#[case("192.31.196.0", "192.31.196.255", Special::Protocol)]
#[case("192.52.193.0", "192.52.193.255", Special::Protocol)]
#[case("192.88.99.0", "192.88.99.255", Special::Protocol)]
#[case("192.168.0.0", "192.168.255.255", Special::Private)]
#[case("192.175.48.0", "192.175.48.255", Special::Protocol)]
#[case("198.18.0.0", "198.19.255.255", Special::Benchmarking)]
#[case("198.51.100.0", "198.51.100.255", Special::Documentation)]
#[case("203.0.113.0", "203.0.113.255", Special::Documentation)]
#[case("224.0.0.0", "239.255.255.255", Special::Multicast)]
#[case("240.0.0.0", "255.255.255.254", Special::Reserved)]
fn an_ipv4_range_is_special_from_its_first_to_its_last_address(
    #[case] first: Ipv4Addr,
    #[case] last: Ipv4Addr,
    #[case] expected: Special,
) {
    assert_eq!(special(first.into()), Some(expected));
    assert_eq!(special(last.into()), Some(expected));
    // A neighbour may belong to another special range; it must not belong to this one.
    let before = u32::from(first).checked_sub(1).map(Ipv4Addr::from);
    let after = u32::from(last).checked_add(1).map(Ipv4Addr::from);
    for neighbour in [before, after].into_iter().flatten() {
        assert_ne!(special(neighbour.into()), Some(expected), "{neighbour}");
    }
}

#[rstest]
#[case("1.1.1.1")]
#[case("9.255.255.255")]
#[case("11.0.0.0")]
#[case("100.63.255.255")]
#[case("100.128.0.0")]
#[case("126.255.255.255")]
#[case("128.0.0.0")]
#[case("169.253.255.255")]
#[case("172.15.255.255")]
#[case("172.32.0.0")]
#[case("192.167.255.255")]
#[case("198.17.255.255")]
#[case("198.20.0.0")]
#[case("223.255.255.255")]
#[case("2000::")]
#[case("2001:200::")]
#[case("2003::1")]
#[case("2606:4700:4700::1111")]
#[case("2a00:1450:4001:80e::200e")]
#[case("3ffe:ffff::")]
fn addresses_next_to_the_ranges_are_global(#[case] text: &str) {
    assert_eq!(of(text), None);
}

#[rstest]
#[case("255.255.255.255", Special::Broadcast)]
#[case("100.100.100.200", Special::Metadata)]
#[case("168.63.129.16", Special::Metadata)]
#[case("192.0.0.192", Special::Metadata)]
#[case("233.252.0.9", Special::Documentation)]
#[case("::", Special::Unspecified)]
#[case("::1", Special::Loopback)]
#[case("::2", Special::Embedding(Embedding::Compatible))]
#[case("::127.0.0.1", Special::Embedding(Embedding::Compatible))]
#[case("::ffff:127.0.0.1", Special::Loopback)]
#[case("::ffff:169.254.169.254", Special::LinkLocal)]
#[case("::ffff:0:127.0.0.1", Special::Embedding(Embedding::Translated))]
#[case("::fffe:0:127.0.0.1", Special::Reserved)]
#[case("64:ff9b::8.8.8.8", Special::Embedding(Embedding::Nat64))]
#[case("64:ff9b:1::10.0.0.1", Special::Embedding(Embedding::Nat64))]
#[case("64:ff9b:2::1", Special::Reserved)]
#[case("100::1", Special::Reserved)]
#[case("100:0:0:1::1", Special::Reserved)]
#[case("1fff:ffff::", Special::Reserved)]
#[case("2001::1", Special::Embedding(Embedding::Teredo))]
#[case("2001:1::1", Special::Protocol)]
#[case("2001:2::1", Special::Benchmarking)]
#[case("2001:3::1", Special::Protocol)]
#[case("2001:4:112::1", Special::Protocol)]
#[case("2001:10::1", Special::Protocol)]
#[case("2001:20::1", Special::Protocol)]
#[case("2001:30::1", Special::Protocol)]
#[case("2001:db8::1", Special::Documentation)]
#[case("2002:7f00:1::", Special::Embedding(Embedding::SixToFour))]
#[case("2620:4f:8000::1", Special::Protocol)]
#[case("3fff:fff::1", Special::Documentation)]
#[case("2607:f8b0::5efe:10.0.0.1", Special::Embedding(Embedding::Isatap))]
#[case("2607:f8b0::200:5efe:10.0.0.1", Special::Embedding(Embedding::Isatap))]
#[case("4000::", Special::Reserved)]
#[case("5f00::1", Special::Reserved)]
#[case("fc00::1", Special::Private)]
#[case("fdff::1", Special::Private)]
#[case("fd00:ec2::254", Special::Metadata)]
#[case("fd20:ce::254", Special::Metadata)]
#[case("fe80::1", Special::LinkLocal)]
#[case("febf::1", Special::LinkLocal)]
#[case("fec0::1", Special::Private)]
#[case("feff::1", Special::Private)]
#[case("fe00::1", Special::Reserved)]
#[case("ff02::1", Special::Multicast)]
fn a_special_address_is_classified(#[case] text: &str, #[case] expected: Special) {
    assert_eq!(of(text), Some(expected));
}

#[rstest]
#[case("::ffff:10.1.2.3", &["10.1.2.3"])]
#[case("::10.1.2.3", &["10.1.2.3"])]
#[case("64:ff9b::10.1.2.3", &["10.1.2.3"])]
#[case("::ffff:0:10.1.2.3", &["10.1.2.3"])]
// RFC 6052, section 2.2, with prefixes of 96, 64, 56 and 48 bits and 9.9.9.9 after the address. The
// others are readings by other prefix lengths.
#[case("64:ff9b:1::10.1.2.3", &["10.1.2.3", "0.0.0.10", "0.0.0.0", "0.0.0.0"])]
#[case("64:ff9b:1:0:a:102:309:909", &["3.9.9.9", "10.1.2.3", "0.10.1.2", "0.0.10.1"])]
#[case("64:ff9b:1:a:1:203:909:909", &["9.9.9.9", "1.2.3.9", "10.1.2.3", "0.10.1.2"])]
#[case("64:ff9b:1:a01:2:309:909:909", &["9.9.9.9", "2.3.9.9", "1.2.3.9", "10.1.2.3"])]
#[case("2002:a01:203::1", &["10.1.2.3"])]
// RFC 4380, section 4: the server 65.54.227.120, the client 192.0.2.45.
#[case("2001:0:4136:e378:8000:63bf:3fff:fdd2", &["65.54.227.120", "192.0.2.45"])]
#[case("fd12::5efe:10.1.2.3", &["10.1.2.3"])]
#[case("2002:808:808::5efe:10.1.2.3", &["8.8.8.8", "10.1.2.3"])]
#[case("2606:4700::1", &[])]
#[case("10.1.2.3", &[])]
fn an_embedded_ipv4_address_is_found(#[case] text: &str, #[case] carried: &[&str]) {
    let found: Vec<_> = embedded(text.parse().unwrap())
        .map(|address| address.to_string())
        .collect();
    assert_eq!(found, carried);
}
