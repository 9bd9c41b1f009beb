//! The announcement after the start: addresses, engines, and what to try first.

use std::collections::BTreeSet;

use crate::{
    cli::Role,
    config::{Config, Environment, Problem},
    telemetry::Format,
};

/// Refuses roles that could never work. The embedded broker belongs to one process, so a role whose
/// counterpart is another process would wait for ever.
pub(crate) fn check_roles(config: &Config, roles: &BTreeSet<Role>) -> Result<(), Problem> {
    let missing: Vec<&str> = Role::every()
        .filter(|role| !roles.contains(role))
        .map(Role::name)
        .collect();
    if config.broker.embedded_file().is_none() || missing.is_empty() {
        return Ok(());
    }
    Err(Problem::key(
        "broker.url",
        format!(
            "(BROKER_URL) is the embedded broker, which belongs to one process, and the roles {} \
             are missing in this process; leave --role out, or use RabbitMQ (amqp://)",
            missing.join(", ")
        ),
    ))
}

/// Logs sentences for people, or fields for machines.
pub(crate) fn announce(config: &Config, roles: &BTreeSet<Role>) -> Result<(), Problem> {
    let roles: Vec<&str> = roles.iter().map(|role| role.name()).collect();
    let has_api = roles.contains(&Role::Ingress.name());
    let roles = roles.join(",");
    let environment = match config.environment {
        Environment::Development => "development",
        Environment::Production => "production",
    };
    let broker = engine(config.broker.embedded_file(), "RabbitMQ");
    let store = engine(config.store.embedded_file(), "MongoDB");
    let api = config.listening_url()?;
    let operations = format!("http://{}", config.operations.listen);
    if config.log.format == Format::Json {
        let api = has_api.then_some(api.as_str());
        tracing::info!(
            roles,
            environment,
            broker,
            store,
            api,
            operations,
            "started"
        );
        return Ok(());
    }
    tracing::info!("started in {environment}, with the roles {roles}");
    tracing::info!("the queues are in the broker: {broker}; everything else in the store: {store}");
    if has_api {
        tracing::info!("the API is at {api}, its documentation at {api}docs");
    }
    tracing::info!("health is at {operations}/healthz, readiness at {operations}/readyz");
    if has_api && config.environment == Environment::Development {
        tracing::info!(
            "to try it: curl -X POST {api}channel/message -H 'Content-Type: application/json' -d \
             '{{\"channel_id\": \"echo\", \"session_id\": \"abc123\", \"message\": \"Hello!\"}}' \
             and then: curl {api}dev/sessions/abc123"
        );
    }
    Ok(())
}

fn engine(file: Option<&str>, server: &str) -> String {
    file.map_or_else(
        || server.to_owned(),
        |file| format!("the embedded one in {file}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_that_need_another_process_refuse_the_embedded_broker() {
        let embedded = Config::default();
        let servers = Config {
            broker: roundtrip_broker::Config {
                url: "amqp://guest:guest@localhost:5672/%2f".to_owned(),
                ..roundtrip_broker::Config::default()
            },
            ..Config::default()
        };
        assert!(check_roles(&embedded, &Role::every().collect()).is_ok());
        for role in Role::every() {
            let alone = BTreeSet::from([role]);
            let problem = check_roles(&embedded, &alone).unwrap_err().to_string();
            assert!(problem.contains("BROKER_URL"), "{problem}");
            assert!(check_roles(&servers, &alone).is_ok());
        }
    }
}
