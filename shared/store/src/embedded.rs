//! The embedded engine: a store in one SQLite file, which several processes may share.
//!
//! Invariant: a write reads, checks and writes in one transaction, and is confirmed only after
//! SQLite synced it (`synchronous=FULL`). A query scans in the requested order and holds one page
//! in memory. No other kind of read waits for a query.

mod dead_letters;
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

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use roundtrip_model::{
    Channel, ChannelId, ChannelPatch, ChannelUid, Clock,
    channel::{ENDPOINT_URL, FieldError},
    settings::{self, DELIVERY},
};
use rusqlite::{Connection, OptionalExtension};
use serde_json::{Map, Value};

use crate::{
    ChannelPage, Channels, DeliveryTarget, Filter, OpenError, PageRequest, StoreError, Version,
    Versioned, canonical,
    document::{self, METADATA},
};
use file::File;
use retention::Retention;

/// A store in a SQLite file.
pub struct SqliteStore {
    file: Arc<File>,
    retention: Option<Retention>,
}

impl SqliteStore {
    /// Opens the file, and creates it and its folder if they are missing.
    ///
    /// # Errors
    ///
    /// The file cannot be used, or has the schema of another version.
    pub async fn open(path: impl AsRef<Path>, timeout: Duration) -> Result<Self, OpenError> {
        let file = File::open(path.as_ref().to_owned(), timeout).await?;
        Ok(Self {
            file: Arc::new(file),
            retention: None,
        })
    }

    /// Starts to remove, in the background, what is older than this.
    #[must_use]
    pub fn keeping(mut self, retention: Duration, clock: Arc<dyn Clock>) -> Self {
        let file = Arc::clone(&self.file);
        self.retention = Some(Retention::start(file, retention, clock));
        self
    }
}

/// Access that bypasses the store's checks, for the contract's harness.
#[cfg(feature = "contract")]
impl SqliteStore {
    /// Writes a document unchecked, as another client would.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`].
    pub async fn insert_foreign(&self, document: &Map<String, Value>) -> Result<(), StoreError> {
        let document = document.clone();
        self.file
            .run(move |connection, _| {
                connection
                    .execute(INSERT, row(&document))
                    .map(drop)
                    .map_err(unavailable)
            })
            .await
    }

    /// The whole document as it is stored.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn stored(&self, id: &ChannelId) -> Result<Map<String, Value>, StoreError> {
        let id = id.clone();
        self.file
            .run(move |connection, _| read(connection, &id))
            .await
    }
}

const INSERT: &str = "INSERT INTO channels (channel_id, channel_name, document, uid)
    VALUES (?1, ?2, ?3, lower(hex(randomblob(16))))";
