//! Which publish a message belongs to that came back.
//!
//! Invariant: a publish that came back fails, and no other one does. lapin hands a returned message to
//! whichever confirm it completes *next* on the channel, which need not be that message's own.

use lapin::{Confirmation, message::BasicReturnMessage, types::ShortString};

use super::{link::LinkError, publisher::Job, topology::Topology};
use crate::PublishError;

/// A publish that has come to its end.
pub(super) struct Completed {
    pub(super) job: Job,
    pub(super) result: lapin::Result<Confirmation>,
}

/// The messages that came back and whose own confirm has not been seen yet.
#[derive(Debug, Default)]
pub(super) struct Returned(Vec<BasicReturnMessage>);

impl Returned {
    /// Why this publish came back, if it did. Two publishes alike in destination and id carry the
    /// same parcel to the same queue: it does not matter which of them is told.
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

/// Answers the callers, and says whether a message came back.
pub(super) fn answer(
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
        let answer = match publish.result {
            Ok(Confirmation::Ack(_)) => {
                back.map_or(Ok(()), |reason| Err(PublishError::returned(&reason)))
            }
            Ok(Confirmation::Nack(_)) => Err(PublishError::nacked()),
            // Without confirms it would look like success; the channel has them on.
            Ok(Confirmation::NotRequested) => Err(PublishError::Unconfirmed),
            Err(error) => {
                lost = Some(error);
                Err(PublishError::Unconfirmed)
            }
        };
        publish.job.answer(answer);
    }
    lost.map_or(Ok(any), |error| Err(error.into()))
}
