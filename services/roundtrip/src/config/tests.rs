mod written;

use super::*;

/// Checks the configuration of a process with every role.
fn check(config: &Config) -> Result<(), WrongSettings> {
    let mut check = Check::default();
    config.check(&Role::every().collect(), &mut check);
    check.end()
}

const WHSEC: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=";

#[test]
fn a_secret_that_cannot_be_is_refused_and_not_shown() {
    let sessions = |text: &str| Config {
        sessions_secret: Some(SecretList::of(text)),
        ..Config::default()
    };
    let encryption = |text: &str| Config {
        encryption_keys: Some(SecretList::of(text)),
        ..Config::default()
    };
    for (config, key) in [
        (sessions("whsec_short"), "sessions_secret"),
        (sessions(&format!("{WHSEC},short")), "sessions_secret"),
        (sessions(","), "sessions_secret"),
        (sessions(&[WHSEC; 4].join(",")), "sessions_secret"),
        (encryption("short"), "encryption_keys"),
        (encryption(","), "encryption_keys"),
        (encryption(&[KEY; 2].join(",")), "encryption_keys"),
    ] {
        let error = check(&config).unwrap_err().to_string();
        assert!(error.contains(key) && !error.contains("short"), "{error}");
        assert!(!format!("{config:?}").contains("short"));
    }
}

#[test]
fn a_public_url_with_a_password_is_refused_without_showing_it() {
    for url in [
        "http://user:secret@gateway.example",
        "http://secret@gateway.example",
    ] {
        let config = Config {
            public_url: Some(url.to_owned()),
            ..Config::default()
        };
        let error = check(&config).unwrap_err().to_string();
        assert!(
            error.contains("public_url") && !error.contains("secret"),
            "{error}"
        );
    }
}

#[test]
fn the_default_file_has_the_defaults_of_the_code() {
    let table = file::parse("roundtrip.toml".into(), DEFAULT_FILE).unwrap();
    let read: Config = reading::read(table).unwrap();
    assert_eq!(read, Config::default());
}

#[test]
fn the_default_file_names_every_key() {
    for key in known::keys() {
        let (section, name) = key.rsplit_once('.').unwrap_or(("", &key));
        let section = match section {
            "" => Some(DEFAULT_FILE),
            section => DEFAULT_FILE
                .split_once(&format!("[{section}]\n"))
                .map(|(_, rest)| rest),
        };
        let section = section.and_then(|section| section.split("\n[").next());
        let is_named = section.is_some_and(|section| {
            section.contains(&format!("\n{name} = "))
                || section.contains(&format!("\n# {name} = "))
                || section.starts_with(&format!("# {name} = "))
        });
        assert!(is_named, "{key}");
    }
}

#[test]
fn the_default_is_a_valid_configuration() {
    assert!(check(&Config::default()).is_ok());
}

#[test]
fn development_listens_on_loopback_only() {
    let mut config = Config::default();
    config.ingress.listen = SocketAddr::from(([0, 0, 0, 0], 8000));
    assert!(check(&config).is_err());
}

#[test]
fn production_reports_every_missing_setting_at_once() {
    let mut config = Config {
        environment: Environment::Production,
        ..Config::default()
    };
    let error = check(&config).unwrap_err().to_string();
    for missing in [
        "SESSIONS_SERVER",
        "PUBLIC_URL",
        "CALLBACK_SECRET",
        "SESSIONS_SECRET",
        "ENCRYPTION_KEYS",
    ] {
        assert!(error.contains(missing), "{missing}: {error}");
    }
    assert_eq!(error.lines().count(), 5, "{error}");
    config.sessions_server = Some("http://sessions.example/".to_owned());
    config.public_url = Some("https://gateway.example/roundtrip/".to_owned());
    config.callback_secret = Some(SecretList::of(&"x".repeat(31)));
    assert!(check(&config).is_err());
    config.callback_secret = Some(SecretList::of(&"xy".repeat(16)));
    assert_eq!(config.callback_auth(), CallbackAuth::Signed);
    let error = check(&config).unwrap_err().to_string();
    assert!(error.contains("SESSIONS_SECRET"), "{error}");
    config.sessions_secret = Some(SecretList::of(&format!("{WHSEC}, {WHSEC}")));
    let error = check(&config).unwrap_err().to_string();
    assert!(error.contains("ENCRYPTION_KEYS"), "{error}");
    config.encryption_keys = Some(SecretList::of(KEY));
    check(&config).unwrap();
    for wrong in [
        "x".repeat(31),
        "x ".repeat(32),
        "ä".repeat(32),
        "x".repeat(513),
    ] {
        config.operator_key = Some(Secret(wrong.clone().into()));
        let problem = check(&config).unwrap_err().to_string();
        assert!(problem.contains("operator_key"), "{problem}");
        assert!(!problem.contains(&wrong), "{problem}");
    }
    config.operator_key = Some(Secret("xy".repeat(16).into()));
    check(&config).unwrap();
    assert_eq!(
        config.own_response_url().unwrap().as_str(),
        "https://gateway.example/roundtrip/webhook-response"
    );
}

