//! The effect of RabbitMQ's policies on the gateway's queues, and the warnings that follow.
//!
//! A policy applies to every queue whose name matches, on top of the queue's arguments; the lower
//! of two limits applies. Only the policy with the highest priority applies to a queue. An *operator
//! policy* always applies in addition.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{Config, Queue};

/// Minimum number of a queue's members, if the cluster has as many nodes: RabbitMQ's default for a
/// new queue.
const MEMBERS: usize = 3;

const NAMED: usize = 3;

/// What the API reports about an exchange or a queue.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Target {
    pub name: String,
    /// The names of the policies that apply; RabbitMQ omits them before its first statistics.
    #[serde(default)]
    pub policy: Option<String>,
    #[serde(default)]
    pub operator_policy: Option<String>,
    /// Its arguments; an empty list if it has none.
    #[serde(default)]
    pub arguments: Value,
    /// The nodes of a queue's members; empty for an exchange, or before the first statistics.
    #[serde(default)]
    pub members: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Existing {
    pub name: String,
    pub definition: Value,
}

/// The exchanges and queues of a namespace, with all policies.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub exchanges: Vec<Target>,
    pub queues: Vec<Target>,
    pub policies: Vec<Existing>,
    pub operator_policies: Vec<Existing>,
    pub nodes: Option<usize>,
}

/// What a queue is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Work,
    /// What the recorder writes to the store. It is redelivered while the store is unavailable.
    Stored,
    Delay,
    Dead,
}

/// A policy with a key that breaks a promise; queues are grouped by it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Harm {
    /// `policy "name"`, or `operator policy "name"`.
    policy: String,
    key: &'static str,
    effect: &'static str,
    remedy: &'static str,
}

const SHIELD: &str = "`roundtrip rabbitmq-policies` prints the commands that override it";
const EXEMPT: &str = "exclude the gateway's queues from it: no policy overrides an operator policy";

/// The limit of a queue whose arguments and policies set none.
const NO_LIMIT: u64 = u64::MAX;

/// A limit of the work queues.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Bound {
    argument: &'static str,
    /// A policy's key.
    key: &'static str,
    unit: &'static str,
    setting: &'static str,
    /// The setting's value.
    wanted: u64,
}

impl Bound {
    const fn all(config: &Config) -> [Self; 2] {
        [
            Self {
                argument: "x-max-length",
                key: "max-length",
                unit: "messages",
                setting: "broker.max_backlog",
                wanted: config.max_backlog,
            },
            Self {
                argument: "x-max-length-bytes",
                key: "max-length-bytes",
                unit: "bytes",
                setting: "broker.max_backlog_bytes",
                wanted: config.max_backlog_bytes,
            },
        ]
    }
}

impl Found {
    /// The warnings, a line each, in a stable order.
    pub(super) fn warnings(&self, config: &Config) -> Vec<String> {
        let mut harms: BTreeMap<Harm, Vec<&str>> = BTreeMap::new();
        let mut limits: BTreeMap<(&Bound, u64, String), Vec<&str>> = BTreeMap::new();
        let bounds = Bound::all(config);
        for (targets, are_queues) in [(&self.exchanges, false), (&self.queues, true)] {
            for target in targets {
                let purpose = are_queues.then(|| purpose(config, &target.name));
                for (policy, remedy, definition) in self.of(target) {
                    for (key, effect) in harms_of(purpose, definition) {
                        let harm = Harm {
                            policy: policy.clone(),
                            key,
                            effect,
                            remedy,
                        };
                        harms.entry(harm).or_default().push(&target.name);
                    }
                }
                let is_work = matches!(purpose, Some(Purpose::Work | Purpose::Stored));
                for bound in bounds.iter().filter(|_| is_work) {
                    let (limit, by) = self.limit(target, bound);
                    if limit != bound.wanted {
                        let names = limits.entry((bound, limit, by)).or_default();
                        names.push(&target.name);
                    }
                }
            }
        }
        let harms = harms.into_iter().map(|(harm, names)| {
            let names = list(&names);
            let Harm {
                policy,
                key,
                effect,
                remedy,
            } = harm;
            format!("{policy} sets {key} on {names}: {effect}; {remedy}")
        });
        let limits = limits.into_iter().map(|((bound, limit, by), names)| {
            let Bound {
                unit,
                setting,
                wanted,
                ..
            } = bound;
            let held = match limit {
                NO_LIMIT => format!("any number of {unit}"),
                limit => format!("at most {limit} {unit}{by}"),
            };
            format!(
                "{} holds {held}, and {setting} is {wanted}: `roundtrip rabbitmq-policies` prints the \
                 command that sets it",
                list(&names)
            )
        });
        harms.chain(limits).chain(self.too_few_members()).collect()
    }

