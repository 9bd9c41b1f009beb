//! `roundtrip rabbitmq-policies`: policies for an operator to set in RabbitMQ. They keep other
//! policies from breaking a promise, and they apply `broker.max_backlog`.

use roundtrip_broker::{Config, Policy, policies};
use serde_json::json;

pub(crate) fn print(config: &Config, definitions: bool) -> String {
    let policies = policies(config);
    if definitions {
        format!("{:#}\n", json!({"policies": policies}))
    } else {
        policies.iter().map(command).collect()
    }
}

fn command(policy: &Policy) -> String {
    let Policy {
        vhost,
        name,
        pattern,
        apply_to,
        priority,
        definition,
    } = policy;
    let definition = definition.to_string();
    let [vhost, name, pattern, definition] =
        [vhost, name, pattern, &definition].map(|text| quoted(text));
    format!(
        "rabbitmqctl set_policy --vhost {vhost} --priority {priority} --apply-to {apply_to} {name} \
         {pattern} {definition}\n"
    )
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_that_are_shipped_are_those_of_the_default_configuration() {
        let shipped = include_str!("../../../k8s/with-servers/rabbitmq-definitions.json");
        assert_eq!(print(&Config::default(), true), shipped);
    }

    #[test]
    fn the_commands_in_the_documents_are_those_of_the_default_configuration() {
        let documents = include_str!("../../../docs/operations.md");
        let commands = print(&Config::default(), false);
        assert!(
            documents.contains(&commands),
            "docs/operations.md lacks:\n{commands}"
        );
    }

    #[test]
    fn a_command_has_the_configured_names_and_bound() {
        let config = Config {
            url: "amqp://user:secret@host/or%2fders".to_owned(),
            namespace: "it's".to_owned(),
            max_backlog: 5,
            max_backlog_bytes: 7,
            ..Config::default()
        };
        let commands = print(&config, false);
        let last = commands.lines().last().unwrap_or_default();
        assert_eq!(
            last,
            "rabbitmqctl set_policy --vhost 'or/ders' --priority 1001 --apply-to queues \
             'it'\\''s-backlog' '^it\\'\\''s\\.(outbound\\.([0-9]+|retry)|callbacks|journal|waiting|notices)$' \
             '{\"max-length\":5,\"max-length-bytes\":7,\"overflow\":\"reject-publish\"}'"
        );
        assert!(!commands.contains("secret"), "{commands}");
    }
}
