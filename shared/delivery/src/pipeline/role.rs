//! The seam between the pipeline and a role: what the dispatcher and the forwarder do in their own
//! way.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use roundtrip_broker::{Message, Queue};
use roundtrip_model::{
    ChannelId, DeadReason, Entry, Event, Outcome, SessionId, Signer, decision::DeadKind,
};
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use url::Url;

use crate::{
    RoleName,
    admission::{Deferred, Limits},
};

/// A role that delivers the messages of one queue. [`Pipeline`](super::Pipeline) calls it once for
/// each step of a delivery, and does everything else.
///
/// A role settles nothing and keeps no message, so it cannot lose one. Its futures may be dropped at
/// any await: at the drain deadline the message returns to its queue.
#[async_trait]
pub trait DeliveryRole: Send + Sync + 'static {
    /// What the JSON body of a message decodes to. A body that does not decode is a dead letter.
    type Payload: DeserializeOwned + Send + Sync;
    type Destination: Send + Sync;

    const QUEUE: Queue;
    /// The name of the server that all deliveries go to, if there is one. It has a breaker of its
    /// own, and the name begins its log lines.
    const SHARED_SERVER: Option<&'static str>;
    /// Labels the metrics, and begins the log lines of deliveries, as in `delivery.attempted`.
    const NAME: RoleName;
    /// Begins the log lines of a channel's breaker, as in `channel.opened`.
    const BREAKER_LOG_NAME: &'static str;

    /// The channel that the delivery is admitted by; deliveries without one are admitted together.
    fn channel_id(payload: &Self::Payload) -> Option<&ChannelId>;

    fn session_id(payload: &Self::Payload) -> Option<&SessionId>;

    fn age_from(message: &Message, _payload: &Self::Payload) -> OffsetDateTime {
        message.accepted_at
    }

    /// The time from which no attempt begins. `None` if only the age limits the message.
    fn expires_at(_message: &Message, _payload: &Self::Payload) -> Option<OffsetDateTime> {
        None
    }

    /// Looks up where the payload goes.
    ///
    /// # Errors
    /// [`NoAttempt::Dead`] if the message or its channel is at fault, [`NoAttempt::Deferred`] for
    /// any other reason, such as an unavailable store.
    async fn destination(&self, payload: &Self::Payload) -> Result<Self::Destination, NoAttempt>;

    /// What to post. Every attempt of a message has the same id and, for the same destination, the
    /// same body.
    ///
    /// # Errors
    /// If the payload cannot be written as a body: it becomes a dead letter.
    fn request<'a>(
        &'a self,
        message: &Message,
        payload: &Self::Payload,
        destination: &'a Self::Destination,
    ) -> Result<Request<'a>, serde_json::Error>;

    /// The timeline's entry for an event of this delivery: [`Event::Waiting`],
    /// [`Event::Delivering`] or [`Event::Attempted`]. `None` if the timeline does not show it.
    fn entry(
        message: &Message,
        payload: &Self::Payload,
        at: OffsetDateTime,
        event: Event,
    ) -> Option<Entry>;

    /// Whether a message that cannot go for long waits in the store now. Otherwise it waits in the
    /// broker, however long.
    fn waits_in_store(&self) -> bool {
        false
    }

    /// Reacts to a channel's breaker, which is open for this long or is closed again.
    fn breaker_changed(&self, _channel_id: &ChannelId, _open_for: Option<Duration>) {}

    /// Reacts to the outcome of an attempt. If it returns a deferral, the message waits as the deferral
    /// says, the retry policy's decision is dropped, and the attempt does not count.
    async fn after_attempt(
        &self,
        _payload: &Self::Payload,
        _destination: &Self::Destination,
        _outcome: &Outcome,
    ) -> Option<Deferred> {
        None
    }
}

#[derive(Debug)]
pub struct Request<'a> {
    pub url: &'a Url,
    pub webhook_id: String,
    /// Headers beside those of Standard Webhooks. A name is in lower case.
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
    pub signer: Option<&'a Signer>,
    pub limits: Limits,
    /// The time limit of the exchange; `None` for the configured one.
    pub timeout: Option<Duration>,
    /// The interval after each failed attempt; `None` for the configured schedule.
    pub schedule: Option<&'a [Duration]>,
    /// When the receiver's answer is due; `None` if none is expected in a certain time.
    pub answer: Option<AnswerDue>,
}

/// When the answer of a receiver that accepts the message is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerDue {
    /// The time to answer, counted from the delivery.
    pub within: Duration,
    /// The latest time at which it can be due: from then on no answer is accepted.
    pub until: OffsetDateTime,
}

impl AnswerDue {
    /// The time at which the answer to a message is due that was delivered at this time.
    pub(super) fn after(self, delivered_at: OffsetDateTime) -> OffsetDateTime {
        (delivered_at + self.within).min(self.until)
    }
}

#[derive(Debug)]
pub enum NoAttempt {
    /// No attempt can ever be made: the message is a dead letter.
    Dead(DeadReason),
    /// None can be made now: the message is snoozed.
    Deferred(Deferred),
}

impl From<Deferred> for NoAttempt {
    fn from(deferred: Deferred) -> Self {
        Self::Deferred(deferred)
    }
}

impl From<serde_json::Error> for NoAttempt {
    fn from(error: serde_json::Error) -> Self {
        Self::Dead(undecodable(&error))
    }
}

pub(super) fn undecodable(error: &serde_json::Error) -> DeadReason {
    DeadReason::new(DeadKind::Undecodable, error.to_string())
}
