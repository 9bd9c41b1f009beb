//! The embedded engine: a store in one SQLite file, which several processes may share.
//!
//! Invariant: a write reads, checks and writes in one transaction, and is confirmed only after
//! SQLite synced it (`synchronous=FULL`). A query evaluates its candidates in the requested order
//! and holds one page in memory. No other kind of read waits for a query.

mod answers;
mod dead_letters;
mod erased;
mod erasures;
mod file;
mod idempotency;
mod journal;
mod keys;
mod replays;
mod retention;
mod rows;
mod scan;
mod schema;
mod secrets;
mod session_events;
mod waiting;

use async_trait::async_trait;
use roundtrip_model::{
    Channel, ChannelId, ChannelPatch, ChannelUid,
    channel::ENDPOINT_URL,
    settings::{DELIVERY, keep_pause},
};
use rusqlite::{Connection, ErrorCode, OptionalExtension};
use serde_json::{Map, Value};

use crate::{
    ChannelError, ChannelPage, Channels, DeliveryTarget, Filter, KeyError, PageRequest, QueryError,
    ReplayError, SecretsError, Unavailable, Version, Versioned, canonical,
    document::{self, METADATA},
    error::caused_by,
};
pub(crate) use file::SqliteStore;

const INSERT: &str = "INSERT INTO channels (channel_id, channel_name, document, uid)
    VALUES (?1, ?2, ?3, lower(hex(randomblob(16))))";
const TARGET: &str = "SELECT uid, document -> '$.channel_metadata.endpoint_url',
    document -> '$.channel_metadata.delivery'
    FROM channels WHERE channel_id = ?1";
const DOCUMENT: &str = "SELECT document FROM channels WHERE channel_id = ?1";
const DELETE: &str = "DELETE FROM channels WHERE channel_id = ?1";
const PING: &str = "SELECT count(*) FROM (SELECT 1 FROM channels LIMIT 1)";
const UPDATE: &str = "UPDATE channels SET channel_name = ?2, document = ?3 WHERE channel_id = ?1";

/// A row: the keys that queries sort by, and the document.
fn row(document: &Map<String, Value>) -> (String, String, String) {
    (
        document::text(document, "channel_id").to_owned(),
        document::text(document, "channel_name").to_owned(),
        Value::Object(document.clone()).to_string(),
    )
}

#[async_trait]
impl Channels for SqliteStore {
    async fn create(&self, channel: &Channel) -> Result<Version, ChannelError> {
        let channel = canonical::channel(channel)?;
        let version = Version::of(&channel);
        let id = channel.channel_id.clone();
        let document = document::of(channel);
        self.write(
            move |transaction| match transaction.execute(INSERT, row(&document)) {
                Ok(_) => Ok(version),
                Err(error) => Err(match error.sqlite_error_code() {
                    Some(ErrorCode::ConstraintViolation) => ChannelError::Exists(id),
                    _ => error.into(),
                }),
            },
        )
        .await
    }

    async fn get(&self, id: &ChannelId) -> Result<Versioned, ChannelError> {
        let id = id.clone();
        self.run(move |connection| document::versioned(read(connection, &id)?))
            .await
    }

    async fn target(&self, id: &ChannelId) -> Result<DeliveryTarget, ChannelError> {
        let id = id.clone();
        self.run(move |connection| target(connection, &id)).await
    }

    async fn update(
        &self,
        id: &ChannelId,
        patch: &ChannelPatch,
        expected: Option<&Version>,
    ) -> Result<Versioned, ChannelError> {
        let mut fields = canonical::patch(patch)?;
        let (id, expected) = (id.clone(), expected.cloned());
        self.write(move |transaction| {
            let mut document = read(transaction, &id)?;
            check(&document, &id, expected.as_ref())?;
            if let (Some(Value::Object(new)), Some(Value::Object(replaced))) =
                (fields.get_mut(METADATA), document.get(METADATA))
            {
                keep_pause(new, replaced);
            }
            // An updated field keeps its position, as in MongoDB.
            document.extend(fields);
            transaction.execute(UPDATE, row(&document))?;
            document::versioned(document)
        })
        .await
    }

    async fn set_paused(
        &self,
        id: &ChannelId,
        uid: Option<&ChannelUid>,
        paused: bool,
    ) -> Result<Versioned, ChannelError> {
        let (id, uid) = (id.clone(), uid.cloned());
        self.write(move |transaction| {
            let target = target(transaction, &id)?;
            if uid.is_some_and(|uid| uid != target.uid) {
                return Err(ChannelError::NotFound(id));
            }
            let mut document = read(transaction, &id)?;
            if document::set_paused(&mut document, paused)? {
                transaction.execute(UPDATE, row(&document))?;
            }
            document::versioned(document)
        })
        .await
    }

    async fn delete(&self, id: &ChannelId, expected: Option<&Version>) -> Result<(), ChannelError> {
        let (id, expected) = (id.clone(), expected.cloned());
        self.write(move |transaction| {
            let document = read(transaction, &id)?;
            check(&document, &id, expected.as_ref())?;
            transaction.execute(DELETE, [id.as_str()])?;
            secrets::delete(transaction, &id)?;
            Ok::<_, ChannelError>(())
        })
        .await
    }

    async fn query(&self, filter: &Filter, page: &PageRequest) -> Result<ChannelPage, QueryError> {
        let (filter, page) = (filter.clone(), page.clone());
        self.run_query(move |connection, deadline| scan::page(connection, deadline, &filter, &page))
            .await
    }

    async fn ping(&self) -> Result<(), Unavailable> {
        self.run(|connection| connection.query_row(PING, [], |_| Ok(())))
            .await
    }
}

caused_by! {
    rusqlite::Error, Unavailable::new => Unavailable ChannelError SecretsError QueryError ReplayError
        KeyError
}

fn read(connection: &Connection, id: &ChannelId) -> Result<Map<String, Value>, ChannelError> {
    let mut select = connection.prepare_cached(DOCUMENT)?;
    let text: Option<String> = select
        .query_row([id.as_str()], |row| row.get(0))
        .optional()?;
    let text = text.ok_or_else(|| ChannelError::NotFound(id.clone()))?;
    parse(id.as_str(), &text)
}

fn target(connection: &Connection, id: &ChannelId) -> Result<DeliveryTarget, ChannelError> {
    type Row = (String, Option<String>, Option<String>);
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let mut select = connection.prepare_cached(TARGET)?;
    let found: Option<Row> = select.query_row([id.as_str()], read).optional()?;
    let (uid, endpoint, delivery) = found.ok_or_else(|| ChannelError::NotFound(id.clone()))?;
    let mut metadata = Map::new();
    for (key, json) in [(ENDPOINT_URL, endpoint), (DELIVERY, delivery)] {
        if let Some(json) = json.and_then(|json| serde_json::from_str(&json).ok()) {
            metadata.insert(key.to_owned(), json);
        }
    }
    Ok(DeliveryTarget::new(uid.into(), &metadata))
}

fn parse(id: &str, text: &str) -> Result<Map<String, Value>, ChannelError> {
    serde_json::from_str(text).map_err(|error| ChannelError::Unreadable {
        id: id.to_owned(),
        problem: error.to_string(),
    })
}

fn check(
    document: &Map<String, Value>,
    id: &ChannelId,
    expected: Option<&Version>,
) -> Result<(), ChannelError> {
    match expected {
        Some(expected) if document::versioned(document.clone())?.version != *expected => {
            Err(ChannelError::Changed(id.clone()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
