//! Notices: what an operator should know, posted to the operator's own server.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::{
    decision::DeadKind,
    ids::{CallbackId, ChannelId, MessageId, NoticeId},
};

/// The body of a notice, as Standard Webhooks recommends it: `type`, `timestamp` and `data`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    #[serde(with = "time::serde::rfc3339")]
    pub timestamp: OffsetDateTime,
    #[serde(flatten)]
    pub event: NoticeEvent,
}

/// What is noticed. It holds no text that a producer, a channel or a sessions server wrote: such a
/// text could be of a session that is erased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum NoticeEvent {
    #[serde(rename = "message.dead")]
    MessageDead {
        channel_id: ChannelId,
        message_id: MessageId,
        reason: DeadKind,
    },
    /// The channel accepted the message and did not answer in time.
    #[serde(rename = "message.overdue")]
    MessageOverdue {
        channel_id: ChannelId,
        message_id: MessageId,
    },
    #[serde(rename = "answer.dead")]
    AnswerDead {
        channel_id: ChannelId,
        message_id: MessageId,
        callback_id: CallbackId,
        reason: DeadKind,
    },
    /// The channel's endpoint fails, and deliveries to it stop for this long.
    #[serde(rename = "channel.breaker_opened")]
    BreakerOpened { channel_id: ChannelId, wait_ms: u64 },
    #[serde(rename = "channel.breaker_closed")]
    BreakerClosed { channel_id: ChannelId },
    #[serde(rename = "channel.paused")]
    ChannelPaused { channel_id: ChannelId, by: PausedBy },
    /// More messages than `recorder.high_backlog` are ready in this queue.
    #[serde(rename = "backlog.high")]
    BacklogHigh { queue: String, ready: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PausedBy {
    /// A call of the API.
    Call,
    /// The channel's endpoint, which responded 410.
    Gone,
}

impl NoticeEvent {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::MessageDead { .. } => "message.dead",
            Self::MessageOverdue { .. } => "message.overdue",
            Self::AnswerDead { .. } => "answer.dead",
            Self::BreakerOpened { .. } => "channel.breaker_opened",
            Self::BreakerClosed { .. } => "channel.breaker_closed",
            Self::ChannelPaused { .. } => "channel.paused",
            Self::BacklogHigh { .. } => "backlog.high",
        }
    }

    pub const fn channel_id(&self) -> Option<&ChannelId> {
        match self {
            Self::MessageDead { channel_id, .. }
            | Self::MessageOverdue { channel_id, .. }
            | Self::AnswerDead { channel_id, .. }
            | Self::BreakerOpened { channel_id, .. }
            | Self::BreakerClosed { channel_id }
            | Self::ChannelPaused { channel_id, .. } => Some(channel_id),
            Self::BacklogHigh { .. } => None,
        }
    }

    pub const fn message_id(&self) -> Option<MessageId> {
        match self {
            Self::MessageDead { message_id, .. }
            | Self::MessageOverdue { message_id, .. }
            | Self::AnswerDead { message_id, .. } => Some(*message_id),
            _ => None,
        }
    }

    /// The id of a notice in this window of time. The events of a kind that concern the same channel,
    /// or the same queue, share the id, so that the receiver knows the second one as a repeat.
    pub fn id(&self, window: i64) -> NoticeId {
        let subject = match self {
            Self::BacklogHigh { queue, .. } => queue.as_str(),
            _ => self.channel_id().map_or("", ChannelId::as_str),
        };
        // A zero byte is in no name and in no channel id.
        let parts = format!("{}\0{subject}\0{window}", self.name());
        let digest: [u8; 32] = Sha256::digest(parts).into();
        let mut half = [0; 16];
        half.copy_from_slice(&digest[..16]);
        NoticeId::derived(half)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use time::macros::datetime;

    use super::*;

    fn dead(channel_id: &str) -> NoticeEvent {
        NoticeEvent::MessageDead {
            channel_id: channel_id.parse().unwrap(),
            message_id: MessageId::generate(),
            reason: DeadKind::Expired,
        }
    }

    #[test]
    fn the_body_is_that_of_standard_webhooks() {
        let notice = Notice {
            timestamp: datetime!(2026-11-29 12:00 UTC),
            event: NoticeEvent::ChannelPaused {
                channel_id: "slack".parse().unwrap(),
                by: PausedBy::Gone,
            },
        };
        let body = json!({
            "type": "channel.paused",
            "timestamp": "2026-11-29T12:00:00Z",
            "data": {"channel_id": "slack", "by": "gone"},
        });
        assert_eq!(serde_json::to_value(&notice).unwrap(), body);
        assert_eq!(serde_json::from_value::<Notice>(body).unwrap(), notice);
    }

    #[test]
    fn the_name_of_an_event_is_its_type() {
        let body = serde_json::to_value(dead("a")).unwrap();
        assert_eq!(body["type"], dead("a").name());
    }

    #[test]
    fn events_of_a_channel_share_an_id_in_a_window() {
        assert_eq!(dead("a").id(7), dead("a").id(7));
        assert_ne!(dead("a").id(7), dead("a").id(8));
        assert_ne!(dead("a").id(7), dead("b").id(7));
        let closed = NoticeEvent::BreakerClosed {
            channel_id: "a".parse().unwrap(),
        };
        assert_ne!(dead("a").id(7), closed.id(7));
    }
}
