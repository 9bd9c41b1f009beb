mod properties;
mod tables;

use super::*;
use crate::Config;

/// The rules of production, with these entries.
fn guard(allow: &[&str], deny: &[&str]) -> Guard {
    configured(allow, deny, Loopback::Refused)
}

fn configured(allow: &[&str], deny: &[&str], loopback: Loopback) -> Guard {
    let owned = |entries: &[&str]| entries.iter().map(|entry| (*entry).to_owned()).collect();
    let config = Config {
        allow: owned(allow),
        deny: owned(deny),
        ..Config::default()
    };
    config.guard(loopback).unwrap()
}

fn answer(guard: &Guard, name: &str, addresses: &[&str]) -> Result<(), Refusal> {
    let addresses = addresses.iter().map(|address| address.parse().unwrap());
    guard.vet_answer(name, addresses)
}

fn refused(guard: &Guard, url: &str) -> Refusal {
    guard.vet_url(url).expect_err(url)
}

#[test]
fn an_allowed_entry_overrides_the_rules_for_hosts_and_addresses() {
    let guard = guard(&["10.1.0.0/16", "*.corp.internal", "printer"], &[]);
    for url in [
        "http://10.1.2.3/",
        "http://[::ffff:10.1.2.3]/",
        "http://hooks.corp.internal/",
        "http://printer/",
    ] {
        assert!(guard.vet_url(url).is_ok(), "{url}");
    }
    refused(&guard, "http://10.2.0.1/");
    refused(&guard, "http://corp.internal/");
    refused(&guard, "http://hooks.corp.internal.localhost/");
}