    /// Warns of queues with too few members: they were declared before the other nodes joined.
    fn too_few_members(&self) -> Option<String> {
        let wanted = self.nodes?.min(MEMBERS);
        let few = |queue: &&Target| (1..wanted).contains(&queue.members.len());
        let names: Vec<_> = self
            .queues
            .iter()
            .filter(few)
            .map(|queue| &*queue.name)
            .collect();
        (!names.is_empty()).then(|| {
            format!(
                "{} has fewer than {wanted} members: if its node fails, the queue is unavailable; \
                 `rabbitmq-queues grow NODE all`, for each other node, adds members",
                list(&names)
            )
        })
    }

    fn of<'a>(
        &'a self,
        target: &Target,
    ) -> impl Iterator<Item = (String, &'static str, &'a Map<String, Value>)> {
        let find = |all: &'a [Existing], name: &Option<String>| {
            let existing = all
                .iter()
                .find(|policy| Some(&policy.name) == name.as_ref())?;
            Some((&existing.name, existing.definition.as_object()?))
        };
        let policy = find(&self.policies, &target.policy)
            .map(|(name, definition)| (format!("policy {name:?}"), SHIELD, definition));
        let operator = find(&self.operator_policies, &target.operator_policy)
            .map(|(name, definition)| (format!("operator policy {name:?}"), EXEMPT, definition));
        policy.into_iter().chain(operator)
    }

    /// How much a queue holds at most, and what sets that limit: the lowest applies.
    fn limit(&self, target: &Target, bound: &Bound) -> (u64, String) {
        let own = target.arguments.get(bound.argument).and_then(Value::as_u64);
        let by_policies = self.of(target).filter_map(|(policy, _, definition)| {
            let limit = definition.get(bound.key)?.as_u64()?;
            Some((limit, format!(" by {policy}")))
        });
        let own = (own.unwrap_or(NO_LIMIT), String::new());
        by_policies.chain([own]).min().unwrap_or_default()
    }
}

fn purpose(config: &Config, name: &str) -> Purpose {
    let end = name.get(config.namespace.len() + 1..).unwrap_or_default();
    if end.rsplit('.').next() == Some("dead") {
        Purpose::Dead
    } else if end.starts_with("delay.") {
        Purpose::Delay
    } else if [Queue::Journal, Queue::Waiting]
        .map(Queue::name)
        .contains(&end)
    {
        Purpose::Stored
    } else {
        Purpose::Work
    }
}

