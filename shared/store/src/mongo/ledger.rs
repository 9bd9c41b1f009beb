//! The collections about messages, one for each kind.
//!
//! Invariant: a write never depends on an earlier read, unless its filter names the value that was
//! read. So any number of processes may write concurrently. Times are milliseconds, as in MongoDB.

mod answers;
mod bulk;
mod dead_letters;
mod erased;
mod erasures;
mod idempotency;
mod journal;
mod keys;
mod replays;
mod session_events;
mod waiting;

use std::{collections::BTreeSet, error, time::Duration};

use bson::{Binary, Bson, DateTime, Document, doc, spec::BinarySubtype};
use futures::TryStreamExt;
use mongodb::{
    Collection, Cursor,
    error::{Error, ErrorKind},
    options::{ReadPreference, ReturnDocument, SelectionCriteria},
};
use roundtrip_model::{ChannelId, millis};
use serde::{Deserialize, de::DeserializeOwned};
use time::OffsetDateTime;

use super::{DUPLICATE_KEY, is_duplicate_key};
use crate::{
    Detail, QueryError, Unavailable, document::say_passed_over, error::caused_by, ledger::MAX_ROWS,
    page::PageBudget,
};

pub(super) const ENTRIES: &str = "entries";
pub(super) const ANSWERS: &str = "answers";
pub(super) const MESSAGES: &str = "messages";
pub(super) const DEAD_LETTERS: &str = "dead_letters";
pub(super) const ERASURES: &str = "erasures";
pub(super) const REPLAYS: &str = "replays";
pub(super) const SESSION_EVENTS: &str = "session_events";
pub(super) const IDEMPOTENCY: &str = "idempotency";
pub(super) const API_KEYS: &str = "api_keys";
pub(super) const WAITING: &str = "waiting";
pub(super) const WAITING_CHANNELS: &str = "waiting_channels";

/// More documents than a caller can be limited to, so as a limit it removes nothing. It keeps the
/// server from evaluating the caller's conditions first, as it may within one filter.
const BARRIER: i64 = i32::MAX as i64;

/// Reads what a secondary may still lack, or still have although it was removed.
fn primary() -> SelectionCriteria {
    SelectionCriteria::ReadPreference(ReadPreference::Primary)
}

/// A time as it is stored, truncated to milliseconds.
fn stored(at: OffsetDateTime) -> DateTime {
    DateTime::from_millis(millis::of(at))
}

/// The first stored time at or after this one.
fn stored_from(at: OffsetDateTime) -> DateTime {
    DateTime::from_millis(millis::not_before(at))
}

/// The stored time that is later by this duration.
fn later(at: DateTime, by: std::time::Duration) -> DateTime {
    let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
    DateTime::from_millis(at.timestamp_millis().saturating_add(by))
}

/// The next stored time. For `$lt`, because with `$lte` SecantusDB omits the bound if another field
/// follows in the index.
fn just_after(at: OffsetDateTime) -> DateTime {
    later(stored(at), Duration::from_millis(1))
}

fn read_time(at: DateTime) -> Result<OffsetDateTime, Unreadable> {
    millis::time(at.timestamp_millis()).map_err(|error| Unreadable(error.into()))
}

fn binary(bytes: &[u8]) -> Binary {
    Binary {
        subtype: BinarySubtype::Generic,
        bytes: bytes.to_vec(),
    }
}

/// The body of a document that was read without it.
fn no_body() -> Binary {
    binary(&[])
}

