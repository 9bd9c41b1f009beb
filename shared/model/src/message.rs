//! A message on its way to a channel.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use crate::ids::{ChannelId, ChannelUid, MessageId, SessionId};

/// What a producer posted, as it waits in the outbound queue.
///
/// `message` stays the producer's text. It is checked to be JSON and then carried byte by byte, so
/// that numbers keep their digits and nothing is parsed twice.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OutboundMessage {
    /// Made when the message was accepted; also the delivery's `webhook-id`.
    pub message_id: MessageId,
    pub channel_id: ChannelId,
    /// Distinguishes the channels that have used this id, one after the other. `None` in a message
    /// that an earlier version queued: it goes to any channel with this id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel_uid: Option<ChannelUid>,
    /// The session that the answer must name.
    pub session_id: SessionId,
    /// Any JSON value that is not empty.
    pub message: Box<RawValue>,
    pub response_url: String,
    /// The earliest time of the first attempt, if it was in the future at the acceptance.
    #[serde(
        default,
        with = "crate::millis::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub deliver_at: Option<OffsetDateTime>,
    /// From this time on no attempt begins, unless the message was replayed.
    #[serde(
        default,
        with = "crate::millis::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub expires_at: Option<OffsetDateTime>,
    /// How long the channel has to answer after it accepted the message. `None` is as long as the
    /// channel's settings say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_within_ms: Option<u64>,
}

#[derive(Debug, Serialize)]
pub struct DeliveryBody<'a> {
    session_id: &'a SessionId,
    message: &'a RawValue,
    response_url: &'a str,
}

impl OutboundMessage {
    /// Whether this message was accepted for this channel, and not for an earlier one with its id.
    pub fn is_for(&self, channel: &ChannelUid) -> bool {
        self.channel_uid.as_ref().is_none_or(|uid| uid == channel)
    }

    /// The time from which its age counts: that of its acceptance, or a later `deliver_at`.
    pub fn age_from(&self, accepted_at: OffsetDateTime) -> OffsetDateTime {
        self.deliver_at
            .map_or(accepted_at, |deliver_at| deliver_at.max(accepted_at))
    }

    /// When it expires. A replayed message does not expire: an operator wants it delivered.
    pub fn expires_at(&self, replay_count: u32) -> Option<OffsetDateTime> {
        self.expires_at.filter(|_| replay_count == 0)
    }

    /// The body to post to the channel's endpoint. The channel answers to `response_url`: the
    /// message's own, or the gateway's with a token.
    pub fn delivery_body<'a>(&'a self, response_url: &'a str) -> DeliveryBody<'a> {
        DeliveryBody {
            session_id: &self.session_id,
            message: &self.message,
            response_url,
        }
    }
}

/// Whether a JSON value is empty: `null`, `""`, `{}` or `[]`.
pub fn is_empty_json(value: &RawValue) -> bool {
    let text = value.get().trim();
    let inside = |open, close| {
        text.strip_prefix(open)
            .and_then(|rest| rest.strip_suffix(close))
            .is_some_and(|inside| inside.trim().is_empty())
    };
    text == "null" || text == r#""""# || inside('{', '}') || inside('[', ']')
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use time::macros::datetime;

    use super::*;

    const BODY: &str = r#"{"message_id":"msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f","channel_id":"c","session_id":"s","message":"hi","response_url":"http://h/"}"#;

    #[rstest]
    #[case("null", true)]
    #[case(r#""""#, true)]
    #[case("{ }", true)]
    #[case("[\n]", true)]
    #[case(r#"" ""#, false)]
    #[case("0", false)]
    #[case("false", false)]
    #[case("[null]", false)]
    #[case(r#"{"text":"hi"}"#, false)]
    fn only_values_that_say_nothing_are_empty(#[case] json: &str, #[case] empty: bool) {
        let value: Box<RawValue> = serde_json::from_str(json).unwrap();
        assert_eq!(is_empty_json(&value), empty);
    }

    /// Earlier versions queued such messages, and read those of this version.
    #[test]
    fn a_message_without_times_is_queued_as_before() {
        let message: OutboundMessage = serde_json::from_str(BODY).unwrap();
        assert_eq!((message.deliver_at, message.expires_at), (None, None));
        assert_eq!(serde_json::to_string(&message).unwrap(), BODY);
    }

    #[test]
    fn the_times_are_queued_as_milliseconds() {
        let times = r#","deliver_at":1795000000123,"expires_at":1795000000124}"#;
        let body = BODY.replace('}', times);
        let message: OutboundMessage = serde_json::from_str(&body).unwrap();
        let deliver_at = datetime!(2026-11-18 11:06:40.123 UTC);
        assert_eq!(message.deliver_at, Some(deliver_at));
        assert_eq!(serde_json::to_string(&message).unwrap(), body);
    }

    #[test]
    fn the_age_counts_from_the_later_of_acceptance_and_deliver_at() {
        let mut message: OutboundMessage = serde_json::from_str(BODY).unwrap();
        let at = |minute| datetime!(2026-11-23 12:00 UTC) + time::Duration::minutes(minute);
        assert_eq!(message.age_from(at(1)), at(1));
        message.deliver_at = Some(at(2));
        assert_eq!(message.age_from(at(1)), at(2));
        // A replay counts as an acceptance.
        assert_eq!(message.age_from(at(3)), at(3));
    }

    #[test]
    fn a_replayed_message_does_not_expire() {
        let mut message: OutboundMessage = serde_json::from_str(BODY).unwrap();
        assert_eq!(message.expires_at(0), None);
        message.expires_at = Some(datetime!(2026-11-23 12:00 UTC));
        assert_eq!(message.expires_at(0), message.expires_at);
        assert_eq!(message.expires_at(1), None);
    }

    #[test]
    fn the_delivery_is_the_seeds_three_fields_and_keeps_the_message_to_the_byte() {
        let message: OutboundMessage = serde_json::from_str(
            r#"{"message_id":"msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f","channel_id":"c",
               "session_id":"abc123","message":{"n":12345678901234567890.10},
               "response_url":"http://localhost:8000/webhook-response"}"#,
        )
        .unwrap();
        assert_eq!(
            serde_json::to_string(&message.delivery_body(&message.response_url)).unwrap(),
            r#"{"session_id":"abc123","message":{"n":12345678901234567890.10},"response_url":"http://localhost:8000/webhook-response"}"#
        );
    }
}