/// The keys of a policy that break a promise on this kind of queue; `None` means an exchange.
fn harms_of(
    purpose: Option<Purpose>,
    definition: &Map<String, Value>,
) -> Vec<(&'static str, &'static str)> {
    let Some(purpose) = purpose else {
        let diverts = definition.contains_key("alternate-exchange");
        let effect = "a message whose queue is missing goes elsewhere, and counts as accepted";
        return diverts
            .then_some(("alternate-exchange", effect))
            .into_iter()
            .collect();
    };
    let drops = definition
        .get("overflow")
        .is_some_and(|overflow| overflow != "reject-publish");
    let full = "a full queue refuses or drops dead letters and retries";
    let expire = match purpose {
        Purpose::Work | Purpose::Stored => "waiting messages expire",
        Purpose::Delay => "retries come too early",
        Purpose::Dead => "dead letters are deleted",
    };
    let waits = matches!(purpose, Purpose::Delay | Purpose::Dead);
    let endless = matches!(purpose, Purpose::Stored | Purpose::Dead);
    [
        (
            "expires",
            true,
            "RabbitMQ deletes an unused queue with its messages",
        ),
        ("message-ttl", true, expire),
        ("max-length", waits, full),
        ("max-length-bytes", waits, full),
        ("overflow", drops, "a full queue drops messages"),
        (
            "delivery-limit",
            endless,
            "messages over the delivery limit leave the queue",
        ),
    ]
    .into_iter()
    .filter(|(key, harms, _)| *harms && definition.contains_key(*key))
    .map(|(key, _, effect)| (key, effect))
    .collect()
}

