//! How entries change their messages' documents: many messages in one command.
//!
//! Invariant: the operators commute and can be repeated (`$max`, and `$set` to values that never
//! change), so that concurrent recorders need no coordination.

use bson::{Document, doc};
use mongodb::{
    Database,
    error::{IndexedWriteError, WriteConcernError},
};
use roundtrip_model::{Entry, journal::Content};
use serde::Deserialize;

use super::super::{super::DUPLICATE_KEY, MESSAGES, document, row, stored};
use crate::{Unavailable, ledger::MessageProjection};

/// How many bytes of content one command carries. The server's limit is 16 MiB, including
/// everything else in the command.
const COMMAND_BYTES: usize = 8 << 20;
/// The approximate size of an update without its content.
const UPDATE_BYTES: usize = 1 << 10;
/// How often an update is sent that collides with another process's insert of the same message. The
/// second attempt finds the message.
const COLLISION_ATTEMPTS: u32 = 3;

/// The updates for these entries, one for each message, in as few commands as their size allows.
pub(super) fn commands(entries: &[Entry]) -> Vec<Vec<Document>> {
    let mut commands = Vec::new();
    let (mut updates, mut bytes) = (Vec::new(), 0);
    for projection in MessageProjection::by(entries) {
        let more = UPDATE_BYTES + projection.content.map_or(0, content_bytes);
        if bytes > 0 && bytes + more > COMMAND_BYTES {
            commands.push(std::mem::take(&mut updates));
            bytes = 0;
        }
        bytes += more;
        updates.push(statement(&projection));
    }
    commands.push(updates);
    commands
}

fn content_bytes(content: &Content) -> usize {
    content.message.get().len() + content.response_url.len()
}

/// A statement of an `update` command.
fn statement(projection: &MessageProjection<'_>) -> Document {
    let mut set = doc! {
        "channel_id": projection.entry.channel_id.as_str(),
        "session_id": projection.entry.session_id.as_str(),
    };
    if let Some(content) = projection.content {
        set.insert(
            "content",
            doc! {
                "message": content.message.get(),
                "response_url": content.response_url.as_str(),
            },
        );
    }
    let max = doc! {
        // Documents compare field by field in order. So `$max` compares the ranks, and the state
        // goes with its rank.
        "position": { "r": projection.position.rank, "s": projection.position.state.as_str() },
        "round": i64::from(projection.replay_count),
        "updated_at": stored(projection.updated_at),
    };
    doc! {
        "q": { "_id": projection.entry.message_id.to_string() },
        "u": { "$max": max, "$set": set },
        "upsert": true,
    }
}

/// The server's response to an `update` command.
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

/// Updates many messages, each differently, in one round trip. The driver's own call for that needs
/// server 8.0; every supported server has this command.
pub(super) async fn send(
    database: &Database,
    mut updates: Vec<Document>,
) -> Result<(), Unavailable> {
    let refused = |code, message| Err(Unavailable::new(Refused { code, message }));
    for try_number in 1_u32.. {
        let mut command = doc! {
            "update": MESSAGES,
            "updates": updates.clone(),
            "ordered": false,
        };
        // The driver adds the write concern only to its own calls.
        if let Some(concern) = database.write_concern() {
            command.insert("writeConcern", document(concern)?);
        }
        let answer = database.run_command(command).await?;
        let answer: Updated = row(answer)?;
        let mut collided = Vec::new();
        for error in answer.write_errors {
            match updates.get(error.index) {
                Some(update) if error.code == DUPLICATE_KEY && try_number < COLLISION_ATTEMPTS => {
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
