//! How values are written in the file and the environment, and how wrong ones are refused.

use std::{collections::BTreeSet, fmt::Write};

use super::*;

/// It must appear in no message.
const SECRET: &str = "HUNTER2";

fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    let pairs = pairs.iter();
    pairs
        .map(|(name, value)| (OsString::from(name), OsString::from(value)))
        .collect()
}

fn read(text: &str, pairs: &[(&str, &str)]) -> Result<Config, WrongSettings> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("roundtrip.toml");
    std::fs::write(&path, text).unwrap();
    read_file(&path, pairs)
}

fn read_file(path: &Path, pairs: &[(&str, &str)]) -> Result<Config, WrongSettings> {
    let mut check = Check::default();
    let config = read_with(Some(path), variables(pairs), &mut check);
    check.end_with(config)
}

fn refusal(text: &str, pairs: &[(&str, &str)]) -> String {
    let lines = read(text, pairs).expect_err(text).to_string();
    // Of two keys that belong together, the missing one is reported too.
    let most = if lines.contains("must be set too") {
        2
    } else {
        1
    };
    assert!(lines.lines().count() <= most, "{lines}");
    assert!(!lines.contains(SECRET), "{lines}");
    lines
}

fn variable(key: &str) -> String {
    format!("ROUNDTRIP__{}", key.replace('.', "__").to_uppercase())
}

/// `a.b.c = value` in a file.
fn in_file(key: &str, value: &str) -> String {
    match key.rsplit_once('.') {
        Some((section, key)) => format!("[{section}]\n{key} = {value}\n"),
        None => format!("{key} = {value}\n"),
    }
}

/// Every key, with values of the environment and the same in the file.
const KEYS: [(&str, &[(&str, &str)]); 96] = [
    ("environment", &[("production", "\"production\"")]),
    ("public_url", &[("http://h/", "\"http://h/\"")]),
    ("sessions_server", &[("http://h/", "\"http://h/\"")]),
    ("callback_secret", SECRETS),
    ("callback_ttl", DURATION),
    ("callback_auth", &[("signed", "\"signed\"")]),
    ("sessions_secret", SECRETS),
    ("encryption_keys", SECRETS),
    ("operator_key", TEXT),
    ("drain", DURATION),
    ("log.level", TEXT),
    ("log.format", &[("json", "\"json\"")]),
    ("broker.url", TEXT),
    ("broker.ca_file", TEXT),
    ("broker.namespace", TEXT),
    ("broker.management_url", TEXT),
    ("broker.outbound_shards", NUMBER),
    ("broker.publish_timeout", DURATION),
    ("broker.max_backlog", NUMBER),
    ("broker.max_backlog_bytes", NUMBER),
    ("store.url", TEXT),
    ("store.ca_file", TEXT),
    ("store.database", TEXT),
    ("store.timeout", DURATION),
    ("store.max_connections", NUMBER),
    ("store.max_counted_waiting", NUMBER),
    ("store.cache_ttl", DURATION),
    ("store.cache_bytes", NUMBER),
    ("store.retention", DURATION),
    ("store.content_retention", DURATION),
    ("egress.allow", NAMES),
    ("egress.deny", NAMES),
    ("egress.https_only", &[("true", "true")]),
    (
        "egress.ports",
        &[
            ("443", "[\"443\"]"),
            ("443,8000-8080", "[\"443\", \"8000-8080\"]"),
            ("", "[]"),
        ],
    ),
    (
        "egress.refused_ports",
        &[
            ("8080", "[8080]"),
            ("8080, 8081", "[8080, 8081]"),
            ("", "[]"),
        ],
    ),
    (
        "egress.nameservers",
        &[
            ("192.0.2.53:53", "[\"192.0.2.53:53\"]"),
            (
                "192.0.2.53:53,[2001:db8::1]:53,",
                "[\"192.0.2.53:53\", \"[2001:db8::1]:53\"]",
            ),
            ("", "[]"),
        ],
    ),
    ("egress.ca_file", TEXT),
    ("operations.listen", LISTEN),
    ("notices.url", TEXT),
    ("notices.secret", SECRETS),
    ("notices.window", DURATION),
    ("ingress.listen", LISTEN),
    ("ingress.tls.cert_file", TEXT),
    ("ingress.tls.key_file", TEXT),
    ("ingress.max_body_bytes", NUMBER),
    ("ingress.max_bytes_in_flight", NUMBER),
    ("ingress.max_json_depth", NUMBER),
    ("ingress.max_requests_in_flight", NUMBER),
    ("ingress.max_connections", NUMBER),
    ("ingress.max_header_bytes", NUMBER),
    ("ingress.header_timeout", DURATION),
    ("ingress.body_timeout", DURATION),
    ("ingress.idle_timeout", DURATION),
    ("ingress.secret_overlap", DURATION),
    ("ingress.rate_per_key", NUMBER),
    ("ingress.max_answers_per_delivery", NUMBER),
    ("ingress.answer_rate_per_channel", NUMBER),
    ("ingress.max_wait", DURATION),
    ("ingress.max_waiting_requests", NUMBER),
    ("ingress.max_follow", DURATION),
    ("ingress.max_followers", NUMBER),
    ("ingress.max_kept_answer_bytes", NUMBER),
    ("ingress.keys_max_age", DURATION),
    ("dispatcher.concurrency", NUMBER),
    ("dispatcher.park", DURATION),
    ("dispatcher.max_in_flight_per_channel", NUMBER),
    ("dispatcher.paused_park", DURATION),
    ("dispatcher.wait_in_store_after", DURATION),
    ("dispatcher.breaker.failures", NUMBER),
    ("dispatcher.breaker.wait", DURATION),
    ("dispatcher.breaker.max_wait", DURATION),
    ("dispatcher.breaker.probes", NUMBER),
    ("dispatcher.webhook.timeout", DURATION),
    ("dispatcher.webhook.connect_timeout", DURATION),
    ("dispatcher.webhook.max_idle_per_host", NUMBER),
    ("dispatcher.webhook.user_agent", TEXT),
    ("dispatcher.retry.schedule", SCHEDULE),
    ("dispatcher.retry.max_age", DURATION),
    ("dispatcher.retry.retry_after_cap", DURATION),
    ("forwarder.concurrency", NUMBER),
    ("forwarder.body", &[("bare", "\"bare\"")]),
    ("forwarder.breaker.failures", NUMBER),
    ("forwarder.breaker.wait", DURATION),
    ("forwarder.breaker.max_wait", DURATION),
    ("forwarder.breaker.probes", NUMBER),
    ("forwarder.webhook.timeout", DURATION),
    ("forwarder.webhook.connect_timeout", DURATION),
    ("forwarder.webhook.max_idle_per_host", NUMBER),
    ("forwarder.webhook.user_agent", TEXT),
    ("forwarder.retry.schedule", SCHEDULE),
    ("forwarder.retry.max_age", DURATION),
    ("forwarder.retry.retry_after_cap", DURATION),
    ("recorder.batches_at_once", NUMBER),
    ("recorder.dead_letters_at_once", NUMBER),
    ("recorder.waiting_messages_at_once", NUMBER),
    ("recorder.high_backlog", NUMBER),
];