#[derive(Debug, thiserror::Error)]
#[error("a stored document cannot be read")]
struct Unreadable(#[source] Box<dyn error::Error + Send + Sync>);

caused_by! { Unreadable, Unavailable::new => Unavailable QueryError }

fn row<T: DeserializeOwned>(document: Document) -> Result<T, Unreadable> {
    bson::deserialize_from_document(document).map_err(|error| Unreadable(error.into()))
}

/// Reads a query's results. Documents that cannot be read are skipped and logged, so that they do
/// not hide the others.
async fn rows<R: DeserializeOwned, T>(
    mut found: Cursor<Document>,
    read: impl Fn(R) -> Result<T, Unreadable>,
) -> Result<Vec<T>, Error> {
    let mut all = Vec::new();
    while let Some(document) = found.try_next().await? {
        match row(document).and_then(&read) {
            Ok(one) => all.push(one),
            Err(Unreadable(error)) => say_passed_over(&error),
        }
    }
    Ok(all)
}

/// As [`rows`], but ends when the page is full.
async fn page<R: DeserializeOwned, T>(
    mut found: Cursor<Document>,
    detail: Detail,
    read: impl Fn(R) -> Result<T, Unreadable>,
) -> Result<Vec<T>, Error> {
    let mut budget = PageBudget::of(MAX_ROWS);
    let mut page = Vec::new();
    while found.advance().await? {
        let raw = found.current();
        if detail == Detail::Whole && !budget.take(raw.as_bytes().len()) {
            break;
        }
        let document = Document::try_from(raw).map_err(|error| Unreadable(error.into()));
        match document.and_then(row).and_then(&read) {
            Ok(one) => page.push(one),
            Err(Unreadable(error)) => say_passed_over(&error),
        }
    }
    Ok(page)
}

#[derive(Debug, PartialEq)]
struct Asked {
    first: Document,
    /// Conditions for the documents that `first` finds, if the caller is limited to some channels.
    /// Otherwise the query's duration would reveal something about other channels.
    then: Document,
}

impl Asked {
    /// All conditions in one filter, if the caller is not limited, or looks up ids.
    fn at_once(self) -> Document {
        let Self { mut first, then } = self;
        first.extend(then);
        first
    }

    fn stages(self) -> Vec<Document> {
        let mut stages = vec![doc! { "$match": self.first }];
        if !self.then.is_empty() {
            stages.push(doc! { "$limit": BARRIER });
            stages.push(doc! { "$match": self.then });
        }
        stages
    }

    async fn page(
        self,
        collection: &Collection<Document>,
        max_time: Duration,
        order: i32,
        limit: u16,
        left_out: Option<&str>,
    ) -> Result<Cursor<Document>, Error> {
        let (order, limit) = (doc! { "_id": order }, i64::from(limit));
        let projection = left_out.map(|field| doc! { field: 0 });
        if self.then.is_empty() {
            let mut found = collection
                .find(self.first)
                .sort(order)
                .limit(limit)
                .max_time(max_time);
            if let Some(fields) = projection {
                found = found.projection(fields);
            }
            return found.await;
        }
        let mut stages = self.stages();
        stages.insert(1, doc! { "$sort": order });
        stages.push(doc! { "$limit": limit });
        stages.extend(projection.map(|fields| doc! { "$project": fields }));
        collection.aggregate(stages).max_time(max_time).await
    }

    async fn count(
        self,
        collection: &Collection<Document>,
        max_time: Duration,
    ) -> Result<u64, QueryError> {
        if self.then.is_empty() {
            let counted = collection.count_documents(self.first).max_time(max_time);
            return Ok(counted.await?);
        }
        let mut stages = self.stages();
        stages.push(doc! { "$count": "found" });
        let counted = collection.aggregate(stages).max_time(max_time);
        let mut counted = counted.await?;
        match counted.try_next().await? {
            // `$count` returns no document for an empty input.
            None => Ok(0),
            Some(counted) => {
                let found = row::<Counted>(counted)?.found;
                Ok(found.unsigned_abs())
            }
        }
    }
}

#[derive(Deserialize)]
struct Counted {
    found: i64,
}

fn named(id: &impl ToString) -> Document {
    doc! { "_id": id.to_string() }
}

pub(super) async fn updated(
    collection: &Collection<Document>,
    filter: Document,
    change: Document,
) -> Result<Option<Document>, Error> {
    collection
        .find_one_and_update(filter, change)
        .return_document(ReturnDocument::After)
        .await
}

fn document(row: &impl serde::Serialize) -> Result<Document, Unavailable> {
    bson::serialize_to_document(row).map_err(Unavailable::new)
}

fn name(variant: &impl serde::Serialize) -> Result<Bson, Unavailable> {
    bson::serialize_to_bson(variant).map_err(Unavailable::new)
}

/// Accepts an insert of existing documents: an earlier call wrote them, and its response was lost.
fn unless_there<T>(inserted: Result<T, Error>) -> Result<(), Error> {
    those_there(inserted).map(drop)
}

/// As [`unless_there`], and returns the places of the existing documents among those of the insert.
fn those_there<T>(inserted: Result<T, Error>) -> Result<Vec<usize>, Error> {
    let Err(error) = inserted else {
        return Ok(Vec::new());
    };
    let there: Option<Vec<usize>> = match &*error.kind {
        ErrorKind::InsertMany(failed) if failed.write_concern_error.is_none() => {
            let errors = failed.write_errors.iter().flatten();
            let there = errors.map(|error| (error.code == DUPLICATE_KEY).then_some(error.index));
            there.collect()
        }
        _ => is_duplicate_key(&error).then(|| vec![0]),
    };
    there.ok_or(error)
}

/// The conditions on one channel and on a list of channels, if there are any.
fn of_channels(channel: Option<&ChannelId>, channels: Option<&[ChannelId]>) -> Option<Document> {
    let mut asked = Document::new();
    asked.extend(channel.map(|channel| ("$eq".to_owned(), channel.as_str().into())));
    asked.extend(channels.map(|channels| ("$in".to_owned(), texts(channels).into())));
    (!asked.is_empty()).then_some(asked)
}

fn texts<T: ToString>(all: &[T]) -> Vec<String> {
    let once: BTreeSet<String> = all.iter().map(T::to_string).collect();
    once.into_iter().collect()
}
