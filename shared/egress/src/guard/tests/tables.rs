//! What production refuses and accepts without `allow` entries.

use super::*;

/// URLs that an unguarded gateway would post to.
const HOSTILE_URLS: &[&str] = &[
    // This machine, as an address in every spelling.
    "http://127.0.0.1/",
    "https://127.0.0.1/",
    "http://127.0.0.1:8000/",
    "http://127.255.255.254/",
    "http://2130706433/",
    "http://017700000001/",
    "http://0x7f000001/",
    "http://0x7f.0x0.0x0.0x1/",
    "http://0177.0.0.1/",
    "http://0177.0.0.0x1/",
    "http://127.1/",
    "http://127.0.1/",
    "http://0x7f.1/",
    "http://127.0.0.1./",
    "http://127.0.0.1..:80/",
    "http://%31%32%37.0.0.1/",
    "http://１２７.0.0.1/",
    "http://127。0。0。1/",
    "http://①②⑦.⓪.⓪.①/",
    "http://0.0.0.0/",
    "http://0/",
    "http://0x0/",
    "http://[::]/",
    "http://[::1]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[0000::0001]:443/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[64:ff9b:1::127.0.0.1]/",
    "http://[64:ff9b:1:7f00:0:100:808:808]/",
    "http://[::ffff:0:127.0.0.1]/",
    "http://[2002:7f00:1::]/",
    "http://[2001:0:7f00:1::]/",
    "http://[2001::80ff:fffe]/",
    "http://[2606:4700::5efe:127.0.0.1]/",
    "http://[::1%25lo]/",
    "http://[::1%lo]/",
    "http://[fe80::1%25eth0]/",
    // This machine, as a name.
    "http://localhost/",
    "http://LOCALHOST/",
    "http://localhost./",
    "http://api.localhost/",
    "http://localhost.localdomain/",
    "http://ip6-localhost/",
    "http://ⓛocalhost/",
    "http://loc%61lhost/",
    // The network around it.
    "http://10.0.0.1/",
    "http://167772161/",
    "http://012.0.0.1/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://192.168.1.1/",
    "http://0xc0a80101/",
    "http://100.64.0.1/",
    "http://[fc00::1]/",
    "http://[fd12:3456:789a::1]/",
    "http://[fec0::1]/",
    "http://[fe80::1]/",
    "http://[::ffff:10.0.0.1]/",
    "http://[64:ff9b::192.168.1.1]/",
    "http://[2002:c0a8:101::1]/",
    "http://router.local/",
    "http://vault.service.internal/",
    "http://kubernetes.default.svc.cluster.local/",
    "http://nas.home.arpa/",
    // Cloud metadata services.
    "http://169.254.169.254/latest/meta-data/",
    "http://2852039166/latest/meta-data/",
    "http://0xa9fea9fe/",
    "http://0251.0376.0251.0376/",
    "http://169.254.43518/",
    "http://169.16689662/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[64:ff9b:1:a9fe:a9:fe00:808:808]/",
    "http://[64:ff9b:1:a9fe:a9:fe00::]/",
    "http://[64:ff9b:1:a9:fe:a9fe:808:808]/",
    "http://[64:ff9b:1:0:a9:fea9:fe08:808]/",
    "http://[::ffff:0:a9fe:a9fe]/",
    "http://[2002:a9fe:a9fe::]/",
    "http://169.254.170.2/v2/credentials/",
    "http://100.100.100.200/",
    "http://168.63.129.16/",
    "http://192.0.0.192/",
    "http://[fd00:ec2::254]/",
    "http://[fd20:ce::254]/",
    "http://metadata.google.internal/",
    "http://METADATA.google.internal./",
    "http://metadata/",
    "http://metadata.goog/",
    "http://instance-data/",
    // Addresses that belong to no endpoint.
    "http://192.0.2.1/",
    "http://198.51.100.1/",
    "http://203.0.113.1/",
    "http://198.18.0.1/",
    "http://192.88.99.1/",
    "http://224.0.0.1/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://4294967295/",
    "http://[2001:db8::1]/",
    "http://[3fff::1]/",
    "http://[100::1]/",
    "http://[5f00::1]/",
    "http://[4000::1]/",
    "http://[ff02::1]/",
    // URLs that another parser reads differently.
    "http://user@example.org/",
    "http://user:password@example.org/",
    "http://:password@example.org/",
    "http://example.org@127.0.0.1/",
    "http://127.0.0.1@example.org/",
    "http://example.org:80@127.0.0.1/",
    "http://127.0.0.1\\@example.org/",
    "http:\\\\127.0.0.1\\",
    "http://example.org\t.internal/",
    "http://exam\nple.org/",
    "http://example.org\r\nHost: 127.0.0.1/",
    "http:/127.0.0.1/",
    "http:127.0.0.1/",
    "http:///127.0.0.1/",
    "http://127.0.0.1#@example.org/",
    "http://127.0.0.1?@example.org/",
    // Invalid DNS names.
    "http://.example.org/",
    "http://example..org/",
    "http://1.2.3.4.5/",
    "http://256.256.256.256/",
    "http://0x7f.0.0.0.1/",
    "http://example.0x1/",
    "http://example.08/",
    "http://a$b.example/",
    // Unsupported schemes.
    "ftp://example.org/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_INFO",
    "javascript:alert(1)",
    "unix:/var/run/docker.sock",
    "ws://example.org/",
    "//example.org/",
    "/incoming",
    "",
    // Ports without channels.
    "http://example.org:22/",
    "http://example.org:25/",
    "http://example.org:0/",
    "http://example.org:2375/",
    "http://example.org:5672/",
    "http://example.org:6379/",
    "http://example.org:9200/",
    "http://example.org:27017/",
    "https://8.8.8.8:11211/",
];

