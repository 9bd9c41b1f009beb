//! The declares that RabbitMQ refuses, and why.
//!
//! Invariant: a refusal affects only its exchange or queue. Everything else is declared and used.

use std::{collections::BTreeMap, fmt, time::Duration};

use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};
use lapin::types::ShortString;
use parking_lot::RwLock;

use super::{
    link::Link,
    link_error::{LinkError, limited},
    topology::Topology,
};
use crate::PublishError;

/// The limit on declaring everything: a new quorum queue takes about 100 ms.
const DECLARE_LIMIT: Duration = Duration::from_secs(30);

/// Maximum number of arguments in which an existing queue may differ; each takes a declare.
const MAX_DIFFERENCES: usize = 8;

pub(super) const ACCESS_REFUSED: u16 = 403;
pub(super) const NOT_FOUND: u16 = 404;
pub(super) const PRECONDITION_FAILED: u16 = 406;

/// After a channel worked for this long the backoff restarts, and its next error is logged again.
pub(super) const STEADY: Duration = Duration::from_secs(30);

/// The backoff after a refusal: one to ten seconds, without end.
pub(super) fn waits() -> ExponentialBackoff {
    ExponentialBackoffBuilder::new()
        .with_initial_interval(Duration::from_secs(1))
        .with_multiplier(2.0)
        .with_max_interval(Duration::from_secs(10))
        .with_max_elapsed_time(None)
        .build()
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    code: Option<u16>,
    text: String,
}

impl From<&LinkError> for Refusal {
    fn from(error: &LinkError) -> Self {
        Self {
            code: error.reply_code(),
            text: error.to_string(),
        }
    }
}

impl Refusal {
    pub(super) const fn advice(&self) -> &'static str {
        match self.code {
            Some(ACCESS_REFUSED) => {
                "grant the user configure, write and read on all names that begin with \
                 broker.namespace"
            }
            Some(PRECONDITION_FAILED) => {
                "it exists with another type or other arguments: move its messages away and delete \
                 it, or choose another broker.namespace"
            }
            _ => "none; the error may be temporary, and the gateway tries again",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

type Refused = BTreeMap<ShortString, Refusal>;

/// Declares everything that is missing, and returns the refusals.
///
/// # Errors
/// If the broker does not answer, or the connection is lost.
pub(super) async fn declare(link: &Link, topology: &Topology) -> Result<Refused, LinkError> {
    limited("declaring the queues", DECLARE_LIMIT, async {
        let mut refused = Refused::new();
        let mut channel = link.channel().await?;
        for declaration in topology.declarations() {
            let mut again = MAX_DIFFERENCES;
            while let Err(error) = topology.declare(&channel, &declaration).await {
                let learned = topology.learns(&declaration, &error);
                let error = LinkError::from(error);
                if !error.closed_channel() {
                    return Err(error);
                }
                channel = link.channel().await?;
                again -= usize::from(learned);
                if !learned || again == 0 {
                    refused.insert(declaration.name().clone(), Refusal::from(&error));
                    break;
                }
            }
        }
        Ok(refused)
    })
    .await
}

#[derive(Debug, Default)]
pub(super) struct Refusals(RwLock<Refused>);

impl Refusals {
    pub(super) fn is_empty(&self) -> bool {
        self.0.read().is_empty()
    }

    /// Stores the result of a declare, and logs changes. It logs one line per reply code, because
    /// without permissions everything is refused.
    pub(super) fn replace(&self, refused: Refused) {
        let mut known = self.0.write();
        let mut news: BTreeMap<Option<u16>, Vec<(&ShortString, &Refusal)>> = BTreeMap::new();
        for (name, refusal) in &refused {
            if known.get(name).map(|known| known.code) != Some(refusal.code) {
                news.entry(refusal.code).or_default().push((name, refusal));
            }
        }
        for refusals in news.into_values() {
            let names: Vec<&str> = refusals.iter().map(|(name, _)| name.as_str()).collect();
            if let Some((_, first)) = refusals.first() {
                tracing::warn!(
                    names = names.join(" "),
                    error = %first,
                    remedy = first.advice(),
                    "RabbitMQ refuses a declaration of the gateway; nothing is sent there"
                );
            }
        }
        let gone: Vec<&str> = known
            .keys()
            .filter(|name| !refused.contains_key(*name))
            .map(ShortString::as_str)
            .collect();
        if !gone.is_empty() {
            tracing::info!(
                names = gone.join(" "),
                "RabbitMQ accepts these declarations again"
            );
        }
        *known = refused;
    }

    pub(super) fn check(
        &self,
        exchange: &ShortString,
        key: &ShortString,
    ) -> Result<(), PublishError> {
        match of(&self.0.read(), [exchange, key]) {
            Some(reason) => Err(PublishError::Refused(reason)),
            None => Ok(()),
        }
    }

    /// Why new messages or new answers cannot be accepted. A refused shard affects only its own
    /// channels.
    pub(super) fn of_new_messages(&self, topology: &Topology) -> Option<String> {
        let refused = self.0.read();
        let (outbound, callbacks) = topology.new_messages();
        let all_shards = outbound.iter().all(|shard| refused.contains_key(shard));
        of(&refused, [topology.exchange_declaration().name()])
            .or_else(|| of(&refused, outbound).filter(|_| all_shards))
            .or_else(|| of(&refused, callbacks))
    }
}

fn of<'a>(refused: &Refused, names: impl IntoIterator<Item = &'a ShortString>) -> Option<String> {
    names
        .into_iter()
        .find_map(|name| Some(format!("{name}: {}", refused.get(name)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rabbitmq::test_log::lines_of;

    /// These queues are refused. The text names the channel, so it differs each time.
    fn refused(code: u16, names: &[&str], channel: u16) -> Refused {
        let refusal = Refusal {
            code: Some(code),
            text: format!("refused on the channel {channel}"),
        };
        let names = names.iter().map(|name| ShortString::from(*name));
        names.map(|name| (name, refusal.clone())).collect()
    }

    #[test]
    fn a_refused_declare_is_logged_once_with_what_to_do() {
        for (code, remedy) in [
            (ACCESS_REFUSED, "grant the user configure, write and read"),
            (PRECONDITION_FAILED, "move its messages away and delete it"),
        ] {
            let refusals = Refusals::default();
            let lines = lines_of(|| {
                for channel in 1..=10 {
                    refusals.replace(refused(code, &["a", "b"], channel));
                }
            });
            let [line] = lines.as_slice() else {
                panic!("{lines:?}")
            };
            assert!(line.starts_with("WARN") && line.contains("a b"), "{line}");
            assert!(line.contains(remedy), "{line}");

            let lines = lines_of(|| {
                refusals.replace(refused(code, &["a", "b", "c"], 11));
                refusals.replace(Refused::new());
                refusals.replace(refused(code, &["a"], 12));
            });
            let levels: Vec<_> = lines.iter().map(|line| &line[..4]).collect();
            assert_eq!(levels, ["WARN", "INFO", "WARN"], "{lines:?}");
        }
    }
}
