//! What one page of a replay publishes.

use roundtrip_broker::{Message, Route};
use roundtrip_model::{
    ChannelId, Entry, EntryId, Event, MessageId, MessageKind, OutboundMessage, ReplayId, SessionId,
    journal::After,
};
use roundtrip_store::{
    DeadFilter, DeadLetter, DeadQueue, MessageContent, MessageFilter, MessageRecord, ReplaySource,
};
use time::OffsetDateTime;

pub(super) struct Item {
    pub(super) cursor: String,
    /// `None` if it is skipped: it is still under way, or its content is not known.
    pub(super) message: Option<(Destination, Message)>,
    /// Whether it is skipped because its contents were erased.
    pub(super) is_erased: bool,
    pub(super) dead_id: Option<String>,
    subject: Option<(MessageId, ChannelId, SessionId)>,
    kind: MessageKind,
}

pub(super) enum Destination {
    Outbound(ChannelId),
    Callbacks,
    Notices,
}

impl Destination {
    pub(super) fn route(&self) -> Route<'_> {
        match self {
            Self::Outbound(channel_id) => Route::Outbound(channel_id),
            Self::Callbacks => Route::Callbacks,
            Self::Notices => Route::Notices,
        }
    }
}

/// Limits a replay to what existed when it was requested. So a message that fails again after the
/// replay is not replayed a second time. Inbound messages, of which only a part may be kept, are
/// replayed as dead letters only.
pub(super) fn before(source: ReplaySource, created_at: OffsetDateTime) -> ReplaySource {
    let bound = |until: Option<OffsetDateTime>| {
        Some(until.map_or(created_at, |until| until.min(created_at)))
    };
    match source {
        ReplaySource::DeadLetters(filter) => ReplaySource::DeadLetters(DeadFilter {
            until: bound(filter.until),
            ..filter
        }),
        ReplaySource::Messages(filter) => ReplaySource::Messages(MessageFilter {
            until: bound(filter.until),
            kind: Some(MessageKind::Outbound),
            ..filter
        }),
    }
}

/// `accepted_at` becomes the replay's own time, from which the message's age counts again.
pub(super) fn from_letter(letter: DeadLetter, now: OffsetDateTime) -> Item {
    let destination = match letter.queue {
        DeadQueue::Outbound => letter.channel_id.clone().map(Destination::Outbound),
        // An unreadable answer has no session.
        DeadQueue::Callbacks => letter
            .session_id
            .is_some()
            .then_some(Destination::Callbacks),
        DeadQueue::Notices => Some(Destination::Notices),
    };
    let is_erased = letter.contents_erased_at.is_some();
    let destination = destination.filter(|_| !is_erased);
    let kind = letter.kind();
    let message = Message {
        replay_count: letter.replay_count + 1,
        ..Message::new(letter.webhook_id, now, letter.body)
    };
    let subject = letter
        .message_id
        .zip(letter.channel_id)
        .zip(letter.session_id);
    Item {
        cursor: letter.dead_id.clone(),
        message: destination.map(|destination| (destination, message)),
        is_erased,
        subject: subject.map(|((message, channel), session)| (message, channel, session)),
        dead_id: Some(letter.dead_id),
        kind,
    }
}

/// Whether the latest delivery of a message has ended: the channel accepted it, or it became a dead
/// letter. The replays of answers are no deliveries.
pub(super) fn delivery_has_ended(entries: &[Entry]) -> bool {
    let of_delivery = |entry: &&Entry| {
        !matches!(
            entry.event,
            Event::ForwardAttempted { .. } | Event::AnswerDead { .. } | Event::Replayed { .. }
        )
    };
    let ends = |event: &Event| match event {
        Event::Attempted(attempt) => !matches!(attempt.next, After::Retry { .. }),
        Event::Dead(_) => true,
        _ => false,
    };
    let deliveries = || entries.iter().filter(of_delivery);
    let latest = deliveries().map(|entry| entry.replay_count).max();
    deliveries().any(|entry| Some(entry.replay_count) == latest && ends(&entry.event))
}

/// A message under way is skipped, because it would be delivered twice.
pub(super) fn from_message(record: MessageRecord, is_under_way: bool, now: OffsetDateTime) -> Item {
    let MessageRecord {
        message_id,
        channel_id,
        session_id,
        replay_count,
        content,
        contents_erased_at,
        ..
    } = record;
    let is_erased = contents_erased_at.is_some() && !is_under_way;
    let content = content.filter(|_| !is_under_way);
    let message = content.and_then(|content| {
        let MessageContent::Outbound(content) = content else {
            return None;
        };
        let message = OutboundMessage {
            message_id,
            channel_id: channel_id.clone(),
            channel_uid: None,
            session_id: session_id.clone(),
            message: content.message,
            response_url: content.response_url,
            deliver_at: None,
            expires_at: None,
            answer_within_ms: content.answer_within_ms,
        };
        let body = serde_json::to_vec(&message).ok()?;
        let message = Message {
            replay_count: replay_count + 1,
            ..Message::new(message_id.to_string(), now, body.into())
        };
        Some((Destination::Outbound(channel_id.clone()), message))
    });
    Item {
        cursor: message_id.to_string(),
        message,
        is_erased,
        subject: Some((message_id, channel_id, session_id)),
        dead_id: None,
        kind: MessageKind::Outbound,
    }
}

impl Item {
    /// The journal entry of the replay, if the item was published and belongs to a message.
    pub(super) fn entry(&self, replay_id: ReplayId, at: OffsetDateTime) -> Option<Entry> {
        let (message_id, channel_id, session_id) = self.subject.clone()?;
        let (_, message) = self.message.as_ref()?;
        Some(Entry {
            entry_id: EntryId::generate(),
            message_id,
            channel_id,
            session_id,
            kind: self.kind,
            replay_count: message.replay_count,
            at,
            event: Event::Replayed { replay_id },
        })
    }
}
