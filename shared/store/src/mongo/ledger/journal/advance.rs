//! How entries change their messages' documents: many messages in one command.
//!
//! Invariant: the operators commute and may be repeated (`$max`, `$set` to what never changes), so
//! that recorders need not agree on anything.

use std::collections::BTreeMap;

use bson::{DateTime, Document, doc};
use mongodb::{
    Database,
    error::{IndexedWriteError, WriteConcernError},
};
use roundtrip_model::{
    Entry, Event,
    journal::{Content, Position},
};
use serde::Deserialize;

use super::super::{
    super::{DUPLICATE_KEY, away},
    MESSAGES, document, row, stored,
};
use crate::StoreError;

/// How many bytes of content one command carries; the server takes 16 MiB, with all that is
/// around them.
const COMMAND_BYTES: usize = 8 << 20;
/// About what an update takes beside its content.
const UPDATE_BYTES: usize = 1 << 10;
/// How often an update is sent that collides with another process's insert of the same message.
/// The second time finds the message there.
const COLLISION_TRIES: u32 = 3;

/// How far some entries bring a message.
struct Advance<'a> {
    first: &'a Entry,
    position: Position,
    round: u32,
    updated_at: DateTime,
    content: Option<&'a Content>,
}

impl<'a> Advance<'a> {
    fn of(entry: &'a Entry) -> Self {
        let mut advance = Self {
            first: entry,
            position: entry.position(),
            round: entry.round,
            updated_at: stored(entry.at),
            content: None,
        };
        advance.take(entry);
        advance
    }

    fn take(&mut self, entry: &'a Entry) {
        self.position = self.position.max(entry.position());
        self.round = self.round.max(entry.round);
        self.updated_at = self.updated_at.max(stored(entry.at));
        if let Event::Accepted(content) = &entry.event {
            self.content = Some(content);
        }
    }

    fn bytes(&self) -> usize {
        let said = |content: &Content| content.message.get().len() + content.response_url.len();
        UPDATE_BYTES + self.content.map_or(0, said)
    }

    /// A statement of an `update` command.
    fn update(&self) -> Document {
        let mut set = doc! {
            "channel_id": self.first.channel_id.as_str(),
            "session_id": self.first.session_id.as_str(),
        };
        if let Some(content) = self.content {
            set.insert(
                "content",
                doc! {
                    "message": content.message.get(),
                    "response_url": content.response_url.as_str(),
                },
            );
        }
        let max = doc! {
            // Documents compare field by field in their order, so the rank decides; and the
            // greatest rank brings its state with it.
            "position": { "r": self.position.rank, "s": self.position.state.as_str() },
            "round": i64::from(self.round),
            "updated_at": self.updated_at,
        };
        doc! {
            "q": { "_id": self.first.message_id.to_string() },
            "u": { "$max": max, "$set": set },
            "upsert": true,
        }
    }
}

/// The updates that these entries come to, one of each message, and as many together as one
/// command carries.
pub(super) fn commands(entries: &[Entry]) -> Vec<Vec<Document>> {
    let mut advances = BTreeMap::new();
    for entry in entries {
        advances
            .entry(entry.message_id)
            .and_modify(|advance: &mut Advance<'_>| advance.take(entry))
            .or_insert_with(|| Advance::of(entry));
    }
    let mut commands = Vec::new();
    let (mut updates, mut bytes) = (Vec::new(), 0);
    for advance in advances.values() {
        if bytes > 0 && bytes + advance.bytes() > COMMAND_BYTES {
            commands.push(std::mem::take(&mut updates));
            bytes = 0;
        }
        bytes += advance.bytes();
        updates.push(advance.update());
    }
    commands.push(updates);
    commands
}

/// What the server answers to an `update` command.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Updated {
    #[serde(default)]
    write_errors: Vec<IndexedWriteError>,
    write_concern_error: Option<WriteConcernError>,
}

/// An update that the server did not make, or did not make durable.
#[derive(Debug, thiserror::Error)]
#[error("the server answered with error {code}: {message}")]
struct Refused {
    code: i32,
    message: String,
}

/// Updates many messages, each in a way of its own, in one round trip. The driver's own call for
/// that needs server 8.0; the command is older than any that is supported.
pub(super) async fn update(
    database: &Database,
    mut updates: Vec<Document>,
) -> Result<(), StoreError> {
    let refused =
        |code, message: String| Err(StoreError::Away(Box::new(Refused { code, message })));
    for try_number in 1_u32.. {
        let mut command = doc! {
            "update": MESSAGES,
            "updates": updates.clone(),
            "ordered": false,
        };
        // The driver adds it to its own calls only.
        if let Some(concern) = database.write_concern() {
            command.insert("writeConcern", document(concern)?);
        }
        let answer = database.run_command(command).await.map_err(away)?;
        let answer: Updated = row(answer)?;
        let mut collided = Vec::new();
        for error in answer.write_errors {
            match updates.get(error.index) {
                Some(update) if error.code == DUPLICATE_KEY && try_number < COLLISION_TRIES => {
                    collided.push(update.clone());
                }
                _ => return refused(error.code, error.message),
            }
        }
        if let Some(error) = answer.write_concern_error {
            return refused(error.code, error.message);
        }
        if collided.is_empty() {
            break;
        }
        updates = collided;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
