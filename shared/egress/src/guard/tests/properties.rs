//! Properties of every address, beyond the examples in the tables.

use proptest::{prelude::*, sample::select};

use super::*;
use crate::address::{Embedding, special};

/// An IPv4 address from each refused range, with equal probability.
fn refused_v4() -> impl Strategy<Value = Ipv4Addr> {
    let ranges = [
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "168.63.129.16/32",
    ];
    let ranges: Vec<Ipv4Net> = ranges.iter().map(|range| range.parse().unwrap()).collect();
    (select(ranges), any::<u32>()).prop_map(|(range, bits)| {
        let host = bits & u32::from(range.hostmask());
        Ipv4Addr::from(u32::from(range.network()) | host)
    })
}

/// Every way to write an IPv4 address as the host of a URL.
fn spellings(address: Ipv4Addr) -> Vec<String> {
    let [a, b, c, d] = address.octets();
    let number = u32::from(address);
    let (low_24, low_16) = (number & 0x00ff_ffff, number & 0xffff);
    vec![
        format!("{a}.{b}.{c}.{d}"),
        format!("{a}.{b}.{c}.{d}."),
        format!("{a}.{b}.{low_16}"),
        format!("{a}.{low_24}"),
        format!("{number}"),
        format!("0{number:o}"),
        format!("0x{number:x}"),
        format!("0X{number:08X}"),
        format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
        format!("0x{a:x}.0x{b:x}.0x{c:x}.0x{d:x}"),
        format!("0{a:o}.0x{b:x}.{low_16}"),
        format!("0x{a:x}.0{low_24:o}"),
        format!("{a}.{b}.{c}.{d}").replace('.', "%2e"),
        format!("{a}.{b}.{c}.{d}").replace('.', "\u{3002}"),
        format!("{a}.{b}.{c}.{d}")
            .chars()
            .map(|character| match character.to_digit(10) {
                Some(digit) => char::from_u32(0xff10 + digit).unwrap(),
                None => character,
            })
            .collect(),
    ]
}

/// Every IPv6 address that contains an IPv4 address, under some prefix if one is free.
fn embeddings(address: Ipv4Addr, prefix: u64) -> Vec<Ipv6Addr> {
    let number = u128::from(u32::from(address));
    let prefix = u128::from(prefix) << 64;
    let global = 0x2000_u128 << 112 | prefix >> 3;
    let own_translator = 0x0064_ff9b_0001 << 80;
    let free = prefix;
    [
        0xffff << 32 | number,
        number,
        0x0064_ff9b << 96 | number,
        0xffff_0000 << 32 | number,
        own_translator | number,
        // Around bits 64 to 71, for prefixes of 64, 56 and 48 bits; the bits after it are free.
        own_translator | number << 24 | free >> 104,
        own_translator | (number >> 24) << 64 | (number & 0x00ff_ffff) << 32 | free >> 96,
        own_translator | (number >> 16) << 64 | (number & 0xffff) << 40 | free >> 88,
        0x2002 << 112 | number << 80,
        0x2002 << 112 | number << 80 | 1,
        0x2001_0000 << 96 | number << 64 | 0xf7f7_f7f7,
        0x2001_0000 << 96 | 0x4136_e378 << 64 | (number ^ 0xffff_ffff),
        global & !0_u128 << 64 | 0x5efe << 32 | number,
        global & !0_u128 << 64 | 0x0200_5efe << 32 | number,
    ]
    .map(Ipv6Addr::from)
    .to_vec()
}

fn v6_spellings(address: Ipv6Addr) -> Vec<String> {
    let segments = address.segments().map(|segment| format!("{segment:04X}"));
    vec![format!("[{address}]"), format!("[{}]", segments.join(":"))]
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
        any::<u128>().prop_map(|bits| IpAddr::V6(bits.into())),
        // Near the prefixes with a meaning.
        (
            select(vec![
                0_u16, 0x64, 0x100, 0x2001, 0x2002, 0x2620, 0x3fff, 0xfd00, 0xfe80, 0xfec0
            ]),
            any::<u128>()
        )
            .prop_map(|(first, bits)| {
                IpAddr::V6((u128::from(first) << 112 | bits >> 16).into())
            }),
    ]
}

/// Written without the code's tables, so that this finds an error in them.
fn is_global_unicast(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            !(v4.is_unspecified()
                || v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.is_documentation()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 198 && (b == 18 || b == 19))
                || (a == 192 && b == 0 && c == 0))
        }
        IpAddr::V6(v6) => {
            let [a, b, ..] = v6.segments();
            a & 0xe000 == 0x2000
                && a != 0x2002
                && !(a == 0x2001 && (b == 0xdb8 || b < 0x200))
                && !(a == 0x3fff && b < 0x1000)
        }
    }
}

