//! Checks a message, enqueues it, and records it in the journal.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{future::OptionFuture, join};
use roundtrip_broker::{Message, Route};
use roundtrip_model::{
    ChannelId, Entry, Event, LogThrottle, MessageId, OutboundMessage, SessionId, Waiting,
    channel::http_url, journal::Content, message::is_empty_json, waiting::WaitReason,
};
use roundtrip_store::{AnswerRecord, KnownChannel};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use super::times::{self, Times};
use crate::{
    history::ShownAnswer,
    ingress::Ingress,
    metrics::{self, ACCEPT_DURATION, ACCEPTED},
    problem::{Kind, Problem},
};

/// How long a response waits for the journal entry, which the broker confirms like the message.
pub(crate) const ENTRY_LIMIT: Duration = Duration::from_secs(2);

static NOT_JOURNALED: LogThrottle = LogThrottle::new();

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SendMessage {
    pub(crate) channel_id: ChannelId,
    pub(crate) session_id: SessionId,
    pub(crate) message: Box<RawValue>,
    pub(crate) response_url: Option<String>,
    #[serde(default, deserialize_with = "crate::json::times::rfc3339")]
    pub(crate) deliver_at: Option<OffsetDateTime>,
    #[serde(default, deserialize_with = "crate::json::times::rfc3339")]
    pub(crate) expires_at: Option<OffsetDateTime>,
    #[serde(default, deserialize_with = "crate::json::times::duration")]
    pub(crate) answer_within: Option<Duration>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Accepted {
    success: bool,
    pub(super) message_id: MessageId,
    session_id: SessionId,
    status: &'static str,
    /// What the producer waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<ShownAnswer>,
    /// The message was accepted before, and this repeats the response.
    #[serde(
        rename = "idempotent_replayed",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub(crate) again: bool,
}

impl Accepted {
    pub(crate) const fn new(message_id: MessageId, session_id: SessionId) -> Self {
        Self {
            success: true,
            message_id,
            session_id,
            status: "queued",
            answer: None,
            again: false,
        }
    }

    /// The response if the producer waited for this answer.
    pub(super) fn with_answer(&self, answer: AnswerRecord) -> Self {
        Self {
            status: "answered",
            answer: Some(answer.into()),
            ..Self::new(self.message_id, self.session_id.clone())
        }
    }

    /// The response to a message that was accepted before under this id.
    pub(crate) fn again(message_id: MessageId, session_id: SessionId) -> Self {
        Self {
            again: true,
            ..Self::new(message_id, session_id)
        }
    }
}

impl Ingress {
    pub(crate) async fn accept(
        &self,
        send: SendMessage,
        message_id: MessageId,
    ) -> Result<Accepted, Problem> {
        let SendMessage {
            channel_id,
            session_id,
            message,
            response_url,
            deliver_at,
            expires_at,
            answer_within,
        } = send;
        if is_empty_json(&message) {
            return Err(Problem::invalid_field("message", "must not be empty"));
        }
        let named_url = response_url.as_deref().map(http_url).transpose();
        let named_url =
            named_url.map_err(|problem| Problem::invalid_field("response_url", problem))?;
        let answer_within_ms =
            times::answer_within(answer_within, named_url.as_ref(), &self.own_response_url)?;
        let times = Times::check(deliver_at, expires_at, self.clock.now())?;
        let known = self.channel_cache.get(&channel_id).await?;
        // A channel that another client stored may lack an endpoint; its messages could only become
        // dead letters.
        let target = &known.target;
        if let Err(error) = &target.endpoint {
            return Err(Problem::invalid([error.clone()]));
        }

        let message = OutboundMessage {
            message_id,
            channel_id,
            channel_uid: Some(target.uid.clone()),
            session_id,
            message,
            response_url: response_url.unwrap_or_else(|| self.own_response_url.to_string()),
            deliver_at: times.deliver_at,
            expires_at: times.expires_at,
            answer_within_ms,
        };
        let accepted_at = self.clock.now();
        let waiting = waits(&message, &known, accepted_at);
        self.enqueue(&message, accepted_at, waiting).await?;
        Ok(Accepted::new(message_id, message.session_id))
    }

    /// Publishes a message, then its journal entry. The order matters: a refused message must leave
    /// no entry, and an entry cannot be withdrawn. A message that cannot go now goes where it waits,
    /// so that it stands before no other channel's.
    async fn enqueue(
        &self,
        message: &OutboundMessage,
        accepted_at: OffsetDateTime,
        waiting: Option<Waiting>,
    ) -> Result<(), Problem> {
        let began = Instant::now();
        let queued = Message {
            waiting,
            ..Message::new(
                message.message_id.to_string(),
                accepted_at,
                encode(message)?,
            )
        };
        let route = match waiting {
            Some(_) => Route::Waiting,
            None => Route::Outbound(&message.channel_id),
        };
        self.broker.publish(route, queued).await?;
        ACCEPTED.inc(metrics::Accepted::Message);
        let content = Content {
            message: message.message.clone(),
            response_url: message.response_url.clone(),
            answer_within_ms: message.answer_within_ms,
        };
        let event = Event::Accepted(Some(Box::new(content)));
        let accepted = self.record(Entry::of(message, 0, accepted_at, event));
        let waits = waiting.map(|Waiting { due_at, reason }| {
            let event = Event::Waiting {
                callback_id: None,
                attempts: 0,
                reason,
                until: (due_at > accepted_at).then_some(due_at),
            };
            self.record(Entry::of(message, 0, accepted_at, event))
        });
        join!(accepted, OptionFuture::from(waits));
        ACCEPT_DURATION.observe_since(metrics::Accepted::Message, began);
        Ok(())
    }

    /// Waits, up to a limit, until the journal has the entry: what it records has happened already.
    pub(crate) async fn record(&self, entry: Entry) {
        let message_id = entry.message_id.map(tracing::field::display);
        if !self.journal.append_within(entry, ENTRY_LIMIT).await
            && let Some(suppressed) = NOT_JOURNALED.due(Instant::now())
        {
            tracing::warn!(
                message_id,
                suppressed,
                "responded before the journal had the entry"
            );
        }
    }
}

/// Why the message waits, and from when on it is due. `None` if it can be delivered now.
fn waits(
    message: &OutboundMessage,
    known: &KnownChannel,
    accepted_at: OffsetDateTime,
) -> Option<Waiting> {
    if let Some(deliver_at) = message.deliver_at {
        // The channel's state is looked at when the message is due.
        return Some(Waiting::new(deliver_at, WaitReason::Scheduled));
    }
    let is_held = known.held_until.is_some_and(|until| accepted_at < until);
    let reason = if known.target.settings.paused {
        WaitReason::ChannelPaused
    } else if is_held {
        WaitReason::EarlierMessages
    } else {
        return None;
    };
    Some(Waiting::new(accepted_at, reason))
}

pub(crate) fn encode(value: &impl Serialize) -> Result<Bytes, Problem> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| {
        tracing::error!(%error, "a message could not be encoded");
        Problem::from(Kind::Internal)
    })
}
