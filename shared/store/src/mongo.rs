//! MongoDB: channels in the collection `channels`, with their five fields at the top level, and
//! everything about messages in other collections.
//!
//! Invariant: other clients of the database may write at any time. A value that a call does not
//! change keeps the type that they gave it. A change of the five fields between a check and a write
//! is detected.

mod connection;
mod indexes;
mod ledger;
mod query;
mod secrets;
mod target;
mod value;

use async_trait::async_trait;
use bson::{Bson, Document, doc};
use mongodb::{
    Collection, Database,
    error::{Error, ErrorKind, WriteFailure},
};
use roundtrip_model::{Channel, ChannelId, ChannelPatch, ChannelUid, settings::keep_pause};
use serde_json::{Map, Value};

use crate::{
    ChannelError, ChannelPage, Channels, DeliveryTarget, Filter, KeyError, PageRequest, QueryError,
    ReplayError, SecretsError, Unavailable, Version, Versioned, canonical,
    document::{self, FIELDS, METADATA},
    error::caused_by,
};
pub(crate) use connection::MongoStore;
use indexes::Uniqueness;

const CHANNELS: &str = "channels";
/// The server's error code for a value that a unique index already has.
const DUPLICATE_KEY: i32 = 11000;
/// The server's error code for work that exceeded its time limit.
const MAX_TIME_EXPIRED: i32 = 50;
/// How many concurrent changes of a document one call tolerates between its read and its write.
const MAX_RACES: usize = 16;

fn channels(database: &Database) -> Collection<Document> {
    database.collection(CHANNELS)
}

#[async_trait]
impl Channels for MongoStore {
    async fn create(&self, channel: &Channel) -> Result<Version, ChannelError> {
        let channel = canonical::channel(channel)?;
        let version = Version::of(&channel);
        let id = channel.channel_id.clone();
        let document = value::to_document(&document::of(channel));
        let uniqueness = self.uniqueness().await?;
        self.on(CHANNELS, move |channels| async move {
            insert(&channels, id, document, uniqueness).await?;
            Ok::<_, ChannelError>(version)
        })
        .await
    }

    async fn get(&self, id: &ChannelId) -> Result<Versioned, ChannelError> {
        let id = id.clone();
        self.on(CHANNELS, move |channels| async move {
            versioned(read(&channels, &id).await?)
        })
        .await
    }

    async fn target(&self, id: &ChannelId) -> Result<DeliveryTarget, ChannelError> {
        let id = id.clone();
        self.on(CHANNELS, move |channels| async move {
            target::read(&channels, &id).await
        })
        .await
    }