#[test]
fn an_allowed_name_may_lead_anywhere_except_to_metadata_services() {
    let guard = guard(&["hooks.corp.internal", "169.254.1.1"], &["10.9.0.0/16"]);
    let at = |address| answer(&guard, "hooks.corp.internal", &[address]);
    for good in ["10.0.0.1", "127.0.0.1", "fd12::1", "8.8.8.8", "169.254.1.1"] {
        assert_eq!(at(good), Ok(()), "{good}");
    }
    for bad in [
        "169.254.169.254",
        "fe80::1",
        "fd00:ec2::254",
        "100.100.100.200",
        "::ffff:169.254.169.254",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::169.254.169.254",
        "64:ff9b:1:a9fe:a9:fe00:808:808",
        "64:ff9b:1:a9fe:a9:fe00::",
        "64:ff9b:1:a9:fe:a9fe:808:808",
        "64:ff9b:1:0:a9:fea9:fe08:808",
        "::ffff:0:a9fe:a9fe",
        "::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "2001:0:a9fe:a9fe:8000:63bf:f7f7:f7f7",
        "2001:0:808:808:8000:63bf:5601:5601",
        "2606:4700::5efe:169.254.169.254",
        "2002:808:808::5efe:169.254.169.254",
        "10.9.1.1",
        "64:ff9b:1:a09:1:100:808:808",
    ] {
        assert!(at(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_denied_entry_overrides_every_other_rule() {
    let guard = guard(
        &["example.org", "*.example.org", "203.0.113.0/24"],
        &["evil.example.org", "203.0.113.7", "8.8.8.0/24"],
    );
    assert!(guard.vet_url("https://good.example.org/").is_ok());
    assert!(guard.vet_url("https://203.0.113.8/").is_ok());
    for url in [
        "https://evil.example.org/",
        "https://EVIL.example.org./",
        "https://203.0.113.7/",
        "https://[::ffff:203.0.113.7]/",
        "https://8.8.8.8/",
        "https://[64:ff9b::808:808]/",
    ] {
        assert_eq!(refused(&guard, url), Refusal::Denied, "{url}");
    }
    let denied = answer(&guard, "good.example.org", &["8.8.4.4", "8.8.8.8"]);
    assert_eq!(denied, Err(Refusal::Denied));
}

#[test]
fn an_allowed_ipv6_range_allows_no_private_ipv4_address_inside_it() {
    let guard = guard(&["::/0"], &[]);
    assert!(guard.vet_url("http://[fd12::1]/").is_ok());
    assert!(guard.vet_url("http://[64:ff9b::8.8.8.8]/").is_ok());
    for url in [
        "http://[64:ff9b::10.0.0.1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://[2002:a00:1::1]/",
        "http://[fd12::5efe:10.0.0.1]/",
    ] {
        let Refusal::Address(special) = refused(&guard, url) else {
            panic!("{url}")
        };
        assert_eq!(special, Special::Private, "{url}");
    }
}

/// A range of 48 bits leaves the IPv4 address's position open; one of 96 bits defines it.
#[test]
fn a_translator_of_ones_own_is_allowed_by_its_prefix_of_96_bits() {
    let all = guard(&["64:ff9b:1::/48"], &["10.0.0.0/8"]);
    for (url, refusal) in [
        ("http://[64:ff9b:1:a00:0:500:808:808]/", Refusal::Denied),
        (
            "http://[64:ff9b:1:a9fe:a9:fe00:808:808]/",
            Refusal::Address(Special::LinkLocal),
        ),
        // It may be legitimate, but the guard cannot tell.
        (
            "http://[64:ff9b:1::8.8.8.8]/",
            Refusal::Address(Special::Unspecified),
        ),
    ] {
        assert_eq!(refused(&all, url), refusal, "{url}");
    }
    let prefix = guard(
        &["64:ff9b:1:fffe::/96", "64:ff9b:1:a9fe::/96"],
        &["10.0.0.0/8"],
    );
    assert!(prefix.vet_url("http://[64:ff9b:1:fffe::8.8.8.8]/").is_ok());
    for url in [
        "http://[64:ff9b:1:fffe::10.0.0.5]/",
        "http://[64:ff9b:1:fffe::192.168.0.1]/",
        "http://[64:ff9b:1:fffe::169.254.169.254]/",
        "http://[64:ff9b:1:fffe:0:1:808:808]/",
        // Refused even if the operator allows it: no intended prefix looks like this.
        "http://[64:ff9b:1:a9fe::8.8.8.8]/",
    ] {
        refused(&prefix, url);
    }
}

#[test]
fn the_development_default_may_connect_to_the_machine_itself_at_any_port() {
    let guard = configured(&[], &["127.0.0.9"], Loopback::Allowed);
    for url in [
        "http://localhost:5000/incoming",
        "http://127.0.0.1:6379/",
        "http://[::1]:81/",
        "http://api.localhost/",
        "http://127.1/",
    ] {
        assert!(guard.vet_url(url).is_ok(), "{url}");
    }
    assert_eq!(answer(&guard, "localhost", &["127.0.0.1", "::1"]), Ok(()));
    for url in [
        "http://10.0.0.1/",
        "http://169.254.169.254/",
        "http://0.0.0.0/",
        "http://metadata.google.internal/",
        "http://127.0.0.9/",
        "http://8.8.8.8:6379/",
    ] {
        refused(&guard, url);
    }
    assert!(answer(&guard, "localhost", &["127.0.0.1", "10.0.0.1"]).is_err());
}

#[test]
fn with_https_required_no_port_allows_http() {
    let config = Config {
        https_only: true,
        allow: vec!["10.0.0.1".to_owned()],
        ..Config::default()
    };
    let guard = config.guard(Loopback::Refused).unwrap();
    assert!(guard.vet_url("https://example.org/").is_ok());
    assert_eq!(refused(&guard, "http://example.org:443/"), Refusal::Plain);
    assert_eq!(refused(&guard, "http://10.0.0.1/"), Refusal::Plain);
}

#[test]
fn an_allowed_host_keeps_to_the_ports() {
    let guard = guard(&["10.0.0.0/8", "db.corp.internal"], &[]);
    assert_eq!(
        refused(&guard, "http://10.0.0.1:6379/"),
        Refusal::Port(6379)
    );
    assert_eq!(
        refused(&guard, "http://db.corp.internal:5432/"),
        Refusal::Port(5432)
    );
}

#[test]
fn a_refusal_tells_nothing_that_its_reader_has_not_written() {
    let guard = guard(&[], &[]);
    let refusal = answer(&guard, "hooks.example.org", &["10.20.30.40"]).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "must not lead to a private address, unless the operator lists it in egress.allow"
    );
    let refusal = refused(&guard, "http://user:secret@example.org/");
    assert!(!refusal.to_string().contains("secret"), "{refusal}");
}
