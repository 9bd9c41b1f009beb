//! A waiting message as it is stored.

use bson::{Binary, DateTime, Document, doc};
use roundtrip_model::{ChannelId, SessionId, waiting::WaitReason};
use serde::{Deserialize, Serialize};

use super::super::{Unreadable, binary, no_body, read_time, row, stored, stored_from};
use crate::{Unavailable, WaitingMessage};

/// Everything except the body.
pub(in super::super) fn outline() -> Document {
    doc! { "body": 0 }
}

pub(super) fn read(found: Option<Document>) -> Result<Option<WaitingMessage>, Unavailable> {
    let message = found.map(|found| row::<Row>(found)?.message());
    Ok(message.transpose()?)
}

/// A message as it is stored.
#[derive(Serialize, Deserialize)]
pub(in super::super) struct Row {
    #[serde(rename = "_id")]
    id: String,
    channel_id: ChannelId,
    session_id: SessionId,
    replay_count: u32,
    attempts: u32,
    accepted_at: DateTime,
    due_at: DateTime,
    reason: WaitReason,
    /// A partial index holds the messages that have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<DateTime>,
    /// Absent in an outline.
    #[serde(default = "no_body")]
    body: Binary,
}

impl Row {
    pub(super) fn of(message: &WaitingMessage) -> Self {
        Self {
            id: message.id.clone(),
            channel_id: message.channel_id.clone(),
            session_id: message.session_id.clone(),
            replay_count: message.replay_count,
            attempts: message.attempts,
            accepted_at: stored(message.accepted_at),
            due_at: stored_from(message.due_at),
            reason: message.reason,
            expires_at: message.expires_at.map(stored_from),
            body: binary(&message.body),
        }
    }

    pub(in super::super) fn message(self) -> Result<WaitingMessage, Unreadable> {
        Ok(WaitingMessage {
            id: self.id,
            channel_id: self.channel_id,
            session_id: self.session_id,
            replay_count: self.replay_count,
            attempts: self.attempts,
            accepted_at: read_time(self.accepted_at)?,
            due_at: read_time(self.due_at)?,
            reason: self.reason,
            expires_at: self.expires_at.map(read_time).transpose()?,
            body: self.body.bytes.into(),
        })
    }
}

/// An update that stores this message if it is not stored yet, or with lower counts. Otherwise it
/// finds no document, and its insert is a duplicate.
pub(super) fn replacement(row: &Document) -> Document {
    let mut fields = row.clone();
    let id = fields.remove("_id");
    let [replay_count, attempts] =
        ["replay_count", "attempts"].map(|field| fields.get(field).cloned());
    let mut change = doc! { "$set": &fields };
    if !fields.contains_key("expires_at") {
        change.insert("$unset", doc! { "expires_at": "" });
    }
    doc! {
        "q": { "_id": id, "$or": [
            { "replay_count": { "$lt": &replay_count } },
            { "replay_count": replay_count, "attempts": { "$lt": attempts } },
        ] },
        "u": change,
        "upsert": true,
    }
}
