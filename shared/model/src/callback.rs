//! What goes to the sessions server: a channel's answer, or an inbound message.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    ids::{CallbackId, ChannelId, MessageId, SessionId},
    journal::MessageKind,
};

/// What a channel posted to `/webhook-response` or to its `/inbound`, as it waits in the callbacks
/// queue.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Callback {
    /// Made when the answer was accepted; also the forward's `webhook-id`. `None` for an inbound
    /// message, which has only its message id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback_id: Option<CallbackId>,
    pub session_id: SessionId,
    /// The message that is answered, if the request had a callback token; or the inbound message
    /// itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<MessageId>,
    /// The channel that answers, if the request had a callback token; or that of the inbound
    /// message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel_id: Option<ChannelId>,
    /// The channel's JSON text, unchanged; any value.
    pub response_data: Box<RawValue>,
}

/// The body of a forward. The two ids are absent if they are unknown or not wanted.
#[derive(Debug, Serialize)]
pub struct ForwardBody<'a> {
    session_id: &'a SessionId,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<&'a MessageId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel_id: Option<&'a ChannelId>,
    response_data: &'a RawValue,
}

impl Callback {
    /// The kind of the message that it belongs to.
    pub const fn kind(&self) -> MessageKind {
        match self.callback_id {
            Some(_) => MessageKind::Outbound,
            None => MessageKind::Inbound,
        }
    }

    /// The message that it answers, if it is known.
    pub fn answered_message(&self) -> Option<&MessageId> {
        self.message_id
            .as_ref()
            .filter(|_| self.callback_id.is_some())
    }

    pub fn forward_body(&self) -> ForwardBody<'_> {
        ForwardBody {
            message_id: self.answered_message(),
            channel_id: self.channel_id.as_ref(),
            ..self.bare_forward_body()
        }
    }

    /// The body with `session_id` and `response_data` alone.
    pub fn bare_forward_body(&self) -> ForwardBody<'_> {
        ForwardBody {
            session_id: &self.session_id,
            message_id: None,
            channel_id: None,
            response_data: &self.response_data,
        }
    }
}
