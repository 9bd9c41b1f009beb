//! What happened to messages.
//!
//! Invariant: a message's document is changed by operators that commute and may be repeated
//! (`$max`, `$set` to what never changes), so that recorders need not agree on anything. It is
//! written before its entries: who sees an entry finds its message.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bson::{DateTime, Document, doc};
use mongodb::{
    Database,
    error::{IndexedWriteError, WriteConcernError},
};
use roundtrip_model::{
    ChannelId, Entry, EntryId, Event, MessageId, SessionId, State,
    journal::{Content, Position},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    super::{DUPLICATE_KEY, MongoChannels, away},
    ENTRIES, MESSAGES, Unreadable, document, of_channels, read_time, row, rows, stored, texts,
    unless_there,
};
use crate::{Detail, Journal, MAX_ENTRIES, MAX_PAGE, MessageFilter, MessageRecord, StoreError};

/// What stands in the place of an `Accepted`, whose content is kept with its message.
const ACCEPTED: &str = r#""accepted""#;
/// How many bytes of content one command carries; the server takes 16 MiB, with all that is
/// around them.
const COMMAND_BYTES: usize = 8 << 20;
/// About what an update takes beside its content.
const UPDATE_BYTES: usize = 1 << 10;
/// How often an update is sent that collides with another process's insert of the same message.
/// The second time finds the message there.
const COLLISION_TRIES: u32 = 3;

#[async_trait]
impl Journal for MongoChannels {
    async fn record(&self, entries: &[Entry]) -> Result<(), StoreError> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut advances = BTreeMap::new();
        let mut rows = Vec::with_capacity(entries.len());
        for entry in entries {
            advances
                .entry(entry.message_id)
                .and_modify(|advance: &mut Advance<'_>| advance.take(entry))
                .or_insert_with(|| Advance::of(entry));
            rows.push(document(&EntryRow::of(entry)?)?);
        }
        let commands = commands(advances.values());
        self.connection
            .run(move |_, database| async move {
                for updates in commands {
                    advance(&database, updates).await?;
                }
                let inserted = database
                    .collection::<Document>(ENTRIES)
                    .insert_many(rows)
                    .ordered(false)
                    .await;
                unless_there(inserted)
            })
            .await
    }

    async fn message(
        &self,
        id: &MessageId,
    ) -> Result<Option<(MessageRecord, Vec<Entry>)>, StoreError> {
        let id = id.to_string();
        self.connection
            .run(move |_, database| async move { message(&database, &id).await })
            .await
    }

    async fn messages(
        &self,
        filter: &MessageFilter,
        after: Option<&MessageId>,
        limit: u16,
        detail: Detail,
    ) -> Result<Vec<MessageRecord>, StoreError> {
        // MongoDB reads 0 as no limit.
        if limit == 0 {
            return Ok(Vec::new());
        }
        let filter = matching(filter, after);
        self.connection
            .run(move |_, database| async move {
                let messages = database.collection::<Document>(MESSAGES);
                let mut find = messages
                    .find(filter)
                    .sort(doc! { "_id": -1 })
                    .limit(i64::from(limit.min(MAX_PAGE)));
                if detail == Detail::Outline {
                    find = find.projection(doc! { "content": 0 });
                }
                rows(find.await.map_err(away)?, MessageRow::record).await
            })
            .await
    }

    async fn count_messages(&self, filter: &MessageFilter) -> Result<u64, StoreError> {
        let filter = matching(filter, None);
        self.connection
            .run(move |_, database| async move {
                let messages = database.collection::<Document>(MESSAGES);
                messages.count_documents(filter).await.map_err(away)
            })
            .await
    }
}

/// How far some entries bring a message.
struct Advance<'a> {
    first: &'a Entry,
    position: Position,
    round: u32,
    updated_at: DateTime,
    content: Option<&'a Content>,
}

impl<'a> Advance<'a> {
    fn of(entry: &'a Entry) -> Self {
        let mut advance = Self {
            first: entry,
            position: entry.position(),
            round: entry.round,
            updated_at: stored(entry.at),
            content: None,
        };
        advance.take(entry);
        advance
    }