const TARGET: &str = "SELECT uid, document -> '$.channel_metadata.endpoint_url',
    document -> '$.channel_metadata.delivery'
    FROM channels WHERE channel_id = ?1";
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
    async fn create(&self, channel: &Channel) -> Result<Version, StoreError> {
        let channel = canonical::channel(channel)?;
        let version = Version::of(&channel);
        let id = channel.channel_id.clone();
        let document = document::of(channel);
        self.file
            .write(move |transaction| {
                transaction
                    .execute(INSERT, row(&document))
                    .map_err(|error| match error.sqlite_error_code() {
                        Some(rusqlite::ErrorCode::ConstraintViolation) => StoreError::Exists(id),
                        _ => unavailable(error),
                    })?;
                Ok(())
            })
            .await?;
        Ok(version)
    }

    async fn get(&self, id: &ChannelId) -> Result<Versioned, StoreError> {
        let id = id.clone();
        self.file
            .run(move |connection, _| {
                let document = read(connection, &id)?;
                document::versioned(document)
            })
            .await
    }

    async fn target(&self, id: &ChannelId) -> Result<DeliveryTarget, StoreError> {
        let id = id.clone();
        self.file
            .run(move |connection, _| target(connection, &id))
            .await
    }

    async fn update(
        &self,
        id: &ChannelId,
        patch: &ChannelPatch,
        expected: Option<&Version>,
    ) -> Result<Versioned, StoreError> {
        let mut fields = canonical::patch(patch)?;
        let (id, expected) = (id.clone(), expected.cloned());
        let updated = self
            .file
            .write(move |transaction| {
                let mut document = read(transaction, &id)?;
                check(&document, &id, expected.as_ref())?;
                if let (Some(Value::Object(new)), Some(Value::Object(replaced))) =
                    (fields.get_mut(METADATA), document.get(METADATA))
                {
                    settings::keep_pause(new, replaced);
                }
                // An updated field keeps its position, as in MongoDB.
                document.extend(fields);
                transaction
                    .execute(UPDATE, row(&document))
                    .map_err(unavailable)?;
                Ok(document)
            })
            .await?;
        document::versioned(updated)
    }

    async fn set_paused(
        &self,
        id: &ChannelId,
        uid: Option<&ChannelUid>,
        paused: bool,
    ) -> Result<Versioned, StoreError> {
        let (id, uid) = (id.clone(), uid.cloned());
        let document = self
            .file
            .write(move |transaction| {
                let target = target(transaction, &id)?;
                if uid.is_some_and(|uid| uid != target.uid) {
                    return Err(StoreError::NotFound(id));
                }
                let mut document = read(transaction, &id)?;
                if target.settings.paused == paused {
                    return Ok(document);
                }
                match document.entry(METADATA).or_insert(Value::Null) {
                    Value::Object(metadata) => settings::set_paused(metadata, paused),
                    empty @ Value::Null => {
                        let mut metadata = Map::new();
                        settings::set_paused(&mut metadata, paused);
                        *empty = metadata.into();
                    }
                    _ => {
                        let problem = "must be an object for a channel to be paused";
                        let error = FieldError::new(METADATA, problem);
                        return Err(StoreError::Unstorable(error));
                    }
                }
                transaction
                    .execute(UPDATE, row(&document))
                    .map_err(unavailable)?;
                Ok(document)
            })
            .await?;
        document::versioned(document)
    }

    async fn delete(&self, id: &ChannelId, expected: Option<&Version>) -> Result<(), StoreError> {
        let (id, expected) = (id.clone(), expected.cloned());
        self.file
            .write(move |transaction| {
                let document = read(transaction, &id)?;
                check(&document, &id, expected.as_ref())?;
                transaction
                    .execute("DELETE FROM channels WHERE channel_id = ?1", [id.as_str()])
                    .map_err(unavailable)?;
                secrets::delete(transaction, &id)
            })
            .await
    }

    async fn query(&self, filter: &Filter, page: &PageRequest) -> Result<ChannelPage, StoreError> {
        let (filter, page) = (filter.clone(), page.clone());
        self.file
            .query(move |connection, deadline| scan::page(connection, deadline, &filter, &page))
            .await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.file
            .run(|connection, _| {
                connection
                    .query_row(
                        "SELECT count(*) FROM (SELECT 1 FROM channels LIMIT 1)",
                        [],
                        |_| Ok(()),
                    )
                    .map_err(unavailable)
            })
            .await
    }
}

fn unavailable(error: rusqlite::Error) -> StoreError {
    StoreError::Unavailable(Box::new(error))
}

fn read(connection: &Connection, id: &ChannelId) -> Result<Map<String, Value>, StoreError> {
    let text: Option<String> = connection
        .prepare_cached("SELECT document FROM channels WHERE channel_id = ?1")
        .and_then(|mut statement| {
            statement
                .query_row([id.as_str()], |row| row.get(0))
                .optional()
        })
        .map_err(unavailable)?;
    let text = text.ok_or_else(|| StoreError::NotFound(id.clone()))?;
    parse(id.as_str(), &text)
}

/// What a delivery needs. The rest of the document is not parsed.
fn target(connection: &Connection, id: &ChannelId) -> Result<DeliveryTarget, StoreError> {
    type Row = (String, Option<String>, Option<String>);
    let found: Option<Row> = connection
        .prepare_cached(TARGET)
        .and_then(|mut statement| {
            let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
            statement.query_row([id.as_str()], read).optional()
        })
        .map_err(unavailable)?;
    let (uid, endpoint, delivery) = found.ok_or_else(|| StoreError::NotFound(id.clone()))?;
    let mut metadata = Map::new();
    for (key, json) in [(ENDPOINT_URL, endpoint), (DELIVERY, delivery)] {
        if let Some(json) = json.and_then(|json| serde_json::from_str(&json).ok()) {
            metadata.insert(key.to_owned(), json);
        }
    }
    Ok(DeliveryTarget::new(uid.into(), &metadata))
}

fn parse(id: &str, text: &str) -> Result<Map<String, Value>, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Unreadable {
        id: id.to_owned(),
        problem: error.to_string(),
    })
}

fn check(
    document: &Map<String, Value>,
    id: &ChannelId,
    expected: Option<&Version>,
) -> Result<(), StoreError> {
    match expected {
        Some(expected) if document::versioned(document.clone())?.version != *expected => {
            Err(StoreError::Changed(id.clone()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
