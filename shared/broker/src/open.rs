//! Checks the configuration and opens the engine that it names.

use std::{path::PathBuf, sync::Arc};

use roundtrip_model::{Check, Clock, WrongSetting};

use crate::{
    Config, OpenError, SharedBroker,
    config::AMQP,
    embedded::Embedded,
    rabbitmq::{RabbitMq, Servers},
};

enum Engine {
    Embedded(PathBuf),
    RabbitMq(Box<Servers>),
}

impl Config {
    /// Checks every setting, with the files that it names.
    pub fn check(&self, check: &mut Check) {
        self.engine(check);
    }

    fn engine(&self, check: &mut Check) -> Option<Engine> {
        self.check_bounds(check);
        check.unless(!self.namespace.is_empty(), "namespace", "must not be empty");
        if let Some(path) = self.embedded_file() {
            // A setting without effect is an error: a missing or damaged file would be noticed only
            // when it is needed.
            for (key, is_set) in [
                ("ca_file", self.ca_file.is_some()),
                ("management_url", self.management_url.is_some()),
            ] {
                let problem = "has no effect: broker.url is not amqp:// or amqps://";
                check.unless(!is_set, key, problem);
            }
            return check.take(Embedded::file(path)).map(Engine::Embedded);
        }
        if AMQP.iter().any(|scheme| self.url.starts_with(scheme)) {
            return Servers::of(self, check).map(Box::new).map(Engine::RabbitMq);
        }
        let problem = "must begin with sqlite:, amqp:// or amqps://";
        check.take(Err(WrongSetting::new("url", problem)))
    }
}

