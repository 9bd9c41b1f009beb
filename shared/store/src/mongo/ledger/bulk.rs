//! Many writes to one collection, each different, in one command.
//!
//! The driver's own call for that needs server 8.0; every supported server has these commands.
//!
//! Invariant: no command is larger than the server accepts.

use bson::{Document, doc};
use mongodb::{
    Database,
    error::{IndexedWriteError, WriteConcernError},
};
use serde::Deserialize;

use super::{super::DUPLICATE_KEY, document, row};
use crate::Unavailable;

/// How many bytes of content one command carries. The server's limit is 16 MiB, including
/// everything else in the command.
const COMMAND_BYTES: usize = 8 << 20;
/// The approximate size of a statement without its content.
const STATEMENT_BYTES: usize = 1 << 10;
/// How often an update is sent that collides with another process's insert of the same document.
/// The second attempt finds the document.
const COLLISION_ATTEMPTS: u32 = 3;

pub(super) fn in_commands(
    statements: impl IntoIterator<Item = (Document, usize)>,
) -> Vec<Vec<Document>> {
    let mut commands = Vec::new();
    let (mut command, mut bytes) = (Vec::new(), 0);
    for (statement, content) in statements {
        let more = STATEMENT_BYTES + content;
        if bytes > 0 && bytes + more > COMMAND_BYTES {
            commands.push(std::mem::take(&mut command));
            bytes = 0;
        }
        bytes += more;
        command.push(statement);
    }
    if !command.is_empty() {
        commands.push(command);
    }
    commands
}

pub(super) async fn update(
    database: &Database,
    collection: &str,
    updates: Vec<Document>,
) -> Result<(), Unavailable> {
    match collisions(database, collection, updates).await?.pop() {
        Some(collision) => Err(Refused::of(collision)),
        None => Ok(()),
    }
}

/// Sends an `update` command of upserts that do not find an existing document which stays as it is.
/// The server reports these as duplicate keys.
pub(super) async fn upsert(
    database: &Database,
    collection: &str,
    updates: Vec<Document>,
) -> Result<(), Unavailable> {
    collisions(database, collection, updates).await.map(drop)
}

pub(super) async fn delete(
    database: &Database,
    collection: &str,
    deletes: Vec<Document>,
) -> Result<(), Unavailable> {
    let command = doc! { "delete": collection, "deletes": deletes, "ordered": false };
    match send(database, command).await?.pop() {
        Some(error) => Err(Refused::of(error)),
        None => Ok(()),
    }
}

/// Sends an `update` command, and sends what collides again. Returns the last collisions.
async fn collisions(
    database: &Database,
    collection: &str,
    mut updates: Vec<Document>,
) -> Result<Vec<IndexedWriteError>, Unavailable> {
    let mut collisions = Vec::new();
    for _ in 0..COLLISION_ATTEMPTS {
        let command = doc! { "update": collection, "updates": updates.clone(), "ordered": false };
        collisions = send(database, command).await?;
        let mut collided = Vec::new();
        for error in &collisions {
            match updates.get(error.index) {
                Some(update) if error.code == DUPLICATE_KEY => collided.push(update.clone()),
                _ => return Err(Refused::of(error.clone())),
            }
        }
        if collided.is_empty() {
            break;
        }
        updates = collided;
    }
    Ok(collisions)
}

/// The server's response to a command of several writes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    #[serde(default)]
    write_errors: Vec<IndexedWriteError>,
    write_concern_error: Option<WriteConcernError>,
}

/// A write that the server did not make, or did not make durable.
#[derive(Debug, thiserror::Error)]
#[error("the server answered with error {code}: {message}")]
struct Refused {
    code: i32,
    message: String,
}

impl Refused {
    fn of(error: IndexedWriteError) -> Unavailable {
        let (code, message) = (error.code, error.message);
        Unavailable::new(Self { code, message })
    }
}

async fn send(
    database: &Database,
    mut command: Document,
) -> Result<Vec<IndexedWriteError>, Unavailable> {
    // The driver adds the write concern only to its own calls.
    if let Some(concern) = database.write_concern() {
        command.insert("writeConcern", document(concern)?);
    }
    let written: Written = row(database.run_command(command).await?)?;
    if let Some(error) = written.write_concern_error {
        let (code, message) = (error.code, error.message);
        return Err(Unavailable::new(Refused { code, message }));
    }
    Ok(written.write_errors)
}