proptest! {
    #[test]
    fn a_refused_ipv4_address_is_refused_in_every_spelling(address in refused_v4()) {
        let guard = guard(&[], &[]);
        for host in spellings(address) {
            let url = format!("http://{host}/");
            let refusal = guard.vet_url(&url);
            prop_assert!(matches!(refusal, Err(Refusal::Address(_))), "{url}: {refusal:?}");
        }
    }

    #[test]
    fn a_refused_ipv4_address_is_refused_in_every_embedding(address in refused_v4(), prefix: u64) {
        let guard = guard(&[], &[]);
        for carrier in embeddings(address, prefix) {
            for host in v6_spellings(carrier) {
                let url = format!("https://{host}:8443/");
                let refusal = guard.vet_url(&url);
                prop_assert!(matches!(refusal, Err(Refusal::Address(_))), "{url}: {refusal:?}");
            }
            let answer = guard.vet_answer("hooks.example.org", [IpAddr::V6(carrier)]);
            prop_assert!(answer.is_err(), "{carrier}");
        }
    }

    /// Even if the operator allows all of IPv6.
    #[test]
    fn an_allowed_ipv6_range_never_allows_an_embedded_ipv4_address(address in refused_v4(), prefix: u64) {
        let guard = guard(&["::/0"], &[]);
        for carrier in embeddings(address, prefix) {
            // The first two of `::/96` are addresses of their own.
            if special(carrier.into()).is_some_and(|special| matches!(
                special, Special::Unspecified | Special::Loopback
            )) && carrier.to_ipv4_mapped().is_none() {
                continue;
            }
            let answer = guard.vet_answer("hooks.example.org", [IpAddr::V6(carrier)]);
            prop_assert!(answer.is_err(), "{carrier}");
        }
    }

    /// Taking over the DNS of an allowed name gives no access to credentials or to a denied
    /// address, however it is embedded.
    #[test]
    fn an_allowed_name_leads_to_no_metadata_in_any_embedding(low: u16, prefix: u64) {
        let guard = guard(&["hooks.example.org"], &["10.0.0.0/8"]);
        let low = u32::from(low);
        let denied = (Ipv4Addr::from(0x0a00_0000 | low), true);
        let metadata = [0xa9fe_a9fe, 0xa9fe_0000 | low, 0x6464_64c8, 0xa83f_8110];
        for (address, is_denied) in metadata.map(|bits| (Ipv4Addr::from(bits), false)).into_iter().chain([denied]) {
            for carrier in embeddings(address, prefix) {
                let refusal = guard.vet_answer("hooks.example.org", [IpAddr::V6(carrier)]);
                prop_assert!(refusal.is_err(), "{carrier}");
                prop_assert!(!is_denied || refusal == Err(Refusal::Denied), "{carrier}");
            }
        }
    }

    #[test]
    fn an_accepted_address_is_global_unicast(address in any_address()) {
        let guard = guard(&[], &[]);
        if guard.vet_answer("hooks.example.org", [address]).is_ok() {
            prop_assert!(is_global_unicast(address), "{address}");
        }
    }

    /// The rules are no stricter than documented: a global address without an embedded one is
    /// accepted.
    #[test]
    fn a_plain_global_ipv4_address_is_accepted(bits: u32) {
        let address = IpAddr::V4(bits.into());
        let is_special = special(address).is_some();
        prop_assume!(is_global_unicast(address) && !is_special);
        let accepted = guard(&[], &[]).vet_answer("hooks.example.org", [address]);
        prop_assert_eq!(accepted, Ok(()));
    }

    #[test]
    fn a_denied_address_is_denied_in_every_spelling_and_embedding(bits: u32, prefix: u64) {
        let address = Ipv4Addr::from(bits);
        let guard = guard(&["0.0.0.0/0", "::/0"], &[&address.to_string()]);
        for host in spellings(address) {
            let refusal = guard.vet_url(&format!("http://{host}/"));
            prop_assert_eq!(refusal, Err(Refusal::Denied), "{}", host);
        }
        for carrier in embeddings(address, prefix) {
            let is_its_own = u128::from(carrier) <= 1;
            let refusal = guard.vet_answer("hooks.example.org", [IpAddr::V6(carrier)]);
            prop_assert!(is_its_own || refusal == Err(Refusal::Denied), "{carrier}");
        }
    }

    #[test]
    fn one_refused_address_refuses_the_whole_answer(
        good in proptest::collection::vec(Just("93.184.215.14"), 0..6), bad in refused_v4(), at: prop::sample::Index,
    ) {
        let mut answer: Vec<IpAddr> = good.iter().map(|good| good.parse().unwrap()).collect();
        answer.insert(at.index(answer.len() + 1), bad.into());
        prop_assert!(guard(&[], &[]).vet_answer("hooks.example.org", answer).is_err());
    }

    #[test]
    fn no_input_causes_a_panic(text: String) {
        let _ = guard(&[], &[]).vet_url(&text);
        let _ = guard(&[], &[]).vet_url(&format!("http://{text}/"));
    }

    /// The vetted URL is the connected one: serializing and parsing it again changes nothing.
    #[test]
    fn an_accepted_url_parses_to_itself(text in "[a-z0-9.:/@%\\[\\]-]{0,40}") {
        if let Ok(url) = guard(&[], &[]).vet_url(&format!("http://{text}")) {
            let again = Url::parse(url.as_str()).unwrap();
            prop_assert_eq!(again.host(), url.host());
            prop_assert_eq!(again.port_or_known_default(), url.port_or_known_default());
            prop_assert!(guard(&[], &[]).vet(&again).is_ok());
        }
    }
}

#[test]
fn every_embedding_is_tried() {
    let carriers = embeddings(Ipv4Addr::new(10, 1, 2, 3), 7);
    for kind in [
        Embedding::Compatible,
        Embedding::Nat64,
        Embedding::Translated,
        Embedding::SixToFour,
        Embedding::Teredo,
        Embedding::Isatap,
    ] {
        let found = carriers
            .iter()
            .any(|carrier| special((*carrier).into()) == Some(Special::Embedding(kind)));
        assert!(found, "{kind:?}");
    }
}
