//! The documents of entries and of messages.

use bson::DateTime;
use roundtrip_model::{ChannelId, Entry, EntryId, MessageId, MessageKind, SessionId, State};
use serde::{Deserialize, Serialize};

use super::super::{Unreadable, read_time, stored};
use crate::{MessageContent, MessageRecord, Unavailable, ledger::stored_event};

#[derive(Serialize, Deserialize)]
pub(super) struct EntryRow {
    #[serde(rename = "_id")]
    entry_id: EntryId,
    message_id: MessageId,
    round: u32,
    at: DateTime,
    /// JSON, which keeps the full range of an attempt's numbers.
    event: String,
}

impl EntryRow {
    pub(super) fn of(message_id: MessageId, entry: &Entry) -> Result<Self, Unavailable> {
        let event = stored_event(&entry.event).map_err(Unavailable::new)?;
        Ok(Self {
            entry_id: entry.entry_id,
            message_id,
            round: entry.replay_count,
            at: stored(entry.at),
            event,
        })
    }

    pub(super) fn entry(&self, message: &MessageRecord) -> Result<Entry, Unreadable> {
        let event = message.event(&self.event);
        let event = event.map_err(|error| Unreadable(error.into()))?;
        Ok(Entry {
            entry_id: self.entry_id,
            message_id: Some(self.message_id),
            channel_id: Some(message.channel_id.clone()),
            session_id: message.session_id.clone(),
            kind: message.kind,
            replay_count: self.round,
            at: read_time(self.at)?,
            event,
        })
    }
}

#[derive(Deserialize)]
pub(super) struct MessageRow {
    #[serde(rename = "_id")]
    message_id: MessageId,
    channel_id: ChannelId,
    session_id: SessionId,
    position: PositionRow,
    round: u32,
    updated_at: DateTime,
    content: Option<ContentRow>,
    erased_at: Option<DateTime>,
}

#[derive(Deserialize)]
pub(super) struct PositionRow {
    /// Zero if only the state was read.
    #[serde(default, rename = "r")]
    rank: i64,
    #[serde(rename = "s")]
    pub(super) state: State,
    #[serde(rename = "a")]
    answer_by: Option<DateTime>,
}

#[derive(Deserialize)]
struct ContentRow {
    message: String,
    response_url: String,
    answer_within_ms: Option<u64>,
}

impl MessageRow {
    pub(super) fn record(self) -> Result<MessageRecord, Unreadable> {
        let kind = MessageKind::of_rank(self.position.rank);
        let content = self.content.map(|content| {
            let ContentRow {
                message,
                response_url,
                answer_within_ms,
            } = content;
            MessageContent::read(kind, message, response_url, answer_within_ms)
        });
        let content = content
            .transpose()
            .map_err(|error| Unreadable(error.into()))?;
        Ok(MessageRecord {
            message_id: self.message_id,
            channel_id: self.channel_id,
            session_id: self.session_id,
            kind,
            state: self.position.state,
            replay_count: self.round,
            answer_by: self.position.answer_by.map(read_time).transpose()?,
            updated_at: read_time(self.updated_at)?,
            content,
            contents_erased_at: self.erased_at.map(read_time).transpose()?,
        })
    }
}