fn list(names: &[&str]) -> String {
    let named = names.iter().take(NAMED).copied().collect::<Vec<_>>();
    match names.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        policies,
        rabbitmq::topology::{MAX_LENGTH, MAX_LENGTH_BYTES},
    };

    fn queue(name: &str, policy: Option<&str>) -> Target {
        Target {
            name: format!("roundtrip.{name}"),
            policy: policy.map(str::to_owned),
            arguments: json!({
                "x-max-length": MAX_LENGTH, "x-max-length-bytes": MAX_LENGTH_BYTES
            }),
            ..Target::default()
        }
    }

    #[test]
    fn a_queue_that_was_declared_before_the_nodes_joined_is_a_warning() {
        let on = |name: &str, members: &[&str]| Target {
            members: members.iter().map(|&member| member.to_owned()).collect(),
            ..queue(name, None)
        };
        let three = ["a@h", "b@h", "c@h"];
        let warned = |nodes, queues| {
            let found = Found {
                queues,
                nodes,
                ..Found::default()
            };
            found.warnings(&Config::default())
        };
        let queues = || vec![on("callbacks", &three[..1]), on("journal", &three)];
        let found = warned(Some(5), queues());
        assert!(
            found[0].starts_with("roundtrip.callbacks has fewer than 3 members"),
            "{found:?}"
        );
        assert_eq!(found.len(), 1);
        for nodes in [None, Some(1)] {
            assert!(warned(nodes, queues()).is_empty());
        }
        // RabbitMQ reports no members before its first statistics.
        assert!(warned(Some(3), vec![on("callbacks", &[])]).is_empty());
    }

    fn warnings(targets: Vec<Target>, definition: Value) -> Vec<String> {
        let found = Found {
            queues: targets,
            policies: vec![Existing {
                name: "everything".to_owned(),
                definition,
            }],
            ..Found::default()
        };
        found.warnings(&Config::default())
    }

    #[test]
    fn a_policy_that_breaks_a_promise_is_named_with_its_queues() {
        let everything = Some("everything");
        let queues = ["outbound.0", "outbound.dead", "delay.1s", "delay.2s"];
        let under = || queues.map(|name| queue(name, everything)).into();
        let warnings = warnings(under(), json!({"expires": 60_000}));
        assert_eq!(
            warnings,
            [
                "policy \"everything\" sets expires on roundtrip.outbound.0, \
                 roundtrip.outbound.dead, roundtrip.delay.1s and 1 more: RabbitMQ deletes an \
                 unused queue with its messages; `roundtrip rabbitmq-policies` prints the \
                 commands that override it"
            ]
        );
    }

    #[test]
    fn each_key_is_judged_by_what_the_queue_is_for() {
        let count = |name: &str, definition: Value| {
            warnings(vec![queue(name, Some("everything"))], definition).len()
        };
        for (definition, [work, stored, delay, dead]) in [
            (json!({"message-ttl": 1}), [1, 1, 1, 1]),
            (json!({"max-length": 10_000_000}), [0, 0, 1, 1]),
            (json!({"max-length-bytes": 5}), [1, 1, 1, 1]),
            (json!({"delivery-limit": 5}), [0, 1, 0, 1]),
            (json!({"overflow": "drop-head"}), [1, 1, 1, 1]),
            (json!({"overflow": "reject-publish"}), [0, 0, 0, 0]),
            (json!({"queue-leader-locator": "balanced"}), [0, 0, 0, 0]),
        ] {
            for (name, expected) in [
                ("outbound.retry", work),
                ("journal", stored),
                ("waiting", stored),
                ("delay.1s", delay),
                ("callbacks.dead", dead),
            ] {
                assert_eq!(
                    count(name, definition.clone()),
                    expected,
                    "{name} {definition}"
                );
            }
        }
    }

    #[test]
    fn a_limit_other_than_max_backlog_is_reported_with_its_policy() {
        let warnings = warnings(
            vec![queue("callbacks", Some("everything"))],
            json!({"max-length": 5}),
        );
        let expected = "roundtrip.callbacks holds at most 5 messages by policy \"everything\", and \
                        broker.max_backlog is 10000000";
        assert!(
            warnings.len() == 1 && warnings[0].starts_with(expected),
            "{warnings:?}"
        );
    }

    /// An older version declared it.
    #[test]
    fn a_queue_without_a_limit_in_bytes_is_reported() {
        let mut target = queue("callbacks", Some("everything"));
        target.arguments = json!({"x-max-length": MAX_LENGTH});
        let warnings = warnings(vec![target], json!({"overflow": "reject-publish"}));
        let expected = "roundtrip.callbacks holds any number of bytes, and \
                        broker.max_backlog_bytes is 10737418240";
        assert!(
            warnings.len() == 1 && warnings[0].starts_with(expected),
            "{warnings:?}"
        );
    }

    #[test]
    fn an_operator_policy_is_reported_beside_the_gateways_own() {
        let config = Config::default();
        let own = policies(&config).map(|policy| Existing {
            name: policy.name,
            definition: policy.definition,
        });
        let found = Found {
            queues: vec![Target {
                operator_policy: Some("ops".to_owned()),
                ..queue("outbound.dead", Some("roundtrip"))
            }],
            policies: own.into(),
            operator_policies: vec![Existing {
                name: "ops".to_owned(),
                definition: json!({"message-ttl": 5}),
            }],
            ..Found::default()
        };
        let warnings = found.warnings(&config);
        let expected = "operator policy \"ops\" sets message-ttl on roundtrip.outbound.dead";
        assert!(
            warnings.len() == 1 && warnings[0].starts_with(expected),
            "{warnings:?}"
        );
    }

    #[test]
    fn an_alternate_exchange_is_reported() {
        let found = Found {
            exchanges: vec![queue("direct", Some("everything"))],
            policies: vec![Existing {
                name: "everything".to_owned(),
                definition: json!({"alternate-exchange": "lost", "expires": 5}),
            }],
            ..Found::default()
        };
        let warnings = found.warnings(&Config::default());
        assert!(
            warnings.len() == 1 && warnings[0].contains("alternate-exchange"),
            "{warnings:?}"
        );
    }

    #[test]
    fn a_policys_name_cannot_forge_a_line_of_the_log() {
        let mut target = queue("callbacks", None);
        target.policy = Some("a\nb".to_owned());
        let found = Found {
            queues: vec![target],
            policies: vec![Existing {
                name: "a\nb".to_owned(),
                definition: json!({"expires": 5}),
            }],
            ..Found::default()
        };
        let warnings = found.warnings(&Config::default());
        assert!(
            warnings[0].starts_with("policy \"a\\nb\" sets"),
            "{warnings:?}"
        );
    }
}