#[test]
fn production_refuses_a_secret_of_one_repeated_byte() {
    let good = Config {
        environment: Environment::Production,
        sessions_server: Some("http://sessions.example/".to_owned()),
        public_url: Some("https://gateway.example/".to_owned()),
        callback_secret: Some(SecretList::of(&"xy".repeat(16))),
        sessions_secret: Some(SecretList::of(WHSEC)),
        encryption_keys: Some(SecretList::of(KEY)),
        ..Config::default()
    };
    check(&good).unwrap();
    let zeros = "A".repeat(43) + "=";
    for (key, config) in [
        (
            "callback_secret",
            Config {
                callback_secret: Some(SecretList::of(&format!(
                    "{},{}",
                    "xy".repeat(16),
                    "a".repeat(32)
                ))),
                ..good.clone()
            },
        ),
        (
            "sessions_secret",
            Config {
                sessions_secret: Some(SecretList::of(&format!("whsec_{zeros}"))),
                ..good.clone()
            },
        ),
        (
            "encryption_keys",
            Config {
                encryption_keys: Some(SecretList::of(&zeros)),
                ..good.clone()
            },
        ),
        (
            "operator_key",
            Config {
                operator_key: Some(Secret("0".repeat(64).into())),
                ..good.clone()
            },
        ),
    ] {
        let error = check(&config).unwrap_err().to_string();
        assert!(error.contains(&format!("{key} must be random")), "{error}");
        // As a newcomer would try it.
        let tried = Config {
            environment: Environment::Development,
            ..config
        };
        assert!(check(&tried).is_ok(), "{key}");
    }
}

#[test]
fn every_invalid_setting_is_reported_at_once() {
    let mut config = Config::default();
    config.ingress.listen = SocketAddr::from(([0, 0, 0, 0], 8000));
    config.ingress.max_json_depth = 0;
    config.dispatcher.concurrency = 0;
    config.forwarder.breaker.failures = 0;
    config.egress.deny = vec!["*".to_owned()];
    config.log.level = "loud".to_owned();
    config.broker.outbound_shards = 0;
    config.broker.url = "amqps://user:hunter2@host:x/".to_owned();
    config.store.timeout = Duration::ZERO;
    config.store.url = "mongodb://user:hunter2@host:x/".to_owned();
    config.store.ca_file = Some("/nowhere/ca.pem".into());
    config.egress.ca_file = Some("/nowhere/ca.pem".into());
    config.dispatcher.webhook.user_agent = "a\nb".to_owned();
    config.dispatcher.paused_snooze = Duration::ZERO;
    config.forwarder.retry.schedule = Some(Vec::new());
    config.ingress.tls = Some(roundtrip_ingress::Tls {
        cert_file: "/nowhere/tls.crt".into(),
        key_file: "/nowhere/tls.key".into(),
    });
    let error = check(&config).unwrap_err().to_string();
    for key in [
        "ingress.listen",
        "ingress.max_json_depth",
        "dispatcher.concurrency",
        "forwarder.breaker.failures",
        "egress.deny",
        "log.level",
        "broker.outbound_shards",
        "broker.url",
        "store.timeout",
        "store.url",
        "store.ca_file",
        "egress.ca_file",
        "dispatcher.webhook.user_agent",
        "dispatcher.paused_park",
        "forwarder.retry.schedule",
        "ingress.tls.cert_file",
    ] {
        let is_named = |line: &str| line.starts_with(&format!("{key} "));
        assert!(error.lines().any(is_named), "{key}: {error}");
    }
    assert_eq!(error.lines().count(), 16, "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn roles_that_need_another_process_refuse_the_embedded_broker() {
    let embedded = Config::default();
    let mut servers = Config::default();
    servers.broker.url = "amqp://guest:guest@localhost:5672/%2f".to_owned();
    for role in Role::every() {
        let alone = BTreeSet::from([role]);
        let checked = |config: &Config| {
            let mut check = Check::default();
            config.check(&alone, &mut check);
            check.end()
        };
        let problem = checked(&embedded).unwrap_err().to_string();
        assert!(problem.contains("BROKER_URL"), "{problem}");
        assert!(checked(&servers).is_ok());
    }
}

#[test]
fn only_a_process_with_the_api_reads_its_certificate() {
    let mut config = Config::default();
    config.broker.url = "amqp://guest:guest@localhost:5672/%2f".to_owned();
    config.ingress.tls = Some(roundtrip_ingress::Tls {
        cert_file: "/nowhere/tls.crt".into(),
        key_file: "/nowhere/tls.key".into(),
    });
    let mut of_recorder = Check::default();
    config.check(&BTreeSet::from([Role::Recorder]), &mut of_recorder);
    assert!(of_recorder.end().is_ok());
    assert!(check(&config).is_err());
}
