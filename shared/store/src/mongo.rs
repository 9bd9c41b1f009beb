//! MongoDB: channels in the collection `channels`, with their five fields at the top level, and
//! everything about messages in other collections.
//!
//! Invariant: other clients of the database may write at any time. A value that a call does not
//! change keeps the type that they gave it. A change of the five fields between a check and a write
//! is detected.

mod connection;
mod indexes;
mod ledger;
mod pause;
mod query;
mod secrets;
mod target;
mod translate;
mod value;

use std::{future::Future, sync::Arc};

use async_trait::async_trait;
use bson::{Bson, Document, doc};
use mongodb::{
    Collection, Database,
    error::{Error, ErrorKind, WriteFailure},
    options::{ConnectionString, ReturnDocument},
};
use roundtrip_model::{Channel, ChannelId, ChannelPatch, ChannelUid, Check, settings::keep_pause};
use serde_json::{Map, Value};

use crate::{
    ChannelPage, Channels, Config, DeliveryTarget, Filter, PageRequest, StoreError, Version,
    Versioned, canonical,
    document::{self, FIELDS, METADATA},
};
use connection::{Connection, ConnectionState};
use indexes::Uniqueness;

const CHANNELS: &str = "channels";
/// The server's error code for a value that a unique index already has.
const DUPLICATE_KEY: i32 = 11000;
/// The server's error code for work that exceeded its time limit.
const MAX_TIME_EXPIRED: i32 = 50;
/// More documents than a caller can be limited to, so as a limit it removes nothing. It keeps the
/// server from evaluating the caller's conditions first, as it may within one filter.
const BARRIER: i64 = i32::MAX as i64;
/// How many concurrent changes of a document one call tolerates between its read and its write.
const MAX_RACES: usize = 16;

/// A store in a MongoDB database.
pub(crate) struct MongoStore {
    connection: Connection,
}

impl MongoStore {
    /// Checks the settings, and parses the URL.
    pub(crate) fn check(config: &Config, check: &mut Check) -> Option<ConnectionString> {
        Connection::check(config, check)
    }

    /// Prepares the connection without waiting: the server may be unavailable.
    pub(crate) fn open(config: &Config, url: ConnectionString) -> Self {
        Self {
            connection: Connection::open(config, url),
        }
    }

    /// Runs a function on the collection of channels, as [`Connection::run`] does.
    async fn run<T, F>(
        &self,
        work: impl FnOnce(Arc<ConnectionState>, Collection<Document>) -> F + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        self.connection
            .run(|shared, database| work(shared, channels(&database)))
            .await
    }
}

fn channels(database: &Database) -> Collection<Document> {
    database.collection(CHANNELS)
}

#[async_trait]
impl Channels for MongoStore {
    async fn create(&self, channel: &Channel) -> Result<Version, StoreError> {
        let channel = canonical::channel(channel)?;
        let version = Version::of(&channel);
        let id = channel.channel_id.clone();
        let document = value::to_document(&document::of(channel));
        self.run(move |shared, channels| async move {
            let uniqueness = shared.uniqueness().await?;
            insert(&channels, id, document, uniqueness).await
        })
        .await?;
        Ok(version)
    }

    async fn get(&self, id: &ChannelId) -> Result<Versioned, StoreError> {
        let id = id.clone();
        self.run(move |_, channels| async move { versioned(read(&channels, &id).await?) })
            .await
    }

    async fn target(&self, id: &ChannelId) -> Result<DeliveryTarget, StoreError> {
        let id = id.clone();
        self.run(move |_, channels| async move { target::read(&channels, &id).await })
            .await
    }

    async fn update(
        &self,
        id: &ChannelId,
        patch: &ChannelPatch,
        expected: Option<&Version>,
    ) -> Result<Versioned, StoreError> {
        let fields = canonical::patch(patch)?;
        let (id, expected) = (id.clone(), expected.cloned());
        self.run(move |_, channels| async move {
            let updated = if expected.is_some() || fields.contains_key(METADATA) {
                compare_and_set(&channels, &id, fields, expected.as_ref()).await?
            } else {
                set(&channels, named(&id), value::to_document(&fields))
                    .await?
                    .ok_or(StoreError::NotFound(id))?
            };
            versioned(updated)
        })
        .await
    }