/// Opens the broker that the URL names. RabbitMQ may be unreachable: until it connects, the status
/// is [`Status::Unavailable`](crate::Status::Unavailable).
pub async fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<SharedBroker, OpenError> {
    let mut check = Check::of("broker");
    let engine = config.engine(&mut check);
    Ok(match check.end_with(engine)? {
        Engine::Embedded(path) => Arc::new(Embedded::open(path, config, clock).await?),
        Engine::RabbitMq(servers) => Arc::new(RabbitMq::open(*servers, config, clock).await),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use roundtrip_model::SystemClock;

    use super::*;

    async fn refusal(config: Config) -> String {
        match open(&config, Arc::new(SystemClock)).await {
            Ok(_) => panic!("it was opened"),
            Err(error) => error.to_string(),
        }
    }

    fn at(url: &str) -> Config {
        Config {
            url: url.to_owned(),
            ..Config::default()
        }
    }

    #[tokio::test]
    async fn a_url_that_names_no_engine_is_refused_without_showing_it() {
        for url in [
            "",
            "broker.db",
            "redis://user:secret@host",
            "postgres:secret",
            "AMQP//secret",
        ] {
            let text = refusal(at(url)).await;
            assert_eq!(
                text,
                "broker.url must begin with sqlite:, amqp:// or amqps://"
            );
        }
    }

    #[tokio::test]
    async fn the_embedded_engine_needs_a_file() {
        for url in ["sqlite:", "sqlite://", "sqlite::memory:"] {
            let text = refusal(at(url)).await;
            assert!(
                text.starts_with("broker.url ") && text.contains("file"),
                "{text}"
            );
        }
    }

    #[tokio::test]
    async fn unused_certificate_authorities_are_refused() {
        for url in ["sqlite:data/broker.db", "amqp://localhost"] {
            let text = refusal(Config {
                ca_file: Some("/nowhere/ca.pem".into()),
                ..at(url)
            });
            let text = text.await;
            assert!(text.starts_with("broker.ca_file has no effect"), "{text}");
        }
    }

    #[tokio::test]
    async fn a_url_that_cannot_be_read_is_not_shown() {
        for url in [
            "amqp://user:secret@host:99999/",
            "amqp://user:sec?ret@host/",
            "amqp://user:sec%zzret@host:x/",
            "amqp://host/?heartbeat=secret",
            "amqps://host/?auth_mechanism=secret",
            "amqp://host/%ff-secret",
        ] {
            let text = refusal(at(url)).await;
            assert!(text.starts_with("broker.url "), "{text}");
            assert!(!text.contains("ret@") && !text.contains("secret"), "{text}");
        }
        for url in ["user:secret://host", "amqp:/user:secret@host"] {
            assert!(!format!("{:?}", at(url)).contains("secret"));
        }
    }

    #[tokio::test]
    async fn a_setting_out_of_its_bounds_is_named() {
        let set = Config::default;
        for (config, field) in [
            (
                Config {
                    outbound_shards: 0,
                    ..set()
                },
                "outbound_shards",
            ),
            (
                Config {
                    outbound_shards: 65,
                    ..set()
                },
                "outbound_shards",
            ),
            (
                Config {
                    publish_timeout: Duration::ZERO,
                    ..set()
                },
                "publish_timeout",
            ),
            (
                Config {
                    max_backlog: 0,
                    ..set()
                },
                "max_backlog",
            ),
            (
                Config {
                    max_backlog_bytes: 0,
                    ..set()
                },
                "max_backlog_bytes",
            ),
            (
                Config {
                    namespace: String::new(),
                    ..set()
                },
                "namespace",
            ),
        ] {
            let text = refusal(config).await;
            assert!(text.starts_with(&format!("broker.{field} ")), "{text}");
        }
    }

    #[tokio::test]
    async fn unusable_certificate_authorities_are_reported() {
        let nowhere = |url| Config {
            ca_file: Some("/nowhere/ca.pem".into()),
            ..at(url)
        };
        let text = refusal(nowhere("amqps://mq.example")).await;
        assert!(
            text.starts_with("broker.ca_file cannot be read from '/nowhere/ca.pem': "),
            "{text}"
        );
        // Such a setting suggests that the connection uses TLS.
        let text = refusal(nowhere("amqp://mq.example")).await;
        assert_eq!(
            text,
            "broker.ca_file has no effect: the URL is not amqps://"
        );
    }

    #[tokio::test]
    async fn a_management_url_that_cannot_be_used_is_refused_without_showing_it() {
        for url in [
            "",
            "secret",
            "amqp://user:secret@host",
            "http://user:secret@host:99999",
            "http://host/?secret",
            "http:///",
        ] {
            let text = refusal(Config {
                management_url: Some(url.to_owned()),
                ..at("amqp://127.0.0.1:1")
            });
            let text = text.await;
            assert!(
                text.starts_with("broker.management_url is malformed"),
                "{url}: {text}"
            );
            assert!(!text.contains("secret"), "{text}");
        }
        let text = refusal(Config {
            management_url: Some("http://host:15672".to_owned()),
            ..Config::default()
        });
        let text = text.await;
        assert!(
            text.starts_with("broker.management_url has no effect"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn rabbitmq_bounds_max_backlog() {
        let text = refusal(Config {
            max_backlog: 10_000_001,
            ..at("amqp://127.0.0.1:1")
        });
        let text = text.await;
        assert!(
            text.starts_with("broker.max_backlog must be at most 10000000"),
            "{text}"
        );
    }

    #[test]
    fn a_password_is_never_shown() {
        for url in [
            "amqps://user:secret@host/vhost",
            "amqp:user:secret@host",
            "https://user:secret@host",
            "secret",
        ] {
            let config = Config {
                management_url: Some(url.to_owned()),
                ..at(url)
            };
            let shown = format!("{config:?}");
            assert!(!shown.contains("secret"), "{shown}");
        }
        assert!(format!("{:?}", Config::default()).contains("sqlite:data/broker.db"));
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let error = serde_json::from_str::<Config>(r#"{"max_backlogs": 5}"#).unwrap_err();
        assert!(error.to_string().contains("max_backlogs"), "{error}");
    }

    #[test]
    fn a_time_limit_is_written_with_its_unit() {
        let config: Config = serde_json::from_str(r#"{"publish_timeout": "700ms"}"#).unwrap();
        let expected = Config {
            publish_timeout: Duration::from_millis(700),
            ..Config::default()
        };
        assert_eq!(config, expected);
    }
}