/// DNS answers for a harmless name: each address alone, and hidden among good ones.
const HOSTILE_ANSWERS: &[&str] = &[
    "127.0.0.1",
    "127.0.0.53",
    "0.0.0.0",
    "10.0.0.1",
    "172.20.0.2",
    "192.168.0.10",
    "100.64.1.1",
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.1",
    "192.0.2.53",
    "198.18.1.1",
    "198.51.100.9",
    "203.0.113.9",
    "224.0.0.251",
    "255.255.255.255",
    "::",
    "::1",
    "::10.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:192.168.0.10",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::1",
    "64:ff9b:1:a9fe:a9:fe00:808:808",
    "64:ff9b:1:0:a:0:508:808",
    "::ffff:0:a9fe:a9fe",
    "2002:808:808::5efe:10.0.0.1",
    "2002:a00:1::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:db8::5",
    "2606:4700::5efe:10.0.0.1",
    "fe80::1",
    "fec0::1",
    "fd00:ec2::254",
    "fdaa::1",
    "ff02::fb",
];

const GOOD_URLS: &[&str] = &[
    "https://example.org/incoming",
    "http://example.org/",
    "https://EXAMPLE.org./incoming",
    "https://hooks.example.org:8443/a/b?c=d#e",
    "https://example.org:443/",
    "http://example.org:80/",
    "http://example.org:1024/",
    "http://example.org:65535/",
    "http://example.org:5001/incoming",
    "https://8.8.8.8/",
    "https://1.1.1.1:8443/incoming",
    "https://172.15.255.255/",
    "https://172.32.0.1/",
    "https://11.0.0.1/",
    "https://223.255.255.254/",
    "https://[2606:4700:4700::1111]/",
    "https://[2a00:1450:4001:80e::200e]:8443/x",
    "https://bücher.example/",
    "https://xn--bcher-kva.example/",
    "https://my_service.example.org/",
    "https://123.example.org/",
    "https://localhost.example.org/",
    "https://local.example/",
    "https://notlocalhost/",
    "https://internal.example.com/",
    "https://metadata.example.com/",
    "https://example.org/?to=http://127.0.0.1/",
    "https://example.org/@127.0.0.1",
];

#[test]
fn hostile_urls_are_refused() {
    assert!(HOSTILE_URLS.len() >= 60);
    let guard = guard(&[], &[]);
    for url in HOSTILE_URLS {
        refused(&guard, url);
    }
}

/// Each row must be refused only for the reason that it stands for.
#[test]
fn a_numeric_host_is_refused_as_its_address() {
    let guard = guard(&[], &[]);
    for (url, special) in [
        ("http://2130706433/", Special::Loopback),
        ("http://017700000001/", Special::Loopback),
        ("http://0x7f.1/", Special::Loopback),
        ("http://①②⑦.⓪.⓪.①/", Special::Loopback),
        ("http://0251.0376.0251.0376/", Special::LinkLocal),
        ("http://0xc0a80101/", Special::Private),
        ("http://[::ffff:a9fe:a9fe]/", Special::LinkLocal),
    ] {
        assert_eq!(refused(&guard, url), Refusal::Address(special), "{url}");
    }
    assert_eq!(refused(&guard, "http://ⓛocalhost/"), Refusal::LocalName);
    assert_eq!(refused(&guard, "http://LOCALHOST./"), Refusal::LocalName);
    let credentials = refused(&guard, "http://127.0.0.1@example.org/");
    assert_eq!(credentials, Refusal::UserInfo);
}

#[test]
fn hostile_answers_are_refused_alone_and_beside_good_ones() {
    let guard = guard(&[], &[]);
    let name = "hooks.example.org";
    for bad in HOSTILE_ANSWERS {
        for mixed in [
            &[*bad][..],
            &[*bad, "93.184.215.14"],
            &["93.184.215.14", "2606:4700::1", *bad],
        ] {
            assert!(answer(&guard, name, mixed).is_err(), "{mixed:?}");
        }
    }
}

#[test]
fn valid_urls_are_accepted() {
    assert!(GOOD_URLS.len() >= 20);
    let guard = guard(&[], &[]);
    for url in GOOD_URLS {
        assert_eq!(guard.vet_url(url).map(drop), Ok(()), "{url}");
    }
}

#[test]
fn valid_answers_are_accepted() {
    let guard = guard(&[], &[]);
    for good in [
        &["93.184.215.14"][..],
        &["2606:4700:4700::1111"],
        &["1.1.1.1", "9.9.9.9", "2606:4700::1"],
        &["::ffff:8.8.8.8"],
    ] {
        assert_eq!(
            answer(&guard, "hooks.example.org", good),
            Ok(()),
            "{good:?}"
        );
    }
}
