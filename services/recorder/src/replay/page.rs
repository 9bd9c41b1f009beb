//! What one page of a replay publishes.

use roundtrip_broker::{Message, Route};
use roundtrip_model::{
    CallbackId, ChannelId, Entry, EntryId, Event, MessageId, MessageKind, OutboundMessage,
    ReplayId, SessionId, journal::After,
};
use roundtrip_store::{
    AnswerFilter, DeadFilter, DeadLetter, DeadQueue, MessageContent, MessageFilter, MessageRecord,
    ReplaySource, SkipReason,
};
use time::OffsetDateTime;

pub(super) struct Item {
    /// The id of the message, the answer or the dead letter.
    pub(super) id: String,
    pub(super) cursor: String,
    pub(super) work: Work,
    pub(super) dead_id: Option<String>,
    /// `None` if a dead letter cannot be read.
    pub(super) subject: Option<Subject>,
}

pub(super) enum Work {
    Publish(Destination, Message),
    /// This replay published it before a crash.
    Published,
    Skip(SkipReason),
}

pub(super) struct Subject {
    pub(super) message_id: Option<MessageId>,
    pub(super) channel_id: Option<ChannelId>,
    pub(super) session_id: SessionId,
    pub(super) kind: MessageKind,
    /// The answer, if it is one.
    pub(super) callback_id: Option<CallbackId>,
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
        ReplaySource::Answers(filter) => ReplaySource::Answers(AnswerFilter {
            until: bound(filter.until),
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
    let kind = letter.kind();
    let callback_id = match letter.queue {
        DeadQueue::Outbound | DeadQueue::Notices => None,
        DeadQueue::Callbacks => letter.webhook_id.parse().ok(),
    };
    let is_erased = letter.contents_erased_at.is_some();
    let message = Message {
        replay_count: letter.replay_count + 1,
        ..Message::new(letter.webhook_id, now, letter.body)
    };
    Item {
        id: letter.dead_id.clone(),
        cursor: letter.dead_id.clone(),
        work: match destination {
            _ if is_erased => Work::Skip(SkipReason::ContentsErased),
            None => Work::Skip(SkipReason::ContentUnknown),
            Some(destination) => Work::Publish(destination, message),
        },
        subject: letter.session_id.map(|session_id| Subject {
            message_id: letter.message_id,
            channel_id: letter.channel_id,
            session_id,
            kind,
            callback_id,
        }),
        dead_id: Some(letter.dead_id),
    }
}

/// Whether the latest delivery of a message has ended: the channel accepted it, or it became a dead
/// letter. The replays of answers are no deliveries.
pub(super) fn delivery_has_ended(entries: &[Entry]) -> bool {
    let of_delivery = |entry: &&Entry| {
        !matches!(
            entry.event,
            Event::ForwardAttempted { .. }
                | Event::AnswerDead { .. }
                | Event::Replayed { .. }
                | Event::Waiting {
                    callback_id: Some(_),
                    ..
                }
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
    let outbound = content.and_then(|content| {
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
        Some(message)
    });
    let work = match outbound {
        _ if is_under_way => Work::Skip(SkipReason::UnderWay),
        _ if contents_erased_at.is_some() => Work::Skip(SkipReason::ContentsErased),
        None => Work::Skip(SkipReason::ContentUnknown),
        Some(message) => Work::Publish(Destination::Outbound(channel_id.clone()), message),
    };
    Item {
        id: message_id.to_string(),
        cursor: message_id.to_string(),
        work,
        subject: Some(Subject {
            message_id: Some(message_id),
            channel_id: Some(channel_id),
            session_id,
            kind: MessageKind::Outbound,
            callback_id: None,
        }),
        dead_id: None,
    }
}

impl Item {
    /// The journal entry of the replay, if the item was published.
    pub(super) fn entry(&self, replay_id: ReplayId, at: OffsetDateTime) -> Option<Entry> {
        let subject = self.subject.as_ref()?;
        let Work::Publish(_, message) = &self.work else {
            return None;
        };
        Some(Entry {
            entry_id: EntryId::generate(),
            message_id: subject.message_id,
            channel_id: subject.channel_id.clone(),
            session_id: subject.session_id.clone(),
            kind: subject.kind,
            replay_count: message.replay_count,
            at,
            event: Event::Replayed {
                replay_id,
                callback_id: subject.callback_id,
            },
        })
    }
}
