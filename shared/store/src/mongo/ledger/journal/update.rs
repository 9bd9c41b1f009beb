//! How entries change the documents of their messages and answers: many in one command.
//!
//! Invariant: the operators commute and can be repeated (`$max`, `$min`, and `$set` to values that
//! never change), so that concurrent recorders need no coordination.

use bson::{Document, doc};
use roundtrip_model::{Entry, journal::Position};

use super::super::{bulk, stored};
use crate::{
    Unavailable,
    ledger::{MessageProjection, StoredContent, answers_in},
};

/// The updates for these entries, one for each message, in as few commands as their size allows.
pub(super) fn commands(entries: &[Entry]) -> Result<Vec<Vec<Document>>, Unavailable> {
    let projections = MessageProjection::by(entries).map_err(Unavailable::new)?;
    Ok(bulk::in_commands(projections.map(|projection| {
        let content = projection.content.as_ref();
        let bytes = content.map_or(0, StoredContent::bytes);
        (statement(&projection), bytes)
    })))
}

/// The updates for the answers among these entries. A repeated answer has a later time.
pub(super) fn answers(entries: &[Entry]) -> Result<Vec<Vec<Document>>, Unavailable> {
    let statements = answers_in(entries).map(|(entry, callback_id, content)| {
        let content = serde_json::to_string(content).map_err(Unavailable::new)?;
        let bytes = content.len();
        let statement = doc! {
            "q": { "_id": callback_id.to_string() },
            "u": {
                "$min": { "at": stored(entry.at) },
                "$setOnInsert": {
                    "message_id": entry.message_id.to_string(),
                    "channel_id": entry.channel_id.as_str(),
                    "session_id": entry.session_id.as_str(),
                    "content": content,
                },
            },
            "upsert": true,
        };
        Ok((statement, bytes))
    });
    let statements = statements.collect::<Result<Vec<_>, Unavailable>>()?;
    Ok(bulk::in_commands(statements))
}

fn statement(projection: &MessageProjection<'_>) -> Document {
    let mut set = doc! {
        "channel_id": projection.entry.channel_id.as_str(),
        "session_id": projection.entry.session_id.as_str(),
    };
    if let Some(content) = &projection.content {
        let mut stored = doc! {
            "message": &*content.message,
            "response_url": content.response_url,
        };
        if let Some(within) = content.answer_within_ms {
            stored.insert("answer_within_ms", within.cast_signed());
        }
        set.insert("content", stored);
    }
    let Position {
        rank,
        state,
        answer_by,
    } = projection.position;
    let mut position = doc! { "r": rank, "s": state.as_str() };
    if let Some(answer_by) = answer_by {
        position.insert("a", stored(answer_by));
    }
    let max = doc! {
        // Documents compare field by field in order. So `$max` compares the ranks, and the state
        // goes with its rank. Of two equal ones the longer is greater: the one with a time for the
        // answer.
        "position": position,
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
