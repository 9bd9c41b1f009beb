//! A message of a queue as an AMQP message.
//!
//! | part | holds |
//! |---|---|
//! | body | the message's body |
//! | `message_id` | the message's id |
//! | `timestamp` | when it was accepted, in seconds |
//! | `content_type`, `delivery_mode` | `application/json`, 2 (on disk) |
//! | header `roundtrip-tries` | number of attempts |
//! | header `roundtrip-round` | number of replays; absent if zero |
//! | header `roundtrip-accepted-at` | when it was accepted, in milliseconds since 1970 |
//! | headers `roundtrip-dead-kind`, `roundtrip-dead-detail` | why it is dead |
//! | headers `roundtrip-due-at`, `roundtrip-wait-reason` | from when on it may be attempted, in milliseconds since 1970, and why it waits |
//!
//! Invariant: every message decodes, whatever program published it. Missing parts get defaults that
//! are equal on every delivery, so that it can be handled, or refused, like any other.

use bytes::Bytes;
use lapin::{
    BasicProperties,
    message::Delivery,
    types::{AMQPValue, FieldTable, ShortString},
};
use roundtrip_model::{
    Clock, DeadReason, Waiting, decision::DeadKind, millis, waiting::WaitReason,
};
use time::OffsetDateTime;

use super::{hash::fnv1a, topology::Address};
use crate::{Message, PublishError, Queue};

pub(super) const ATTEMPTS: &str = "roundtrip-tries";
pub(super) const REPLAY_COUNT: &str = "roundtrip-round";
pub(super) const ACCEPTED_AT: &str = "roundtrip-accepted-at";
pub(super) const DEAD_KIND: &str = "roundtrip-dead-kind";
pub(super) const DEAD_DETAIL: &str = "roundtrip-dead-detail";
pub(super) const DUE_AT: &str = "roundtrip-due-at";
pub(super) const WAIT_REASON: &str = "roundtrip-wait-reason";

/// RabbitMQ's own header on a dead-lettered message: where and why, the latest first.
pub(super) const X_DEATH: &str = "x-death";

const PERSISTENT: u8 = 2;

/// Bytes kept of a reason's detail: all headers must fit one frame.
const MAX_DETAIL: usize = 4096;

#[derive(Debug, Clone)]
pub(super) struct Outgoing {
    pub(super) to: Address,
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
}

impl Outgoing {
    /// The AMQP message; `expiry` in milliseconds if it goes to a delay tier.
    ///
    /// # Errors
    /// [`PublishError::Refused`] if the id is longer than AMQP allows.
    pub(super) fn new(
        to: Address,
        message: Message,
        expiry: Option<u64>,
    ) -> Result<Self, PublishError> {
        let id = ShortString::try_new(message.id)
            .map_err(|error| PublishError::Refused(format!("the message's id: {error}")))?;
        let mut headers = FieldTable::default();
        headers.insert(
            ATTEMPTS.into(),
            AMQPValue::LongLongInt(message.attempts.into()),
        );
        if message.replay_count > 0 {
            headers.insert(
                REPLAY_COUNT.into(),
                AMQPValue::LongLongInt(message.replay_count.into()),
            );
        }
        headers.insert(
            ACCEPTED_AT.into(),
            AMQPValue::LongLongInt(millis::of(message.accepted_at)),
        );
        if let Some(reason) = &message.dead {
            let detail = &reason.detail[..reason.detail.floor_char_boundary(MAX_DETAIL)];
            headers.insert(DEAD_KIND.into(), text(reason.kind.as_str()));
            headers.insert(DEAD_DETAIL.into(), text(detail));
        }
        if let Some(waiting) = &message.waiting {
            headers.insert(
                DUE_AT.into(),
                AMQPValue::LongLongInt(millis::of(waiting.due_at)),
            );
            headers.insert(WAIT_REASON.into(), text(waiting.reason.as_str()));
        }
        let seconds = u64::try_from(message.accepted_at.unix_timestamp()).unwrap_or_default();
        let mut properties = BasicProperties::default()
            .with_message_id(id)
            .with_content_type("application/json".into())
            .with_delivery_mode(PERSISTENT)
            .with_timestamp(seconds)
            .with_headers(headers);
        if let Some(expiry) = expiry {
            properties = properties.with_expiration(expiry.to_string().into());
        }
        Ok(Self {
            to,
            properties,
            body: message.body,
        })
    }
}

pub(super) fn decode(delivery: Delivery, queue: Queue, clock: &dyn Clock) -> Message {
    let Delivery {
        properties, data, ..
    } = delivery;
    let empty = FieldTable::default();
    let headers = properties.headers().as_ref().unwrap_or(&empty);
    let accepted_at = integer(headers, ACCEPTED_AT)
        .and_then(|millis| millis::time(millis).ok())
        .or_else(|| {
            let seconds = i64::try_from((*properties.timestamp())?).ok()?;
            OffsetDateTime::from_unix_timestamp(seconds).ok()
        })
        .filter(millis::can_be_shown)
        .unwrap_or_else(|| clock.now());
    Message {
        id: properties.message_id().as_ref().map_or_else(
            || format!("foreign-{:016x}", fnv1a(&data)),
            |id| id.as_str().to_owned(),
        ),
        attempts: count(headers, ATTEMPTS),
        replay_count: count(headers, REPLAY_COUNT),
        accepted_at,
        dead: (queue == queue.dead()).then(|| dead_reason(headers)),
        waiting: waiting(headers).filter(|_| queue == Queue::Waiting),
        body: Bytes::from(data),
    }
}

