//! What is the forwarder's own: the headers and the body of a forward, and the entries of answers and
//! inbound messages in the timeline.

use std::sync::Arc;

use async_trait::async_trait;
use roundtrip_broker::{Message, Queue};
use roundtrip_delivery::{
    DeliveryRole, EgressPolicy, Limits, NoAttempt, Pipeline, Request, RoleName,
};
use roundtrip_journal::Journal;
use roundtrip_model::{
    Callback, ChannelId, Clock, Entry, EntryId, Event, MessageKind, SessionId, Signer,
    WrongSettings,
};
use roundtrip_tls::Roots;
use time::OffsetDateTime;
use url::Url;

use crate::{BodyFields, Config};

const KIND: &str = "roundtrip-kind";
const MESSAGE_ID: &str = "roundtrip-message-id";
const CHANNEL_ID: &str = "roundtrip-channel-id";

pub struct Forwarder {
    sessions_server: Url,
    signer: Option<Signer>,
    body: BodyFields,
}

impl Forwarder {
    /// A pipeline that posts to this URL, signed if there is a signer. It trusts these certificate
    /// authorities beside the public ones, and journals its attempts. The URL is the operator's
    /// own, so the egress rules do not apply.
    pub fn pipeline(
        config: &Config,
        sessions_server: Url,
        signer: Option<Signer>,
        roots: Roots,
        journal: Journal,
        clock: Arc<dyn Clock>,
    ) -> Result<Pipeline<Self>, WrongSettings> {
        let role = Self {
            sessions_server,
            signer,
            body: config.body,
        };
        let egress_policy = EgressPolicy::Unrestricted(roots);
        Pipeline::new(role, &config.settings(), egress_policy, journal, clock)
    }
}

#[async_trait]
impl DeliveryRole for Forwarder {
    type Payload = Callback;
    /// All answers go to one server.
    type Destination = ();

    const QUEUE: Queue = Queue::Callbacks;
    const SHARED_SERVER: Option<&'static str> = Some("sessions_server");
    const NAME: RoleName = RoleName::Forward;
    const BREAKER_LOG_NAME: &'static str = "answers";

    fn channel_id(callback: &Callback) -> Option<&ChannelId> {
        callback.channel_id.as_ref()
    }

    fn session_id(callback: &Callback) -> Option<&SessionId> {
        Some(&callback.session_id)
    }

    async fn destination(&self, _: &Callback) -> Result<(), NoAttempt> {
        Ok(())
    }

    fn request<'a>(
        &'a self,
        message: &Message,
        callback: &Callback,
        (): &'a (),
    ) -> Result<Request<'a>, serde_json::Error> {
        let body = match self.body {
            BodyFields::Full => callback.forward_body(),
            BodyFields::Bare => callback.bare_forward_body(),
        };
        Ok(Request {
            url: &self.sessions_server,
            webhook_id: message.id.clone(),
            headers: headers(callback),
            body: serde_json::to_vec(&body)?.into(),
            signer: self.signer.as_ref(),
            limits: Limits::NONE,
            timeout: None,
            schedule: None,
            answer: None,
        })
    }

    /// The entry of an inbound message, or that of an answer's wait or attempt.
    fn entry(
        message: &Message,
        callback: &Callback,
        at: OffsetDateTime,
        event: Event,
    ) -> Option<Entry> {
        let event = match (callback.callback_id, event) {
            (None, event) => event,
            (
                Some(callback_id),
                Event::Waiting {
                    attempts,
                    reason,
                    until,
                    ..
                },
            ) => Event::Waiting {
                callback_id: Some(callback_id),
                attempts,
                reason,
                until,
            },
            (Some(callback_id), Event::Attempted(attempt)) => Event::ForwardAttempted {
                callback_id,
                attempt,
            },
            _ => return None,
        };
        Some(Entry {
            entry_id: EntryId::generate(),
            message_id: callback.message_id,
            channel_id: callback.channel_id.clone(),
            session_id: callback.session_id.clone(),
            kind: callback.kind(),
            replay_count: message.replay_count,
            at,
            event,
        })
    }
}

/// The headers that name the kind and the ids, for a router that does not read the body.
fn headers(callback: &Callback) -> Vec<(&'static str, String)> {
    let kind = match callback.kind() {
        MessageKind::Outbound => "answer",
        MessageKind::Inbound => "inbound",
    };
    let ids = [
        (
            MESSAGE_ID,
            callback.answered_message().map(ToString::to_string),
        ),
        (
            CHANNEL_ID,
            callback.channel_id.as_ref().map(ToString::to_string),
        ),
    ];
    let ids = ids.into_iter().filter_map(|(name, id)| Some((name, id?)));
    ids.chain([(KIND, kind.to_owned())]).collect()
}

#[cfg(test)]
mod tests;
