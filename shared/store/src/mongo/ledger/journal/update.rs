//! How entries change their messages' documents: many messages in one command.
//!
//! Invariant: the operators commute and can be repeated (`$max`, and `$set` to values that never
//! change), so that concurrent recorders need no coordination.

use bson::{Document, doc};
use roundtrip_model::{Entry, journal::Content};

use super::super::{bulk, stored};
use crate::ledger::MessageProjection;

/// The updates for these entries, one for each message, in as few commands as their size allows.
pub(super) fn commands(entries: &[Entry]) -> Vec<Vec<Document>> {
    let projections = MessageProjection::by(entries);
    bulk::in_commands(projections.map(|projection| {
        let content = projection.content.map_or(0, content_bytes);
        (statement(&projection), content)
    }))
}

fn content_bytes(content: &Content) -> usize {
    content.message.get().len() + content.response_url.len()
}

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

#[cfg(test)]
mod tests;
