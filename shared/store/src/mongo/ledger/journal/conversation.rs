//! The two reads of a conversation.

use bson::{DateTime, Document, doc};
use futures::TryStreamExt;
use mongodb::Cursor;
use roundtrip_model::{ChannelId, SessionId};
use serde::de::DeserializeOwned;

use super::super::{Unreadable, of_channels, row, say_passed_over};
use crate::{QueryError, TurnCursor, ledger::Part};

/// Finds the messages, and the answers, of a session after the cursor.
pub(super) fn filters(
    session: &SessionId,
    channels: Option<&[ChannelId]>,
    after: Option<&TurnCursor>,
) -> (Document, Document) {
    let mut said = doc! { "session_id": session.as_str() };
    if let Some(asked) = of_channels(None, channels) {
        said.insert("channel_id", asked);
    }
    let mut answered = said.clone();
    if let Some(after) = after {
        said.insert("_id", doc! { "$gt": after.message_id() });
        let (at, id) = after.answer();
        let at = DateTime::from_millis(at);
        let later = doc! { "at": { "$gt": at } };
        let same_time = doc! { "at": at, "_id": { "$gt": id } };
        answered.insert("$or", [later, same_time].to_vec());
        // Lets the index find the place.
        answered.insert("at", doc! { "$gte": at });
    }
    (said, answered)
}

/// Reads until the page is full. Passes over what cannot be read.
pub(super) async fn part<R: DeserializeOwned, T>(
    mut found: Cursor<Document>,
    limit: u16,
    read: impl Fn(R) -> Result<T, Unreadable>,
    bytes: impl Fn(&T) -> usize,
) -> Result<Part<T>, QueryError> {
    let mut part = Part::of(limit);
    while let Some(document) = found.try_next().await? {
        match row(document).and_then(&read) {
            Ok(one) => {
                let bytes = bytes(&one);
                if !part.add(one, bytes) {
                    break;
                }
            }
            Err(Unreadable(error)) => {
                say_passed_over(&error);
                part.pass_over();
            }
        }
    }
    Ok(part)
}