/// Text that looks like a number, a flag or a list stays text.
const TEXT: &[(&str, &str)] = &[
    ("a", "\"a\""),
    (
        "12345678901234567890123456789012",
        "\"12345678901234567890123456789012\"",
    ),
    ("007", "\"007\""),
    ("1e3", "\"1e3\""),
    ("true", "\"true\""),
    ("a, b", "\"a, b\""),
    (" a ", "\" a \""),
];
const SECRETS: &[(&str, &str)] = &[
    ("0123", "[\"0123\"]"),
    ("0123, 1e5", "[\"0123\", \"1e5\"]"),
    ("0123,1e5", "\"0123,1e5\""),
];
const NAMES: &[(&str, &str)] = &[
    ("10.0.0.1", "[\"10.0.0.1\"]"),
    ("1.5", "[\"1.5\"]"),
    ("true, 10.0.0.0/8", "[\"true\", \"10.0.0.0/8\"]"),
    ("", "[]"),
];
const DURATION: &[(&str, &str)] = &[("17s", "\"17s\""), ("1h 30m", "\"1h 30m\"")];
const SCHEDULE: &[(&str, &str)] = &[("17s", "[\"17s\"]"), ("17s, 1h", "[\"17s\", \"1h\"]")];
const NUMBER: &[(&str, &str)] = &[("17", "17"), ("0", "0")];
const LISTEN: &[(&str, &str)] = &[("192.0.2.1:9", "\"192.0.2.1:9\"")];

/// A section whose keys have no defaults needs all of them, whichever is tested.
const WHOLE: [&str; 2] = ["ingress.tls.cert_file", "ingress.tls.key_file"];