    async fn set_paused(
        &self,
        id: &ChannelId,
        uid: Option<&ChannelUid>,
        paused: bool,
    ) -> Result<Versioned, StoreError> {
        let (id, uid) = (id.clone(), uid.cloned());
        self.run(move |_, channels| async move {
            versioned(pause::set(&channels, &id, uid.as_ref(), paused).await?)
        })
        .await
    }

    async fn delete(&self, id: &ChannelId, expected: Option<&Version>) -> Result<(), StoreError> {
        let (id, expected) = (id.clone(), expected.cloned());
        self.connection
            .run(move |_, database| async move {
                // Read before the channel is deleted, so that a new channel under this id keeps its
                // own secrets.
                let seen = secrets::read(&secrets::of(&database), &id).await?;
                let channels = channels(&database);
                match expected {
                    None if delete(&channels, named(&id)).await? => {}
                    None => return Err(StoreError::NotFound(id)),
                    Some(expected) => compare_and_delete(&channels, &id, &expected).await?,
                }
                secrets::delete(&secrets::of(&database), &id, &seen).await;
                Ok(())
            })
            .await
    }

    async fn query(&self, filter: &Filter, page: &PageRequest) -> Result<ChannelPage, StoreError> {
        let (filter, page) = (filter.clone(), page.clone());
        self.connection
            .query(move |database, max_time| async move {
                query::page(&channels(&database), max_time, &filter, &page).await
            })
            .await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.connection
            .run(|_, database| async move {
                let pinged = database.run_command(doc! { "ping": 1 }).await;
                pinged.map(drop).map_err(unavailable)
            })
            .await
    }

    async fn close(&self) {
        self.connection.close().await;
    }
}

fn unavailable(error: Error) -> StoreError {
    match &*error.kind {
        ErrorKind::ServerSelection { message, .. } => {
            StoreError::Unavailable(Box::new(NoServer::of(message)))
        }
        _ => StoreError::Unavailable(Box::new(error)),
    }
}

/// No server could be used. The driver's message describes its whole topology.
#[derive(Debug, thiserror::Error)]
#[error("no MongoDB server can be used: {0}")]
struct NoServer(String);

impl NoServer {
    /// Extracts each server's error from the driver's message. If the driver changes its message,
    /// the result is less precise.
    fn of(message: &str) -> Self {
        let cause = |server: &str| {
            let address = server.split(',').next()?;
            let error = server.split_once("Error: Kind: ")?.1;
            Some(format!("{address}: {}", error.split(", labels: ").next()?))
        };
        let servers = message.split("{ Address: ").skip(1);
        let causes: Vec<_> = servers.filter_map(cause).collect();
        Self(if causes.is_empty() {
            "none answers, or none has the role that is needed".to_owned()
        } else {
            causes.join("; ")
        })
    }
}

/// The error of a query. Exceeding the budget is not a failure of the server.
fn failed(error: Error) -> StoreError {
    match &*error.kind {
        ErrorKind::Command(command) if command.code == MAX_TIME_EXPIRED => StoreError::TooCostly,
        _ => unavailable(error),
    }
}

fn named(id: &ChannelId) -> Document {
    doc! { "channel_id": id.as_str() }
}

fn versioned(document: Document) -> Result<Versioned, StoreError> {
    document::versioned(value::to_json(document))
}

async fn read(channels: &Collection<Document>, id: &ChannelId) -> Result<Document, StoreError> {
    channels
        .find_one(named(id))
        .await
        .map_err(unavailable)?
        .ok_or_else(|| StoreError::NotFound(id.clone()))
}

async fn insert(
    channels: &Collection<Document>,
    id: ChannelId,
    document: Document,
    uniqueness: Uniqueness,
) -> Result<(), StoreError> {
    let exists = match uniqueness {
        Uniqueness::Enforced => match channels.insert_one(document).await {
            Ok(_) => false,
            Err(error) if is_duplicate_key(&error) => true,
            Err(error) => return Err(unavailable(error)),
        },
        // Without a unique index: an upsert is safe except for two exactly concurrent creations.
        Uniqueness::Impossible => {
            let inserted = channels
                .update_one(named(&id), doc! { "$setOnInsert": document })
                .upsert(true)
                .await
                .map_err(unavailable)?;
            inserted.matched_count > 0
        }
    };
    if exists {
        return Err(StoreError::Exists(id));
    }
    Ok(())
}