/// Why a message is in a dead queue: the gateway, the broker or another program put it there.
fn dead_reason(headers: &FieldTable) -> DeadReason {
    if let Some(kind) = string(headers, DEAD_KIND).and_then(DeadKind::named) {
        return DeadReason::new(kind, string(headers, DEAD_DETAIL).unwrap_or_default());
    }
    let Some(AMQPValue::FieldArray(deaths)) = headers.inner().get(X_DEATH) else {
        return DeadReason::new(DeadKind::Undecodable, "it was moved here without a reason");
    };
    let latest = deaths.as_slice().iter().find_map(AMQPValue::as_field_table);
    let part = |name| {
        latest
            .and_then(|death| string(death, name))
            .unwrap_or("unknown")
    };
    DeadReason::new(
        DeadKind::DeliveryLimit,
        format!(
            "RabbitMQ dead-lettered it from {}: {}",
            part("queue"),
            part("reason")
        ),
    )
}

/// Why a message waits; `None` if another program published it.
fn waiting(headers: &FieldTable) -> Option<Waiting> {
    let due_at = millis::time(integer(headers, DUE_AT)?).ok()?;
    Some(Waiting {
        due_at: Some(due_at).filter(millis::can_be_shown)?,
        reason: WaitReason::named(string(headers, WAIT_REASON)?)?,
    })
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn string<'a>(headers: &'a FieldTable, name: &str) -> Option<&'a str> {
    match headers.inner().get(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    }
}

fn count(headers: &FieldTable, name: &str) -> u32 {
    integer(headers, name)
        .and_then(|count| u32::try_from(count).ok())
        .unwrap_or_default()
}

/// Reads any of AMQP's integer types, because brokers and tools convert between them.
fn integer(headers: &FieldTable, name: &str) -> Option<i64> {
    Some(match *headers.inner().get(name)? {
        AMQPValue::ShortShortInt(value) => value.into(),
        AMQPValue::ShortShortUInt(value) => value.into(),
        AMQPValue::ShortInt(value) => value.into(),
        AMQPValue::ShortUInt(value) => value.into(),
        AMQPValue::LongInt(value) => value.into(),
        AMQPValue::LongUInt(value) => value.into(),
        AMQPValue::LongLongInt(value) => value,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use lapin::types::FieldArray;
    use proptest::prelude::*;
    use roundtrip_model::SystemClock;
    use time::macros::datetime;

    use super::*;

    fn received(properties: BasicProperties, body: &[u8]) -> Delivery {
        let mut delivery = Delivery::mock(1, "".into(), "".into(), false, body.to_vec());
        delivery.properties = properties;
        delivery
    }

    fn round_trip(message: Message, queue: Queue) -> Message {
        let outgoing = Outgoing::new(Address::dead(queue), message, None).unwrap();
        decode(
            received(outgoing.properties, &outgoing.body),
            queue,
            &SystemClock,
        )
    }

    fn message() -> Message {
        Message {
            id: "msg_1".to_owned(),
            attempts: 0,
            replay_count: 0,
            accepted_at: datetime!(2026-11-23 12:00:00.123 UTC),
            dead: None,
            waiting: None,
            body: Bytes::from_static(b"{}"),
        }
    }

    proptest! {
        #[test]
        fn a_message_survives_the_wire_unchanged(id in "[a-z0-9_]{1,40}", attempts: u32, replay_count: u32, millis in 0_i64..4_000_000_000_000, body: Vec<u8>) {
            let message = Message { id, attempts, replay_count, accepted_at: millis::time(millis).unwrap(), dead: None, waiting: None, body: body.into() };
            prop_assert_eq!(round_trip(message.clone(), Queue::Outbound), message);
        }
    }

    #[test]
    fn a_dead_message_keeps_its_reason() {
        let dead = Some(DeadReason::new(DeadKind::UnknownChannel, "no channel `x`"));
        let message = Message { dead, ..message() };
        assert_eq!(round_trip(message.clone(), Queue::OutboundDead), message);
    }

    #[test]
    fn a_reason_longer_than_a_frame_is_cut_between_characters() {
        let dead = Some(DeadReason::new(DeadKind::Refused, "é".repeat(200_000)));
        let back = round_trip(Message { dead, ..message() }, Queue::OutboundDead);
        assert_eq!(back.dead.unwrap().detail, "é".repeat(MAX_DETAIL / 2));
    }

    #[test]
    fn a_foreign_message_decodes_the_same_every_time() {
        let decoded = || {
            decode(
                received(BasicProperties::default(), b"hello"),
                Queue::Outbound,
                &SystemClock,
            )
        };
        assert_eq!(
            (decoded().id, decoded().attempts, decoded().dead),
            (decoded().id, 0, None)
        );
        assert!(decoded().id.starts_with("foreign-"));
    }

    #[test]
    fn a_foreign_message_was_accepted_when_its_timestamp_says() {
        let properties = BasicProperties::default().with_timestamp(1_700_000_000);
        let decoded = decode(received(properties, b""), Queue::Callbacks, &SystemClock);
        assert_eq!(decoded.accepted_at.unix_timestamp(), 1_700_000_000);
    }

    #[test]
    fn the_brokers_own_dead_letters_have_a_reason() {
        let mut death = FieldTable::default();
        death.insert("queue".into(), text("roundtrip.outbound.0"));
        death.insert("reason".into(), text("delivery_limit"));
        let mut headers = FieldTable::default();
        headers.insert(
            X_DEATH.into(),
            AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::FieldTable(death)])),
        );
        let properties = BasicProperties::default().with_headers(headers);
        let reason = decode(received(properties, b""), Queue::OutboundDead, &SystemClock)
            .dead
            .unwrap();
        assert_eq!(reason.kind, DeadKind::DeliveryLimit);
        assert_eq!(
            reason.detail,
            "RabbitMQ dead-lettered it from roundtrip.outbound.0: delivery_limit"
        );
    }
}
