//! A channel's answer on its way to the sessions server.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::ids::{CallbackId, ChannelId, MessageId, SessionId};

/// What a channel posted to `/webhook-response`, as it waits in the callbacks queue.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Callback {
    /// Made when the answer was accepted; also the forward's `webhook-id`.
    pub callback_id: CallbackId,
    pub session_id: SessionId,
    /// The message that is answered, if the request had a callback token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<MessageId>,
    /// The channel that answers, if the request had a callback token.
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
    pub fn forward_body(&self) -> ForwardBody<'_> {
        ForwardBody {
            message_id: self.message_id.as_ref(),
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