#[test]
fn every_key_is_the_same_from_the_environment_as_from_the_file() {
    let tested: BTreeSet<String> = KEYS.iter().map(|(key, _)| (*key).to_owned()).collect();
    let known: BTreeSet<String> = known::keys().into_iter().collect();
    assert_eq!(tested, known);
    for (key, texts) in KEYS {
        for (text, written) in texts {
            let (mut file, mut pairs) = (in_file(key, written), vec![(variable(key), *text)]);
            if WHOLE.contains(&key) {
                for other in WHOLE.into_iter().filter(|other| *other != key) {
                    let (_, name) = other.rsplit_once('.').unwrap();
                    writeln!(file, "{name} = \"other\"").unwrap();
                    pairs.push((variable(other), "other"));
                }
            }
            let pairs: Vec<_> = pairs
                .iter()
                .map(|(name, text)| (name.as_str(), *text))
                .collect();
            let from_file = read(&file, &[]).unwrap();
            let from_environment = read("", &pairs).unwrap();
            assert_eq!(from_environment, from_file, "{key}: {text}");
            assert_ne!(
                (from_file, *text),
                (Config::default(), texts[0].0),
                "{key} is not taken"
            );
        }
    }
}

#[test]
fn an_invalid_value_of_any_key_is_named_and_not_shown() {
    for (key, _) in KEYS {
        for wrong in [
            format!("{{ a = \"{SECRET}\" }}"),
            format!("[[\"{SECRET}\"]]"),
            "12.5".to_owned(),
            "1979-05-27".to_owned(),
        ] {
            let line = refusal(&in_file(key, &wrong), &[]);
            assert!(line.contains(&format!(": {key} ")), "{line}");
            assert!(line.contains("roundtrip.toml, line "), "{line}");
            assert!(line.contains(" must be "), "{line}");
        }
    }
    let texts = |key: &str| {
        let config = read("", &[(&variable(key), SECRET)]);
        config.is_ok() || WHOLE.contains(&key)
    };
    for (key, _) in KEYS.into_iter().filter(|(key, _)| !texts(key)) {
        let wrong = format!("amqp://user:{SECRET}@host/");
        let line = refusal("", &[(&variable(key), &wrong)]);
        assert!(
            line.contains(&format!("{}: {key} ", variable(key))),
            "{line}"
        );
        assert!(line.contains(" must be "), "{line}");
        refusal(&in_file(key, &format!("\"{wrong}\"")), &[]);
    }
}

#[test]
fn an_error_states_what_is_valid() {
    for (key, wrong, words) in [
        (
            "environment",
            "\"produktion\"",
            "must be \"development\" or \"production\"",
        ),
        ("log.format", "1", "must be \"text\" or \"json\""),
        (
            "callback_auth",
            "\"none\"",
            "must be \"signed\" or \"open\"",
        ),
        (
            "callback_secret",
            "5",
            "must be a string in quotes, or a list of strings",
        ),
        (
            "operator_key",
            "12345678901234567890123456789012",
            "must be a string in quotes",
        ),
        (
            "encryption_keys",
            "[\"a\", 5]",
            "(entry 2) must be a string in quotes",
        ),
        ("drain", "5", "must be a duration such as \"250ms\""),
        (
            "dispatcher.retry.schedule",
            "[\"1s\", \"x\"]",
            "(entry 2) must be a duration",
        ),
        (
            "ingress.listen",
            "\"localhost\"",
            "must be an address and a port such as \"127.0.0.1:8000\"",
        ),
        ("egress.https_only", "\"maybe\"", "must be true or false"),
        (
            "egress.refused_ports",
            "[80, 99999]",
            "(entry 2) must be a whole number from 0 to 65535",
        ),
        ("egress.allow", "\"a\"", "must be a list"),
        (
            "ingress.max_connections",
            "-1",
            "must be a whole number, 0 or greater",
        ),
        ("ingress", "5", "must be a section"),
        (
            "ingress.tls",
            "{ cert_file = \"a\" }",
            "ingress.tls.key_file must be set too",
        ),
    ] {
        let line = refusal(&in_file(key, wrong), &[]);
        assert!(line.contains(key) && line.contains(words), "{line}");
    }
}

