//! The indexes that the collections need.
//!
//! Invariant: making them again changes nothing, and one that cannot be made as things are is told
//! of and gone without: it costs speed, or uniqueness, and never the service.

use std::time::Duration;

use bson::{Document, doc};
use mongodb::{
    Database, IndexModel,
    error::{Error, ErrorKind},
    options::IndexOptions,
};
use tracing::warn;

use super::{
    DUPLICATE_KEY, channels,
    ledger::{DEAD_LETTERS, ENTRIES, IDEMPOTENCY, MESSAGES, REPLAYS},
};

/// The server's codes for an index that is there with other options, or under another name.
const CONFLICT: [i32; 2] = [85, 86];
/// The longest that MongoDB keeps a document until it expires, in seconds.
const MAX_EXPIRY_SECONDS: u64 = i32::MAX as u64;

/// Whether the database sees to it that an id is there once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Uniqueness {
    Enforced,
    /// Other clients wrote documents that share an id.
    Impossible,
}

/// Makes those of channels.
pub(super) async fn of_channels(database: &Database) -> Result<Uniqueness, Error> {
    let channels = channels(database);
    channels
        .create_index(model(doc! { "channel_name": 1, "channel_id": 1 }, None))
        .await?;
    let by_id = IndexModel::builder()
        .keys(doc! { "channel_id": 1 })
        .options(IndexOptions::builder().unique(true).build())
        .build();
    match channels.create_index(by_id).await {
        Ok(_) => Ok(Uniqueness::Enforced),
        Err(error) if code(&error).is_some_and(|code| code == DUPLICATE_KEY || conflicts(code)) => {
            warn!(
                %error,
                "channel_id cannot be made unique in the database; two channels created at the \
                 same time may share an id"
            );
            Ok(Uniqueness::Impossible)
        }
        Err(error) => Err(error),
    }
}

/// Makes those of what is kept of messages.
///
/// The ids ascend in all of them, also where pages descend: MongoDB walks an index either way.
pub(super) async fn of_ledger(database: &Database, retention: Duration) -> Result<(), Error> {
    let expiring = [
        (ENTRIES, "at"),
        (MESSAGES, "updated_at"),
        (DEAD_LETTERS, "replayed_at"),
        (REPLAYS, "ended_at"),
        (IDEMPOTENCY, "taken_at"),
    ];
    for (collection, field) in expiring {
        expire(database, collection, field, retention).await?;
    }
    let entries = [doc! { "message_id": 1, "at": 1, "_id": 1 }];
    let messages = [
        doc! { "session_id": 1, "_id": 1 },
        doc! { "channel_id": 1, "_id": 1 },
        doc! { "position.s": 1, "_id": 1 },
    ];
    // Those that were replayed are never asked for.
    let dead_letters = [
        doc! { "replayed": 1, "_id": 1 },
        doc! { "replayed": 1, "queue": 1, "_id": 1 },
        doc! { "replayed": 1, "channel_id": 1, "_id": 1 },
        doc! { "replayed": 1, "session_id": 1, "_id": 1 },
        doc! { "replayed": 1, "reason.kind": 1, "_id": 1 },
        doc! { "parcel_id": 1 },
    ];
    let replays = [doc! { "status": 1, "_id": 1 }];
    make(database, ENTRIES, entries).await?;
    make(database, MESSAGES, messages).await?;
    make(database, DEAD_LETTERS, dead_letters).await?;
    make(database, REPLAYS, replays).await
}

async fn make(
    database: &Database,
    collection: &str,
    keys: impl IntoIterator<Item = Document>,
) -> Result<(), Error> {
    let models = keys.into_iter().map(|keys| model(keys, None));
    let made = database
        .collection::<Document>(collection)
        .create_indexes(models)
        .await;
    match made {
        Ok(_) => Ok(()),
        Err(error) if code(&error).is_some_and(conflicts) => {
            warn!(%error, collection, "indexes cannot be made; queries will be slower");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Sees to it that documents go this long after the time in the field.
async fn expire(
    database: &Database,
    collection: &str,
    field: &str,
    after: Duration,
) -> Result<(), Error> {
    let after = Duration::from_secs(after.as_secs().clamp(1, MAX_EXPIRY_SECONDS));
    let made = database
        .collection::<Document>(collection)
        .create_index(model(doc! { field: 1 }, Some(after)))
        .await;
    let Err(error) = made else { return Ok(()) };
    if !code(&error).is_some_and(conflicts) {
        return Err(error);
    }
    // It was made with another retention.
    let change = doc! {
        "collMod": collection,
        "index": {
            "keyPattern": { field: 1 },
            "expireAfterSeconds": i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        },
    };
    match database.run_command(change).await {
        Ok(_) => Ok(()),
        Err(error) if code(&error).is_some() => {
            warn!(%error, collection, "the retention cannot be changed; an earlier one stays");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn model(keys: Document, expire_after: Option<Duration>) -> IndexModel {
    let options = IndexOptions::builder().expire_after(expire_after).build();
    IndexModel::builder().keys(keys).options(options).build()
}

fn conflicts(code: i32) -> bool {
    CONFLICT.contains(&code)
}

/// The code of what the server answered.
fn code(error: &Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(error) => Some(error.code),
        _ => None,
    }
}
