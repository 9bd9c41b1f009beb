//! Existing queues whose arguments differ from the ones declared now.
//!
//! On every declare RabbitMQ compares the arguments with those of the existing queue, and closes
//! the channel if one differs (406). A queue's arguments never change, so a queue of another
//! version would be refused forever.
//!
//! Invariant: a queue is used only after a successful declare in which all arguments are equal,
//! except those that may differ. A passive declare would accept a classic queue too.

use std::collections::HashMap;

use lapin::{
    protocol::{AMQPErrorKind, AMQPSoftError},
    types::{AMQPValue, FieldTable, ShortString},
};
use parking_lot::Mutex;

/// The argument that determines the node of a new queue's leader.
pub(super) const LEADER_LOCATOR: &str = "x-queue-leader-locator";

/// The existing arguments of queues that differ. One declare reports one difference, so several
/// differences take as many declares.
#[derive(Debug, Default)]
pub(super) struct Differences(Mutex<HashMap<ShortString, Vec<Difference>>>);

impl Differences {
    pub(super) fn applied_to(&self, arguments: FieldTable, queue: &ShortString) -> FieldTable {
        let all = self.0.lock();
        let Some(differences) = all.get(queue) else {
            return arguments;
        };
        let mut applied = arguments.inner().clone();
        for Difference { argument, current } in differences {
            match current {
                Some(value) => applied.insert(argument.clone(), value.clone()),
                None => applied.remove(argument),
            };
        }
        applied.into()
    }

    /// Records the difference if the error reports one that is allowed. Returns whether to declare
    /// again.
    pub(super) fn note(
        &self,
        queue: &ShortString,
        error: &lapin::Error,
        may_differ: impl Fn(&str) -> bool,
    ) -> bool {
        let Some(difference) = Difference::of(error) else {
            return false;
        };
        let Difference { argument, current } = &difference;
        if !may_differ(argument.as_str()) {
            return false;
        }
        // An existing queue has its leader, so this argument has no effect on it.
        if argument.as_str() != LEADER_LOCATOR {
            tracing::warn!(
                queue = queue.as_str(),
                argument = argument.as_str(),
                ?current,
                "this queue was declared with another value, and keeps it; docs/operations.md says \
                 how to change it"
            );
        }
        let mut all = self.0.lock();
        let differences = all.entry(queue.clone()).or_default();
        differences.retain(|known| known.argument != *argument);
        differences.push(difference);
        true
    }
}

#[derive(Debug, PartialEq)]
struct Difference {
    argument: ShortString,
    current: Option<AMQPValue>,
}

impl Difference {
    /// AMQP has one code for every difference; only the text names the argument. If the text cannot
    /// be parsed the queue is refused.
    fn of(error: &lapin::Error) -> Option<Self> {
        let lapin::ErrorKind::ProtocolError(error) = error.kind() else {
            return None;
        };
        match error.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => {
                Self::read(error.get_message().as_str())
            }
            _ => None,
        }
    }

    fn read(text: &str) -> Option<Self> {
        let (_, text) = text.split_once("inequivalent arg '")?;
        let (argument, text) = text.split_once('\'')?;
        let (_, current) = text.rsplit_once(" but current is ")?;
        let current = match current.strip_prefix("the value ").unwrap_or(current) {
            "none" => None,
            quoted => {
                let inner = quoted.strip_prefix('\'')?.strip_suffix('\'')?;
                let (value, kind) = inner.rsplit_once("' of type '").unwrap_or((inner, ""));
                let number = value.parse().ok().filter(|_| kind != "longstr");
                Some(number.map_or_else(
                    || AMQPValue::LongString(value.into()),
                    AMQPValue::LongLongInt,
                ))
            }
        };
        Some(Self {
            argument: argument.into(),
            current,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(received_and_current: &str) -> Option<AMQPValue> {
        let text = format!(
            "PRECONDITION_FAILED - inequivalent arg 'x-some' for queue 'a.b' in vhost 'x': \
             {received_and_current}"
        );
        let found = Difference::read(&text).unwrap();
        assert_eq!(found.argument.as_str(), "x-some");
        found.current
    }

    /// As RabbitMQ 3.10.8 writes them.
    #[test]
    fn the_argument_that_differs_and_its_value_are_read_from_the_error() {
        let number = AMQPValue::LongLongInt(10);
        for (text, current) in [
            ("received '20' but current is '10'", Some(number.clone())),
            (
                "received none but current is the value '10' of type 'long'",
                Some(number),
            ),
            (
                "received the value '20' of type 'signedint' but current is none",
                None,
            ),
            (
                "received none but current is the value '5' of type 'longstr'",
                Some(AMQPValue::LongString("5".into())),
            ),
        ] {
            assert_eq!(read(text), current, "{text}");
        }
    }

    #[test]
    fn an_error_of_another_kind_is_no_difference() {
        for text in [
            "PRECONDITION_FAILED - timeout",
            "",
            "inequivalent arg 'x",
            "inequivalent arg 'durable' for queue 'q' in vhost '/'",
        ] {
            assert_eq!(Difference::read(text), None, "{text}");
        }
    }
}