#[test]
fn a_syntax_error_is_reported_by_its_place_only() {
    for (text, place) in [
        (
            "\noperator_key = \"HUNTER2-very-secret\nlog = 1\n",
            "line 2, column ",
        ),
        ("[broker]\nurl = amqp://u:HUNTER2@h/\n", "line 2, column "),
        (
            "operator_key = \"HUNTER2\"\noperator_key = \"HUNTER2b\"\n",
            "line 2, column 1",
        ),
        ("operator_key = \"HUNTER2\" x\n", "line 1, column "),
        ("operator_key = \"a\" HUNTER2\n", "line 1, column "),
        (
            "encryption_keys = [\n \"HUNTER2\"\n \"HUNTER2\"]\n",
            "line ",
        ),
        ("callback_secret = \"HUNTER2\\q\"\n", "line 1, column "),
        ("callback_secret = \"\\uHUNTER2\"\n", "line 1, column "),
        ("callback_secret = \"HUNTER2\0\"\n", "line 1, column "),
        ("callback_secret = HUNTER2\n", "line 1, column "),
        ("HUNTER2\n", "line 1, column "),
        ("HUNTER2 = = 1\n", "line 1, column "),
        ("[HUNTER2\n", "line 1, column "),
        (
            "operator_key = \"a\"\n[operator_key.HUNTER2]\n",
            "line 2, column ",
        ),
        ("operator_key = 1__HUNTER2\n", "line 1, column "),
        ("operator_key = 1979-HUNTER2\n", "line 1, column "),
        ("\"whsec_HUNTER2\" = 1\n", "line 1, column 1"),
        ("[broker]\nHUNTER2 = 1\n", "line 2, column 1"),
    ] {
        let line = refusal(text, &[]);
        assert!(
            line.contains("roundtrip.toml, ") && line.contains(place),
            "{line}"
        );
        for part in ["whsec", "amqp", "very"] {
            assert!(!line.contains(part), "{line}");
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.toml");
    let error = read_file(&path, &[]).unwrap_err().to_string();
    assert!(error.contains("other.toml cannot be read"), "{error}");
    std::fs::write(&path, b"drain = \"1s\"\nlog = \"\xff\"").unwrap();
    let error = read_file(&path, &[]).unwrap_err().to_string();
    assert!(
        error.contains("line 2, column 8: the file is not UTF-8"),
        "{error}"
    );
}

#[test]
fn an_unknown_key_is_refused_by_name() {
    let line = refusal("[ingress]\nmax_conections = 5\n", &[]);
    assert!(
        line.contains("line 2, column 1: ingress.max_conections is an unknown key"),
        "{line}"
    );
    let line = refusal("", &[("ROUNDTRIP__INGRESS__FOO", SECRET)]);
    assert!(
        line.contains("ROUNDTRIP__INGRESS__FOO: ingress.foo is an unknown key"),
        "{line}"
    );
    refusal("", &[("ROUNDTRIP__", SECRET)]);
    refusal("", &[("ROUNDTRIP__DRAIN__X", SECRET)]);
    refusal("drain = \"1s\"", &[("ROUNDTRIP__DRAIN__X", SECRET)]);
}

#[test]
fn a_variable_that_was_meant_for_the_gateway_is_not_passed_over() {
    for (name, right) in [
        ("ROUNDTRIP_EGRESS__DENY", "ROUNDTRIP__EGRESS__DENY"),
        ("ROUNDTRIP_EGRESS_DENY", "ROUNDTRIP__EGRESS__DENY"),
        ("ROUNDTRIP__EGRESS_DENY", "egress_deny is an unknown key"),
        ("ROUNDTRIP_ENVIRONMENT", "ROUNDTRIP__ENVIRONMENT"),
        ("ROUNDTRIP_INGRESS", "ROUNDTRIP__INGRESS"),
        (
            "ROUNDTRIP_INGRESS__TLS_KEY_FILE",
            "ROUNDTRIP__INGRESS__TLS__KEY_FILE",
        ),
        ("ROUNDTRIP_INGRESS__FOO", "ROUNDTRIP__SECTION__KEY"),
        ("roundtrip_egress__deny", "ROUNDTRIP__EGRESS__DENY"),
    ] {
        let line = refusal("", &[(name, SECRET)]);
        assert!(line.contains(name) && line.contains(right), "{line}");
    }
}

#[test]
fn the_variables_of_kubernetes_are_ignored() {
    let services = ["ROUNDTRIP", "ROUNDTRIP_INGRESS", "ROUNDTRIP_STORE"];
    for service in services {
        for suffix in [
            "SERVICE_HOST",
            "SERVICE_PORT",
            "SERVICE_PORT_HTTP",
            "PORT",
            "PORT_8080_TCP",
            "PORT_8080_TCP_ADDR",
            "PORT_8080_TCP_PROTO",
        ] {
            let name = format!("{service}_{suffix}");
            assert_eq!(read("", &[(&name, "10.0.0.1")]).unwrap(), Config::default());
        }
    }
    let file = [("ROUNDTRIP_CONFIG", "roundtrip.toml")];
    assert_eq!(read("", &file).unwrap(), Config::default());
}

#[test]
fn an_empty_variable_sets_nothing_that_can_be_left_out() {
    let file = "public_url = \"http://h/\"\noperator_key = \"a\"\n";
    let empty = [
        ("ROUNDTRIP__PUBLIC_URL", ""),
        ("ROUNDTRIP__SESSIONS_SERVER", ""),
        ("OPERATOR_KEY", ""),
    ];
    assert_eq!(read(file, &empty).unwrap(), read(file, &[]).unwrap());
}

#[test]
fn a_variable_can_name_a_file_with_the_value() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (url, key) = (file("url", "sqlite:other.db\n"), file("key", "a,b\r\n"));
    let files = [
        ("STORE_URL_FILE", &*url),
        ("ROUNDTRIP__CALLBACK_SECRET_FILE", &*key),
        // Set but empty means not set.
        ("OPERATOR_KEY_FILE", ""),
    ];
    let values = [
        ("STORE_URL", "sqlite:other.db"),
        ("ROUNDTRIP__CALLBACK_SECRET", "a,b"),
    ];
    assert_eq!(read("", &files).unwrap(), read("", &values).unwrap());
    let (empty, long) = (file("empty", "\n"), file("long", &"x".repeat(1 << 17)));
    let missing = folder.path().join("missing").to_str().unwrap().to_owned();
    for (path, problem) in [
        (&empty, "names an empty file"),
        (&long, "is longer than 65536 bytes"),
        (&missing, "cannot be read: entity not found"),
    ] {
        for name in ["OPERATOR_KEY_FILE", "ROUNDTRIP__OPERATOR_KEY_FILE"] {
            let line = refusal("", &[(name, path)]);
            assert!(line.contains(name) && line.contains(problem), "{line}");
        }
    }
    for name in ["OPERATOR_KEY", "ROUNDTRIP__OPERATOR_KEY"] {
        let of_file = format!("{name}_FILE");
        let line = refusal("", &[(name, SECRET), (&of_file, &*key)]);
        assert!(
            line.contains(&format!("{of_file} and {name} are both set")),
            "{line}"
        );
    }
}

#[test]
fn the_environment_wins_over_the_file_and_the_short_name_over_the_long() {
    let file = "[broker]\nurl = \"sqlite:file\"\nnamespace = \"file\"\n";
    let pairs = [
        ("BROKER_URL", "sqlite:short"),
        ("ROUNDTRIP__BROKER__URL", "sqlite:long"),
        ("ROUNDTRIP__BROKER__NAMESPACE", "long"),
    ];
    let config = read(file, &pairs).unwrap();
    assert_eq!(config.broker.url, "sqlite:short");
    assert_eq!(config.broker.namespace, "long");
}

#[test]
fn all_invalid_values_are_reported_together() {
    let file = "drain = 1\n[ingress]\nmax_jsn_depth = 3\n[store]\ntimeout = \"soon\"\n";
    let environment = [
        ("ROUNDTRIP__DISPATCHER__CONCURRENCY", "many"),
        ("ROUNDTRIP_PUBLIC_URL", "http://h/"),
    ];
    let problem = read(file, &environment).unwrap_err().to_string();
    for named in [
        "drain",
        "max_jsn_depth",
        "store.timeout",
        "dispatcher.concurrency",
        "ROUNDTRIP__PUBLIC_URL",
    ] {
        assert!(problem.contains(named), "{named}: {problem}");
    }
    assert_eq!(problem.lines().count(), 5, "{problem}");
}

#[test]
fn values_that_cannot_be_read_are_reported_with_the_missing_settings() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("roundtrip.toml");
    let file = "environment = \"production\"\ndrain = 1\nsessions_server = 5\n\
                [broker]\nurl = \"redis://host\"\n";
    std::fs::write(&path, file).unwrap();
    let wrong = load(Some(&path), &Role::every().collect()).unwrap_err();
    let wrong = wrong.to_string();
    for named in [
        ": drain must be",
        ": sessions_server must be",
        "broker.url must begin",
        "public_url (ROUNDTRIP__PUBLIC_URL) must be set",
        "callback_secret (CALLBACK_SECRET) must be set",
    ] {
        assert!(wrong.contains(named), "{named}: {wrong}");
    }
    // It is set, though not to a URL.
    assert!(!wrong.contains("SESSIONS_SERVER"), "{wrong}");
}

#[test]
fn a_misspelt_environment_is_the_only_report_about_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("roundtrip.toml");
    let file = "environment = \"produktion\"\n[ingress]\nlisten = \"0.0.0.0:8000\"\n";
    std::fs::write(&path, file).unwrap();
    let wrong = load(Some(&path), &Role::every().collect()).unwrap_err();
    let wrong = wrong.to_string();
    assert_eq!(wrong.lines().count(), 1, "{wrong}");
    assert!(wrong.contains(": environment must be"), "{wrong}");
}
