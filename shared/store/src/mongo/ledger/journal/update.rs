//! How entries change the documents of their messages and answers: many in one command.
//!
//! Invariant: the operators commute and can be repeated (`$max`, `$min`, and `$set` to values that
//! never change), so that concurrent recorders need no coordination.

use bson::{Document, doc};
use roundtrip_model::{Entry, journal::Position};

use super::super::{bulk, stored};
use crate::{
    Unavailable,
    ledger::{AnswerChange, MessageProjection, StoredContent, answers_in, message_of},
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

/// The updates for the answers among these entries. A repeated answer has a later time. Of an answer
/// without a message the document may begin with what became of it.
pub(super) fn answers(entries: &[Entry]) -> Result<Vec<Vec<Document>>, Unavailable> {
    let statements = answers_in(entries).map(|change| {
        let (entry, callback_id, change) = change.map_err(Unavailable::new)?;
        let mut set = doc! { "session_id": entry.session_id.as_str() };
        if let Some((message_id, channel_id)) = message_of(entry) {
            set.insert("message_id", message_id.to_string());
            set.insert("channel_id", channel_id.as_str());
        }
        let mut update = doc! { "$min": { "at": stored(entry.at) } };
        let bytes = match change {
            AnswerChange::Content(content) => {
                let content = serde_json::to_string(content).map_err(Unavailable::new)?;
                let bytes = content.len();
                set.insert("content", content);
                bytes
            }
            AnswerChange::Latest(latest) => {
                let bytes = latest.len();
                update.insert("$max", doc! { "latest": latest });
                bytes
            }
        };
        update.insert("$set", set);
        let statement = doc! {
            "q": { "_id": callback_id.to_string() },
            "u": update,
            "upsert": true,
        };
        Ok((statement, bytes))
    });
    let statements = statements.collect::<Result<Vec<_>, Unavailable>>()?;
    Ok(bulk::in_commands(statements))
}

fn statement(projection: &MessageProjection<'_>) -> Document {
    let mut set = doc! {
        "channel_id": projection.channel_id.as_str(),
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
        // goes with its rank. If both are equal, the document that also has the time of the answer
        // (`a`) is greater.
        "position": position,
        "round": i64::from(projection.replay_count),
        "updated_at": stored(projection.updated_at),
    };
    doc! {
        "q": { "_id": projection.message_id.to_string() },
        "u": { "$max": max, "$set": set },
        "upsert": true,
    }
}

#[cfg(test)]
mod tests;
