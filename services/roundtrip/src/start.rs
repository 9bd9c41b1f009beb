//! The announcement after the start: addresses, engines, and what to try first.

use std::collections::BTreeSet;

use roundtrip_model::WrongSetting;
use url::Url;

use crate::{
    cli::Role,
    config::{Config, Environment},
    telemetry::Format,
};

/// Logs sentences for people, or fields for machines.
pub(crate) fn announce(config: &Config, roles: &BTreeSet<Role>) -> Result<(), WrongSetting> {
    if config.log.format == Format::Text {
        for line in sentences(config, roles)? {
            tracing::info!("{line}");
        }
        return Ok(());
    }
    let api = api(config, roles)?;
    tracing::info!(
        roles = names(roles).join(","),
        environment = environment(config),
        broker = engine(config.broker.embedded_file(), "RabbitMQ"),
        store = engine(config.store.embedded_file(), "MongoDB"),
        api = api.as_ref().map(Url::as_str),
        operations = operations(config),
        "started"
    );
    Ok(())
}

fn sentences(config: &Config, roles: &BTreeSet<Role>) -> Result<Vec<String>, WrongSetting> {
    let operations = operations(config);
    let mut lines = vec![
        format!(
            "Roundtrip {} has started in {}, with the roles {}",
            env!("CARGO_PKG_VERSION"),
            environment(config),
            names(roles).join(", ")
        ),
        format!(
            "queues: {}",
            engine(config.broker.embedded_file(), "RabbitMQ")
        ),
        format!(
            "channels and history: {}",
            engine(config.store.embedded_file(), "MongoDB")
        ),
    ];
    let api = api(config, roles)?;
    if let Some(api) = &api {
        lines.push(format!("API: {api}, its documentation: {api}docs"));
    }
    lines.push(format!(
        "operations: {operations}/healthz and {operations}/readyz"
    ));
    match api {
        Some(api) if config.environment == Environment::Development => {
            lines.push(format!(
                "try it: curl {api}channel/message -H 'Content-Type: application/json' \
                 -H 'Prefer: wait=10' -d '{{\"channel_id\": \"echo\", \"session_id\": \"abc123\", \"message\": \"Hello!\"}}'"
            ));
            lines.push(match config.sessions_server {
                None => format!(
                    "the response has the answer, and so has: curl {api}dev/sessions/abc123"
                ),
                // The URL may hold a secret.
                Some(_) => "the response has the answer, and SESSIONS_SERVER gets it".to_owned(),
            });
        }
        _ => lines.push(format!("try it: curl {operations}/readyz")),
    }
    Ok(lines)
}

fn api(config: &Config, roles: &BTreeSet<Role>) -> Result<Option<Url>, WrongSetting> {
    let has_api = roles.contains(&Role::Ingress);
    has_api.then(|| config.listening_url()).transpose()
}

fn operations(config: &Config) -> String {
    format!("http://{}", config.operations.listen)
}

const fn environment(config: &Config) -> &'static str {
    match config.environment {
        Environment::Development => "development",
        Environment::Production => "production",
    }
}

fn names(roles: &BTreeSet<Role>) -> Vec<&'static str> {
    roles.iter().map(|role| role.name()).collect()
}

fn engine(file: Option<&str>, server: &str) -> String {
    file.map_or_else(|| server.to_owned(), |file| format!("embedded, in {file}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_names_the_ports_the_data_and_a_first_request() {
        let all = Role::every().collect();
        let lines = sentences(&Config::default(), &all).unwrap();
        assert_eq!(
            lines[1..],
            [
                "queues: embedded, in data/broker.db",
                "channels and history: embedded, in data/store.db",
                "API: http://127.0.0.1:8000/, its documentation: http://127.0.0.1:8000/docs",
                "operations: http://127.0.0.1:8001/healthz and http://127.0.0.1:8001/readyz",
                "try it: curl http://127.0.0.1:8000/channel/message -H 'Content-Type: \
                 application/json' -H 'Prefer: wait=10' -d '{\"channel_id\": \"echo\", \"session_id\": \"abc123\", \
                 \"message\": \"Hello!\"}'",
                "the response has the answer, and so has: curl \
                 http://127.0.0.1:8000/dev/sessions/abc123",
            ]
        );
        assert!(!lines.concat().contains("Config"), "{lines:?}");
    }

    #[test]
    fn with_a_sessions_server_the_start_does_not_name_the_inbox() {
        let config = Config {
            sessions_server: Some("http://user:secret@sessions.example/".to_owned()),
            ..Config::default()
        };
        let lines = sentences(&config, &Role::every().collect()).unwrap();
        assert_eq!(
            lines.last().unwrap(),
            "the response has the answer, and SESSIONS_SERVER gets it"
        );
        let all = lines.concat();
        assert!(!all.contains("dev/sessions") && !all.contains("secret"));
    }

    #[test]
    fn a_process_without_the_api_names_only_its_operations_port() {
        let lines = sentences(&Config::default(), &BTreeSet::from([Role::Recorder])).unwrap();
        assert_eq!(
            lines.last().unwrap(),
            "try it: curl http://127.0.0.1:8001/readyz"
        );
        assert!(!lines.concat().contains("8000"), "{lines:?}");
    }
}
