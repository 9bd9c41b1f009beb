//! The gateway's own RabbitMQ policies.
//!
//! Only the policy with the highest priority applies to a queue. The gateway's policies on its own
//! prefix therefore override an operator's catch-all (`.*`) of lower priority.
//!
//! Invariant: the gateway's own policies break no promise.

use serde::Serialize;
use serde_json::{Value, json};

use super::endpoint::Endpoint;
use crate::{Config, Queue};

/// Above the priorities that operators usually set.
const PRIORITY: i64 = 1000;

/// A policy for RabbitMQ, in the format of its definitions file and its management API.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Policy {
    pub vhost: String,
    pub name: String,
    /// A regular expression for the names that it applies to.
    pub pattern: String,
    /// `all` (exchanges and queues) or `queues`.
    #[serde(rename = "apply-to")]
    pub apply_to: &'static str,
    pub priority: i64,
    pub definition: Value,
}

/// The policies of this namespace. The first keeps other policies off; the second sets
/// `max_backlog` and `max_backlog_bytes` for the work queues.
pub fn policies(config: &Config) -> [Policy; 2] {
    let Config {
        namespace,
        max_backlog,
        max_backlog_bytes,
        ..
    } = config;
    let vhost = Endpoint::vhost_of(config);
    let prefix = format!("^{}\\.", escaped(namespace));
    [
        Policy {
            vhost: vhost.clone(),
            name: namespace.clone(),
            pattern: prefix.clone(),
            apply_to: "all",
            priority: PRIORITY,
            // A policy must set some key; the queues' arguments already set this one.
            definition: json!({"overflow": "reject-publish"}),
        },
        Policy {
            vhost,
            name: format!("{namespace}-backlog"),
            pattern: format!("{prefix}({})$", queues(false)),
            apply_to: "queues",
            priority: PRIORITY + 1,
            definition: json!({
                "max-length": max_backlog,
                "max-length-bytes": max_backlog_bytes,
                "overflow": "reject-publish",
            }),
        },
    ]
}

/// The names of the work queues or of the dead queues, after the prefix.
fn queues(are_dead: bool) -> String {
    let queues = Queue::ALL.into_iter();
    let queues = queues.filter(|queue| (queue.dead() == *queue) == are_dead);
    let names = queues.map(|queue| match queue {
        Queue::Outbound => "outbound\\.([0-9]+|retry)".to_owned(),
        _ => escaped(queue.name()),
    });
    names.collect::<Vec<_>>().join("|")
}

fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        if c.is_ascii_punctuation() && c != '-' && c != '_' {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

pub(super) fn names(namespace: &str) -> String {
    let (work, dead) = (queues(false), queues(true));
    let namespace = escaped(namespace);
    format!("^{namespace}\\.(direct|delay\\.[0-9]+s|{work}|{dead})$")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_a_namespace_are_those_of_its_queues() {
        assert_eq!(
            names("a"),
            "^a\\.(direct|delay\\.[0-9]+s|outbound\\.([0-9]+|retry)|callbacks|journal|waiting|notices|\
             outbound\\.dead|callbacks\\.dead|journal\\.dead|notices\\.dead)$"
        );
    }

    #[test]
    fn the_own_policies_take_the_namespace_to_the_letter() {
        let config = Config {
            namespace: "a.b+c".to_owned(),
            max_backlog: 7,
            max_backlog_bytes: 9,
            ..Config::default()
        };
        let [shield, backlog] = policies(&config);
        assert_eq!(shield.pattern, "^a\\.b\\+c\\.");
        assert_eq!(
            backlog.pattern,
            "^a\\.b\\+c\\.(outbound\\.([0-9]+|retry)|callbacks|journal|waiting|notices)$"
        );
        assert_eq!(backlog.definition["max-length"], 7);
        assert_eq!(backlog.definition["max-length-bytes"], 9);
        assert!(backlog.priority > shield.priority);
    }
}