fn is_duplicate_key(error: &Error) -> bool {
    match &*error.kind {
        ErrorKind::Write(WriteFailure::WriteError(error)) => error.code == DUPLICATE_KEY,
        ErrorKind::Command(error) => error.code == DUPLICATE_KEY,
        _ => false,
    }
}

/// Sets fields of the document that the filter finds, and returns the whole document.
async fn set(
    channels: &Collection<Document>,
    filter: Document,
    fields: Document,
) -> Result<Option<Document>, StoreError> {
    // Servers before 5.0 reject an empty `$set`.
    if fields.is_empty() {
        return channels.find_one(filter).await.map_err(unavailable);
    }
    channels
        .find_one_and_update(filter, doc! { "$set": fields })
        .return_document(ReturnDocument::After)
        .await
        .map_err(unavailable)
}

/// Sets the fields if the document has the expected version, even if other clients ignore versions:
/// the write's filter names the values that were read. Without an expected version it names only
/// the metadata that was read.
async fn compare_and_set(
    channels: &Collection<Document>,
    id: &ChannelId,
    fields: Map<String, Value>,
    expected: Option<&Version>,
) -> Result<Document, StoreError> {
    for _ in 0..MAX_RACES {
        let (found, guarded) = match expected {
            Some(expected) => (as_expected(channels, id, expected).await?, &FIELDS[..]),
            None => (read(channels, id).await?, &[METADATA][..]),
        };
        let new = in_place(&found, fields.clone());
        if let Some(updated) = set(channels, unchanged(&found, guarded), new).await? {
            return Ok(updated);
        }
    }
    Err(StoreError::Changed(id.clone()))
}

/// The fields in the form in which they replace the stored ones.
fn in_place(found: &Document, mut fields: Map<String, Value>) -> Document {
    if let (Some(Value::Object(metadata)), Some(Bson::Document(replaced))) =
        (fields.get_mut(METADATA), found.get(METADATA))
    {
        keep_pause(metadata, &target::needed_of(replaced));
    }
    fields
        .iter()
        .map(|(field, value)| (field.clone(), value::in_place_of(found.get(field), value)))
        .collect()
}

async fn compare_and_delete(
    channels: &Collection<Document>,
    id: &ChannelId,
    expected: &Version,
) -> Result<(), StoreError> {
    for _ in 0..MAX_RACES {
        let found = as_expected(channels, id, expected).await?;
        if delete(channels, unchanged(&found, &FIELDS)).await? {
            return Ok(());
        }
    }
    Err(StoreError::Changed(id.clone()))
}

async fn delete(channels: &Collection<Document>, filter: Document) -> Result<bool, StoreError> {
    let deleted = channels.delete_one(filter).await.map_err(unavailable)?;
    Ok(deleted.deleted_count > 0)
}

async fn as_expected(
    channels: &Collection<Document>,
    id: &ChannelId,
    expected: &Version,
) -> Result<Document, StoreError> {
    let found = read(channels, id).await?;
    if versioned(found.clone())?.version != *expected {
        return Err(StoreError::Changed(id.clone()));
    }
    Ok(found)
}

/// Finds the document only if these fields are unchanged since they were read.
fn unchanged(found: &Document, fields: &[&str]) -> Document {
    let mut filter = same(found);
    for field in fields {
        filter.insert(*field, as_it_was(found.get(field)));
    }
    filter
}

/// Finds exactly this document, and no later one with the same `channel_id`.
fn same(found: &Document) -> Document {
    let id = found.get("_id");
    id.map_or_else(Document::new, |id| doc! { "_id": id.clone() })
}

fn as_it_was(value: Option<&Bson>) -> Document {
    value.map_or_else(
        || doc! { "$exists": false },
        |value| doc! { "$eq": value.clone() },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_unreachable_server_is_reported_without_the_drivers_topology() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let url = format!("mongodb://{address}/?serverSelectionTimeoutMS=500");
        let client = mongodb::Client::with_uri_str(url).await.unwrap();
        let error = client.list_database_names().await.unwrap_err();
        let StoreError::Unavailable(source) = unavailable(error) else {
            panic!("the store is unavailable")
        };
        let text = source.to_string();
        let cause = format!("no MongoDB server can be used: {address}: ");
        assert!(
            text.starts_with(&cause) && text.contains("refused"),
            "{text}"
        );
        assert!(
            !text.contains("Topology") && !text.contains("labels"),
            "{text}"
        );
    }
}