    async fn update(
        &self,
        id: &ChannelId,
        patch: &ChannelPatch,
        expected: Option<&Version>,
    ) -> Result<Versioned, ChannelError> {
        let fields = canonical::patch(patch)?;
        let (id, expected) = (id.clone(), expected.cloned());
        self.on(CHANNELS, move |channels| async move {
            let updated = if expected.is_some() || fields.contains_key(METADATA) {
                compare_and_set(&channels, &id, fields, expected.as_ref()).await?
            } else {
                set(&channels, named(&id), value::to_document(&fields))
                    .await?
                    .ok_or(ChannelError::NotFound(id))?
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
    ) -> Result<Versioned, ChannelError> {
        let (id, uid) = (id.clone(), uid.cloned());
        self.on(CHANNELS, move |channels| async move {
            versioned(set_paused(&channels, &id, uid.as_ref(), paused).await?)
        })
        .await
    }

    async fn delete(&self, id: &ChannelId, expected: Option<&Version>) -> Result<(), ChannelError> {
        let (id, expected) = (id.clone(), expected.cloned());
        self.run(move |database| async move {
            // Read before the channel is deleted, so that a new channel under this id keeps its
            // own secrets.
            let seen = secrets::read(&secrets::of(&database), &id).await?;
            let channels = channels(&database);
            match expected {
                None if delete(&channels, named(&id)).await? => {}
                None => return Err(ChannelError::NotFound(id)),
                Some(expected) => compare_and_delete(&channels, &id, &expected).await?,
            }
            secrets::delete(&secrets::of(&database), &id, &seen).await;
            Ok(())
        })
        .await
    }

    async fn query(&self, filter: &Filter, page: &PageRequest) -> Result<ChannelPage, QueryError> {
        let (filter, page) = (filter.clone(), page.clone());
        self.run_query(CHANNELS, move |channels, max_time| async move {
            query::page(&channels, max_time, &filter, &page).await
        })
        .await
    }

    async fn ping(&self) -> Result<(), Unavailable> {
        self.run(|database| async move { database.run_command(doc! { "ping": 1 }).await.map(drop) })
            .await
    }

    async fn close(&self) {
        self.shut_down().await;
    }
}

fn unavailable(error: Error) -> Unavailable {
    match &*error.kind {
        ErrorKind::ServerSelection { message, .. } => Unavailable::new(NoServer::of(message)),
        _ => Unavailable::new(error),
    }
}

caused_by! { Error, unavailable => Unavailable ChannelError SecretsError ReplayError KeyError }

/// Exceeding the time limit of a query is not a failure of the server.
impl From<Error> for QueryError {
    fn from(error: Error) -> Self {
        match &*error.kind {
            ErrorKind::Command(command) if command.code == MAX_TIME_EXPIRED => Self::TooCostly,
            _ => unavailable(error).into(),
        }
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

fn named(id: &ChannelId) -> Document {
    doc! { "channel_id": id.as_str() }
}

fn versioned(document: Document) -> Result<Versioned, ChannelError> {
    document::versioned(value::to_json(document))
}

async fn read(channels: &Collection<Document>, id: &ChannelId) -> Result<Document, ChannelError> {
    channels
        .find_one(named(id))
        .await?
        .ok_or_else(|| ChannelError::NotFound(id.clone()))
}

async fn insert(
    channels: &Collection<Document>,
    id: ChannelId,
    document: Document,
    uniqueness: Uniqueness,
) -> Result<(), ChannelError> {
    let exists = match uniqueness {
        Uniqueness::Enforced => match channels.insert_one(document).await {
            Ok(_) => false,
            Err(error) if is_duplicate_key(&error) => true,
            Err(error) => return Err(error.into()),
        },
        // Without a unique index: an upsert is safe except for two exactly concurrent creations.
        Uniqueness::Impossible => {
            let inserted = channels
                .update_one(named(&id), doc! { "$setOnInsert": document })
                .upsert(true)
                .await?;
            inserted.matched_count > 0
        }
    };
    if exists {
        return Err(ChannelError::Exists(id));
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

async fn set(
    channels: &Collection<Document>,
    filter: Document,
    fields: Document,
) -> Result<Option<Document>, Error> {
    // Servers before 5.0 reject an empty `$set`.
    if fields.is_empty() {
        return channels.find_one(filter).await;
    }
    ledger::updated(channels, filter, doc! { "$set": fields }).await
}

/// Sets the fields if the document has the expected version, even if other clients ignore versions:
/// the write's filter names the values that were read. Without an expected version it names only
/// the metadata that was read.
async fn compare_and_set(
    channels: &Collection<Document>,
    id: &ChannelId,
    fields: Map<String, Value>,
    expected: Option<&Version>,
) -> Result<Document, ChannelError> {
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
    Err(ChannelError::Changed(id.clone()))
}

/// Pauses or resumes a channel, and returns it. Writes nothing if the state is the same.
async fn set_paused(
    channels: &Collection<Document>,
    id: &ChannelId,
    only: Option<&ChannelUid>,
    paused: bool,
) -> Result<Document, ChannelError> {
    for _ in 0..MAX_RACES {
        let found = read(channels, id).await?;
        if only.is_some_and(|only| *only != target::uid(&found)) {
            return Err(ChannelError::NotFound(id.clone()));
        }
        let mut fields = value::to_json(found.clone());
        if !document::set_paused(&mut fields, paused)? {
            return Ok(found);
        }
        fields.retain(|field, _| field == METADATA);
        let new = in_place(&found, fields);
        if let Some(updated) = set(channels, unchanged(&found, &[METADATA]), new).await? {
            return Ok(updated);
        }
    }
    Err(ChannelError::Changed(id.clone()))
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
) -> Result<(), ChannelError> {
    for _ in 0..MAX_RACES {
        let found = as_expected(channels, id, expected).await?;
        if delete(channels, unchanged(&found, &FIELDS)).await? {
            return Ok(());
        }
    }
    Err(ChannelError::Changed(id.clone()))
}

async fn delete(channels: &Collection<Document>, filter: Document) -> Result<bool, Error> {
    let deleted = channels.delete_one(filter).await?;
    Ok(deleted.deleted_count > 0)
}

async fn as_expected(
    channels: &Collection<Document>,
    id: &ChannelId,
    expected: &Version,
) -> Result<Document, ChannelError> {
    let found = read(channels, id).await?;
    if versioned(found.clone())?.version != *expected {
        return Err(ChannelError::Changed(id.clone()));
    }
    Ok(found)
}

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
        let error = unavailable(error);
        let text = std::error::Error::source(&error).unwrap().to_string();
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
