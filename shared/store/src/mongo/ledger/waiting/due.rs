//! When messages are due.

use bson::{DateTime, Document, doc};
use mongodb::{Collection, Database, error::Error};
use serde::Deserialize;

use super::{
    super::{WAITING, WAITING_CHANNELS, bulk, primary, row, rows},
    channels,
    row::{outline, read},
};
use crate::{MAX_PAGE, Unavailable};

/// How many messages one step makes due. Each step has its own time limit.
const DUE_STEP: u16 = MAX_PAGE;

/// The earliest time in this field of the channel's messages. Read from the primary: without a
/// message the channel's record would be removed.
pub(super) async fn next(
    waiting: &Collection<Document>,
    field: &str,
    channel: &str,
) -> Result<Option<DateTime>, Unavailable> {
    #[derive(Deserialize)]
    struct Next {
        at: DateTime,
    }

    let next = waiting
        .find_one(doc! { "channel_id": channel, field: { "$exists": true } })
        .projection(doc! { "_id": 0, "at": format!("${field}") })
        .sort(doc! { field: 1, "_id": 1 })
        .selection_criteria(primary())
        .await?;
    let next = next.map(row::<Next>).transpose()?;
    Ok(next.map(|next| next.at))
}

pub(super) async fn wake(
    database: &Database,
    channel: &str,
    now: DateTime,
) -> Result<(), Unavailable> {
    let waiting = database.collection(WAITING);
    if next(&waiting, "due_at", channel).await?.is_some() {
        bulk::update(
            database,
            WAITING_CHANNELS,
            vec![channels::wake(channel, now)],
        )
        .await?;
    }
    Ok(())
}

/// The result of one step that makes messages due.
pub(super) struct DueStep {
    pub(super) changed: u64,
    pub(super) is_last: bool,
}

pub(super) async fn make_due_step(
    waiting: &Collection<Document>,
    channel: &str,
    now: DateTime,
) -> Result<DueStep, Error> {
    #[derive(Deserialize)]
    struct Found {
        #[serde(rename = "_id")]
        id: String,
    }

    let is_later = doc! { "$gt": now };
    let found = waiting
        .find(doc! { "reason": "retry", "channel_id": channel, "due_at": &is_later })
        .projection(doc! { "_id": 1 })
        .sort(doc! { "due_at": 1, "_id": 1 })
        .limit(i64::from(DUE_STEP))
        .selection_criteria(primary())
        .await?;
    let ids: Vec<String> = rows(found, |found: Found| Ok(found.id)).await?;
    let is_last = ids.len() < usize::from(DUE_STEP);
    if ids.is_empty() {
        return Ok(DueStep {
            changed: 0,
            is_last,
        });
    }
    let which = doc! { "_id": { "$in": ids }, "due_at": is_later };
    let change = doc! { "$set": { "due_at": now } };
    let changed = waiting.update_many(which, change).await?.modified_count;
    Ok(DueStep { changed, is_last })
}

pub(super) async fn make_message_due(
    database: &Database,
    id: &str,
    now: DateTime,
) -> Result<u64, Unavailable> {
    let waiting = database.collection::<Document>(WAITING);
    let found = waiting
        .find_one(doc! { "_id": id })
        .projection(outline())
        .selection_criteria(primary());
    let Some(message) = read(found.await?)? else {
        return Ok(0);
    };
    let changed = waiting
        .update_one(
            doc! { "_id": id, "due_at": { "$gt": now } },
            doc! { "$set": { "due_at": now } },
        )
        .await?
        .modified_count;
    wake(database, message.channel_id.as_str(), now).await?;
    Ok(changed)
}
