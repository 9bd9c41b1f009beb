//! Matches a returned message to its publish.
//!
//! Invariant: a publish fails as returned only if its own message was returned. lapin attaches a
//! returned message to the *next* confirm that completes on the channel, which may belong to
//! another message.

use lapin::{Confirmation, message::BasicReturnMessage, types::ShortString};

use super::{link_error::LinkError, publisher::Job, topology::Topology};
use crate::PublishError;

pub(super) struct Completed {
    pub(super) job: Job,
    pub(super) result: lapin::Result<Confirmation>,
}

/// Returned messages whose own confirm has not completed yet.
#[derive(Debug, Default)]
pub(super) struct Returned(Vec<BasicReturnMessage>);

impl Returned {
    /// Why this publish was returned, if it was. Two publishes with equal destination and id carry
    /// the same message, so either of them may get the error.
    fn take(&mut self, topology: &Topology, publish: &Completed) -> Option<ShortString> {
        let outgoing = &publish.job.outgoing;
        let at = self.0.iter().position(|message| {
            message.properties.message_id() == outgoing.properties.message_id()
                && message.routing_key == *topology.key(outgoing.to)
                && message.exchange == *topology.exchange(outgoing.to)
        })?;
        Some(self.0.swap_remove(at).reply_text)
    }
}

/// Replies to the callers, and returns whether a message was returned.
pub(super) fn reply(
    mut completed: Vec<Completed>,
    returned: &mut Returned,
    topology: &Topology,
) -> Result<bool, LinkError> {
    let before = returned.0.len();
    for publish in &mut completed {
        if let Ok(Confirmation::Ack(message) | Confirmation::Nack(message)) = &mut publish.result {
            returned.0.extend(message.take());
        }
    }
    let any = returned.0.len() > before;
    let mut lost = None;
    for publish in completed {
        let back = returned.take(topology, &publish);
        let result = match publish.result {
            Ok(Confirmation::Ack(_)) => {
                back.map_or(Ok(()), |reason| Err(PublishError::returned(&reason)))
            }
            Ok(Confirmation::Nack(_)) => Err(PublishError::nacked()),
            // Without confirms it would look like success; confirms are enabled on the channel.
            Ok(Confirmation::NotRequested) => Err(PublishError::Unconfirmed),
            Err(error) => {
                lost = Some(error);
                Err(PublishError::Unconfirmed)
            }
        };
        publish.job.reply(result);
    }
    lost.map_or(Ok(any), |error| Err(error.into()))
}
