//! The indexes that the collections need.
//!
//! Invariant: making them again changes nothing. An index that cannot be made is logged and
//! skipped. That costs speed or uniqueness, but the store keeps working.

use std::time::Duration;

use bson::{Document, doc};
use mongodb::{
    Database, IndexModel,
    error::{Error, ErrorKind},
    options::IndexOptions,
};
use tracing::warn;

use super::{
    CHANNELS, DUPLICATE_KEY, channels,
    ledger::{
        ANSWERS, API_KEYS, DEAD_LETTERS, ENTRIES, ERASURES, IDEMPOTENCY, MESSAGES, REPLAYS,
        SESSION_EVENTS, WAITING, WAITING_CHANNELS,
    },
};

/// The server's error codes for an index that exists with other options or under another name, and
/// for a document with arrays in two fields of one index.
const CONFLICT: [i32; 3] = [85, 86, 171];
const MAX_EXPIRY_SECONDS: u64 = i32::MAX as u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Uniqueness {
    Enforced,
    Impossible,
}

pub(super) async fn of_channels(database: &Database) -> Result<Uniqueness, Error> {
    let by_id = IndexModel::builder()
        .keys(doc! { "channel_id": 1 })
        .options(IndexOptions::builder().unique(true).build())
        .build();
    match channels(database).create_index(by_id).await {
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

pub(super) struct Needed {
    collection: &'static str,
    /// The retention counts from the time in this field.
    expiring: Option<&'static str>,
    /// The fields of each index. All ascend, even if pages descend: MongoDB walks an index in both
    /// directions.
    keys: &'static [&'static [&'static str]],
    /// The fields of each index of some documents.
    partial: &'static [(Only, &'static [&'static str])],
}

enum Only {
    With(&'static str),
    Where(&'static str, &'static str),
}

impl Only {
    fn filter(&self) -> Document {
        match *self {
            Self::With(field) => doc! { field: { "$exists": true } },
            Self::Where(field, value) => doc! { field: value },
        }
    }
}

/// The indexes of the collections. Those of channels have the id after each text, so that a page is
/// read in its order.
pub(super) const NEEDED: [Needed; 12] = [
    needed(
        CHANNELS,
        None,
        &[
            &["channel_name", "channel_id"],
            &["channel_tags", "channel_id"],
        ],
    ),
    Needed {
        // The messages whose answer is due at a time.
        partial: &[(Only::With("position.a"), &["position.a", "_id"])],
        ..needed(
            MESSAGES,
            Some("updated_at"),
            &[
                &["session_id", "_id"],
                &["channel_id", "_id"],
                &["position.s", "_id"],
            ],
        )
    },
    needed(ENTRIES, Some("at"), &[&["message_id", "at", "_id"]]),
    needed(
        ANSWERS,
        Some("at"),
        &[
            &["message_id", "at", "_id"],
            &["session_id", "at", "_id"],
            &["channel_id", "at", "_id"],
            &["at", "_id"],
        ],
    ),
    needed(
        DEAD_LETTERS,
        Some("replayed_at"),
        // Queries never return replayed dead letters.
        &[
            &["replayed", "_id"],
            &["replayed", "queue", "_id"],
            &["replayed", "channel_id", "_id"],
            &["replayed", "session_id", "_id"],
            &["replayed", "reason.kind", "_id"],
            &["replayed", "dead_at", "_id"],
            &["parcel_id"],
        ],
    ),
    needed(
        REPLAYS,
        Some("ended_at"),
        &[
            &["status", "lease_until", "_id"],
            &["status", "requested_by"],
            &["channels", "_id"],
        ],
    ),
    needed(
        SESSION_EVENTS,
        Some("at"),
        &[&["session_id", "stored_at", "_id"]],
    ),
    // What has no `ended_at` is found by the same index.
    needed(ERASURES, Some("ended_at"), &[]),
    needed(IDEMPOTENCY, Some("taken_at"), &[]),
    needed(API_KEYS, Some("ends_at"), &[]),
    Needed {
        partial: &[
            (
                Only::With("expires_at"),
                &["channel_id", "expires_at", "_id"],
            ),
            // What is due later and may be made due at once.
            (
                Only::Where("reason", "retry"),
                &["reason", "channel_id", "due_at", "_id"],
            ),
        ],
        ..needed(
            WAITING,
            None,
            &[
                &["channel_id", "due_at", "_id"],
                // A summary reads no documents.
                &["channel_id", "reason", "accepted_at"],
                &["session_id", "_id"],
            ],
        )
    },
    needed(WAITING_CHANNELS, None, &[&["look_at", "_id"]]),
];

const fn needed(
    collection: &'static str,
    expiring: Option<&'static str>,
    keys: &'static [&'static [&'static str]],
) -> Needed {
    Needed {
        collection,
        expiring,
        keys,
        partial: &[],
    }
}

impl Needed {
    pub(super) async fn make(&self, database: &Database, retention: Duration) -> Result<(), Error> {
        let after = Duration::from_secs(retention.as_secs().clamp(1, MAX_EXPIRY_SECONDS));
        let expiry = self.expiring.map(|field| doc! { field: 1 });
        let expiring = expiry
            .iter()
            .map(|keys| model(keys.clone(), Some(after), None));
        let mut models: Vec<_> = expiring.collect();
        let keys = self.keys.iter().map(|fields| (None, *fields));
        let partial = self.partial.iter();
        let partial = partial.map(|(only, fields)| (Some(only.filter()), *fields));
        for (only, fields) in keys.chain(partial) {
            let ascending = fields.iter().map(|field| ((*field).to_owned(), 1.into()));
            models.push(model(ascending.collect(), None, only));
        }
        let collection = database.collection::<Document>(self.collection);
        match collection.create_indexes(models.clone()).await {
            Err(error) if code(&error).is_some_and(conflicts) => {}
            made => return made.map(drop),
        }
        if let Some(expiry) = expiry {
            // The usual cause is an expiry with another retention.
            let change = doc! {
                "collMod": self.collection,
                "index": {
                    "keyPattern": expiry,
                    "expireAfterSeconds": i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
                },
            };
            match database.run_command(change).await {
                Err(error) if code(&error).is_none() => return Err(error),
                // If the change is not permitted, the second attempt returns the error.
                _ => {}
            }
        }
        // One by one, because one that cannot be made keeps the server from making the others.
        for model in models {
            match collection.create_index(model).await {
                Err(error) if code(&error).is_some_and(conflicts) => warn!(
                    %error, collection = self.collection,
                    "an index cannot be created; queries will be slower, or the earlier retention \
                     stays"
                ),
                made => drop(made?),
            }
        }
        Ok(())
    }
}

fn model(keys: Document, expire_after: Option<Duration>, only: Option<Document>) -> IndexModel {
    let options = IndexOptions::builder()
        .expire_after(expire_after)
        .partial_filter_expression(only)
        .build();
    IndexModel::builder().keys(keys).options(options).build()
}

fn conflicts(code: i32) -> bool {
    CONFLICT.contains(&code)
}

fn code(error: &Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(error) => Some(error.code),
        _ => None,
    }
}
