//! Large messages: each is published on a channel of its own.
//!
//! RabbitMQ closes the channel of a message that exceeds its `max_message_size`, which clients
//! cannot read. On a shared channel it would be unknown which publish was too large, and the others
//! would get no confirm.
//!
//! Invariant: a channel carries one large message at a time.

use lapin::Confirmation;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{
    channel::OpenChannel,
    confirming::{confirming, publish},
    link::Link,
    link_error::LinkError,
    publisher::{Job, Publisher},
    refusals::PRECONDITION_FAILED,
    topology::Topology,
};
use crate::PublishError;

/// Bodies of this size or more are large. RabbitMQ's `max_message_size` must not be lower.
pub(super) const LARGE: usize = 64 << 10;

const MAX_CHANNELS: usize = 16;

pub(super) struct LargeChannels {
    /// One per channel that is publishing.
    permits: Semaphore,
    idle: Mutex<Vec<OpenChannel>>,
}

impl LargeChannels {
    pub(super) fn new() -> Self {
        Self {
            permits: Semaphore::new(MAX_CHANNELS),
            idle: Mutex::default(),
        }
    }

    /// Publishes a message and replies to its caller. Returns whether it was returned because its
    /// queue is missing.
    pub(super) async fn send(
        &self,
        link: &Link,
        publisher: &Publisher,
        topology: &Topology,
        job: Job,
    ) -> bool {
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await;
        if job.is_given_up() {
            return false;
        }
        let idle = self.idle.lock().pop();
        let opened = match idle.filter(|channel| channel.status().connected()) {
            Some(channel) => Ok(channel),
            None => confirming(link).await,
        };
        let channel = match opened {
            Ok(channel) => channel,
            Err(error) => {
                job.reply(Err(PublishError::Unavailable(error.to_string())));
                return false;
            }
        };
        let (result, returned) = match publish(&channel, publisher, topology, &job.outgoing).await {
            Ok(Confirmation::Ack(None)) => (Ok(()), false),
            Ok(Confirmation::Ack(Some(message))) => {
                (Err(PublishError::returned(&message.reply_text)), true)
            }
            Ok(Confirmation::Nack(_)) => (Err(PublishError::nacked()), false),
            Ok(Confirmation::NotRequested) => (Err(PublishError::Unconfirmed), false),
            Err(error) => match LinkError::from(error).reply_code() {
                Some(PRECONDITION_FAILED) => (Err(PublishError::TooLarge), false),
                _ => (Err(PublishError::Unconfirmed), false),
            },
        };
        job.reply(result);
        self.idle.lock().push(channel);
        returned
    }
}