    fn take(&mut self, entry: &'a Entry) {
        self.position = self.position.max(entry.position());
        self.round = self.round.max(entry.round);
        self.updated_at = self.updated_at.max(stored(entry.at));
        if let Event::Accepted(content) = &entry.event {
            self.content = Some(content);
        }
    }

    fn bytes(&self) -> usize {
        let said = |content: &Content| content.message.get().len() + content.response_url.len();
        UPDATE_BYTES + self.content.map_or(0, said)
    }

    /// A statement of an `update` command.
    fn update(&self) -> Document {
        let mut set = doc! {
            "channel_id": self.first.channel_id.as_str(),
            "session_id": self.first.session_id.as_str(),
        };
        if let Some(content) = self.content {
            set.insert(
                "content",
                doc! {
                    "message": content.message.get(),
                    "response_url": content.response_url.as_str(),
                },
            );
        }
        let max = doc! {
            // Documents compare field by field in their order, so the rank decides; and the
            // greatest rank brings its state with it.
            "position": { "r": self.position.rank, "s": self.position.state.as_str() },
            "round": i64::from(self.round),
            "updated_at": self.updated_at,
        };
        doc! {
            "q": { "_id": self.first.message_id.to_string() },
            "u": { "$max": max, "$set": set },
            "upsert": true,
        }
    }
}

/// Puts updates together, as many as one command carries.
fn commands<'a>(advances: impl Iterator<Item = &'a Advance<'a>>) -> Vec<Vec<Document>> {
    let mut commands = Vec::new();
    let (mut updates, mut bytes) = (Vec::new(), 0);
    for advance in advances {
        if bytes > 0 && bytes + advance.bytes() > COMMAND_BYTES {
            commands.push(std::mem::take(&mut updates));
            bytes = 0;
        }
        bytes += advance.bytes();
        updates.push(advance.update());
    }
    commands.push(updates);
    commands
}

/// What the server answers to an `update` command.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Updated {
    #[serde(default)]
    write_errors: Vec<IndexedWriteError>,
    write_concern_error: Option<WriteConcernError>,
}

/// An update that the server did not make, or did not make durable.
#[derive(Debug, thiserror::Error)]
#[error("the server answered with error {code}: {message}")]
struct Refused {
    code: i32,
    message: String,
}

/// Updates many messages, each in a way of its own, in one round trip. The driver's own call for
/// that needs server 8.0; the command is older than any that is supported.
async fn advance(database: &Database, mut updates: Vec<Document>) -> Result<(), StoreError> {
    let refused =
        |code, message: String| Err(StoreError::Away(Box::new(Refused { code, message })));
    for try_number in 1_u32.. {
        let mut command = doc! {
            "update": MESSAGES,
            "updates": updates.clone(),
            "ordered": false,
        };
        // The driver adds it to its own calls only.
        if let Some(concern) = database.write_concern() {
            command.insert("writeConcern", document(concern)?);
        }
        let answer = database.run_command(command).await.map_err(away)?;
        let answer: Updated = row(answer)?;
        let mut collided = Vec::new();
        for error in answer.write_errors {
            match updates.get(error.index) {
                Some(update) if error.code == DUPLICATE_KEY && try_number < COLLISION_TRIES => {
                    collided.push(update.clone());
                }
                _ => return refused(error.code, error.message),
            }
        }
        if let Some(error) = answer.write_concern_error {
            return refused(error.code, error.message);
        }
        if collided.is_empty() {
            break;
        }
        updates = collided;
    }
    Ok(())
}

async fn message(
    database: &Database,
    id: &str,
) -> Result<Option<(MessageRecord, Vec<Entry>)>, StoreError> {
    let latest = database
        .collection::<Document>(ENTRIES)
        .find(doc! { "message_id": id })
        .sort(doc! { "at": -1, "_id": -1 })
        .limit(i64::try_from(MAX_ENTRIES).unwrap_or(i64::MAX))
        .await
        .map_err(away)?;
    let mut latest: Vec<EntryRow> = rows(latest, Ok).await?;
    latest.reverse();
    let found = database
        .collection::<Document>(MESSAGES)
        .find_one(doc! { "_id": id })
        .await
        .map_err(away)?;
    let Some(found) = found else { return Ok(None) };
    let record = row::<MessageRow>(found)?.record()?;
    let entries: Result<_, Unreadable> = latest.iter().map(|row| row.entry(&record)).collect();
    Ok(Some((record, entries?)))
}

fn matching(filter: &MessageFilter, after: Option<&MessageId>) -> Document {
    let MessageFilter {
        message_ids,
        session,
        channel,
        channels,
        state,
        since: _,
        until: _,
    } = filter;
    let (from, before) = filter.id_bounds();
    let after = after.map(ToString::to_string);
    let mut id = Document::new();
    if let Some(ids) = message_ids {
        id.insert("$in", texts(ids));
    }
    id.extend(from.map(|from| ("$gte".to_owned(), from.into())));
    let before = before.into_iter().chain(after).min();
    id.extend(before.map(|before| ("$lt".to_owned(), before.into())));

    let mut filter = Document::new();
    if !id.is_empty() {
        filter.insert("_id", id);
    }
    if let Some(session) = session {
        filter.insert("session_id", session.as_str());
    }
    let of_channels = of_channels(channel.as_ref(), channels.as_deref());
    filter.extend(of_channels.map(|asked| ("channel_id".to_owned(), asked.into())));
    if let Some(state) = state {
        filter.insert("position.s", state.as_str());
    }
    filter
}

/// An entry as it is stored; its channel and session are its message's.
#[derive(Serialize, Deserialize)]
struct EntryRow {
    #[serde(rename = "_id")]
    entry_id: EntryId,
    message_id: MessageId,
    round: u32,
    at: DateTime,
    /// JSON, in which the numbers of an attempt keep their size.
    event: String,
}

impl EntryRow {
    fn of(entry: &Entry) -> Result<Self, StoreError> {
        let event = match &entry.event {
            Event::Accepted(_) => ACCEPTED.to_owned(),
            event => {
                serde_json::to_string(event).map_err(|error| StoreError::Away(Box::new(error)))?
            }
        };
        Ok(Self {
            entry_id: entry.entry_id,
            message_id: entry.message_id,
            round: entry.round,
            at: stored(entry.at),
            event,
        })
    }

    fn entry(&self, message: &MessageRecord) -> Result<Entry, Unreadable> {
        let event = match &message.content {
            Some(content) if self.event == ACCEPTED => Event::Accepted(Box::new(content.clone())),
            _ => serde_json::from_str(&self.event).map_err(|error| Unreadable(error.into()))?,
        };
        Ok(Entry {
            entry_id: self.entry_id,
            message_id: self.message_id,
            channel_id: message.channel_id.clone(),
            session_id: message.session_id.clone(),
            round: self.round,
            at: read_time(self.at)?,
            event,
        })
    }
}

/// A message as it is stored.
#[derive(Deserialize)]
struct MessageRow {
    #[serde(rename = "_id")]
    message_id: MessageId,
    channel_id: ChannelId,
    session_id: SessionId,
    position: PositionRow,
    round: u32,
    updated_at: DateTime,
    content: Option<ContentRow>,
}

#[derive(Deserialize)]
struct PositionRow {
    #[serde(rename = "s")]
    state: State,
}

#[derive(Deserialize)]
struct ContentRow {
    message: String,
    response_url: String,
}

impl MessageRow {
    fn record(self) -> Result<MessageRecord, Unreadable> {
        let content = match self.content {
            None => None,
            Some(content) => Some(Content {
                message: RawValue::from_string(content.message)
                    .map_err(|error| Unreadable(error.into()))?,
                response_url: content.response_url,
            }),
        };
        Ok(MessageRecord {
            message_id: self.message_id,
            channel_id: self.channel_id,
            session_id: self.session_id,
            state: self.position.state,
            round: self.round,
            updated_at: read_time(self.updated_at)?,
            content,
        })
    }
}

#[cfg(test)]
mod tests;
