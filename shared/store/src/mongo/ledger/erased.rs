//! What is erased, or is to be: the erasures of sessions, and the marks of messages.
//!
//! Invariant: a writer stores contents first, and then reads from the primary whether they are erased.

use std::collections::{BTreeMap, BTreeSet};

use bson::{DateTime, Document, doc};
use futures::try_join;
use mongodb::Database;
use roundtrip_model::SessionId;
use serde::Deserialize;

use super::{
    ANSWERS, DEAD_LETTERS, ENTRIES, ERASURES, MESSAGES, Unreadable, bulk, no_body, primary,
    read_time, row, rows, stored, texts,
};
use crate::{
    DeadLetter, Erasure, Unavailable,
    ledger::{ERASED, Subject, latest_without_contents, without_contents},
};

/// How many entries are read at once.
const ENTRIES_STEP: i64 = 200;

#[derive(Deserialize)]
pub(super) struct ErasureRow {
    #[serde(rename = "_id")]
    session_id: SessionId,
    requested_at: DateTime,
    ended_at: Option<DateTime>,
}

impl ErasureRow {
    pub(super) fn erasure(self) -> Result<Erasure, Unreadable> {
        Ok(Erasure {
            session_id: self.session_id,
            requested_at: read_time(self.requested_at)?,
            ended_at: self.ended_at.map(read_time).transpose()?,
        })
    }
}

/// The erasures of those of these sessions that have one.
pub(super) async fn of_sessions(
    database: &Database,
    sessions: Vec<String>,
) -> Result<BTreeMap<SessionId, Erasure>, Unavailable> {
    let found = database
        .collection::<Document>(ERASURES)
        .find(doc! { "_id": { "$in": sessions } })
        .selection_criteria(primary())
        .await?;
    let erasures = rows(found, ErasureRow::erasure).await?.into_iter();
    Ok(erasures
        .map(|erasure| (erasure.session_id.clone(), erasure))
        .collect())
}

/// Erases what these entries have stored of subjects whose contents are erased.
pub(super) async fn erase_recorded(
    database: &Database,
    entries: &[(Subject, SessionId)],
) -> Result<(), Unavailable> {
    let sessions: BTreeMap<Subject, &SessionId> = entries
        .iter()
        .map(|(subject, session)| (*subject, session))
        .collect();
    let (mut messages, mut answers) = (Vec::new(), Vec::new());
    for subject in sessions.keys() {
        match subject {
            Subject::Message(id) => messages.push(id.to_string()),
            Subject::Answer(id) => answers.push(id.to_string()),
        }
    }
    let distinct: BTreeSet<&SessionId> = sessions.values().copied().collect();
    let distinct = distinct.into_iter().map(ToString::to_string).collect();
    let (mut messages, mut answers, erasures) = try_join!(
        marked(database, MESSAGES, messages),
        marked(database, ANSWERS, answers),
        of_sessions(database, distinct),
    )?;
    for (subject, session) in sessions {
        if let Some(erasure) = erasures.get(session)
            && erasure.covers_subject(&subject)
        {
            let (erased, id) = match subject {
                Subject::Message(id) => (&mut messages, id.to_string()),
                Subject::Answer(id) => (&mut answers, id.to_string()),
            };
            erased.entry(id).or_insert(stored(erasure.requested_at));
        }
    }
    for (at, ids) in by_time(messages) {
        erase_messages(database, ids, at).await?;
    }
    for (at, ids) in by_time(answers) {
        erase_answers(database, ids, at).await?;
    }
    Ok(())
}

/// Those of these ids that are marked as erased, and since when.
async fn marked(
    database: &Database,
    collection: &str,
    ids: Vec<String>,
) -> Result<BTreeMap<String, DateTime>, Unavailable> {
    #[derive(Deserialize)]
    struct Marked {
        #[serde(rename = "_id")]
        id: String,
        erased_at: DateTime,
    }

    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let marked = database
        .collection::<Document>(collection)
        .find(doc! { "_id": { "$in": ids }, "erased_at": { "$exists": true } })
        .projection(doc! { "erased_at": 1 })
        .selection_criteria(primary())
        .await?;
    let marked = rows(marked, |marked: Marked| Ok((marked.id, marked.erased_at))).await?;
    Ok(marked.into_iter().collect())
}

fn by_time(erased: BTreeMap<String, DateTime>) -> BTreeMap<DateTime, Vec<String>> {
    let mut by_time: BTreeMap<DateTime, Vec<String>> = BTreeMap::new();
    for (id, at) in erased {
        by_time.entry(at).or_default().push(id);
    }
    by_time
}

/// Erases those of these dead letters, just stored, that an erasure covers.
pub(super) async fn erase_inserted(
    database: &Database,
    letters: &[DeadLetter],
) -> Result<(), Unavailable> {
    let sessions: Vec<_> = letters
        .iter()
        .filter_map(|letter| letter.session_id.clone())
        .collect();
    for (session, erasure) in of_sessions(database, texts(&sessions)).await? {
        let ids = letters
            .iter()
            .filter(|letter| letter.session_id.as_ref() == Some(&session))
            .filter(|letter| erasure.covers_letter(letter))
            .map(|letter| letter.dead_id.clone());
        let at = stored(erasure.requested_at);
        erase_letters(database, ids.collect(), at).await?;
    }
    Ok(())
}

pub(super) async fn erase_letters(
    database: &Database,
    dead_ids: Vec<String>,
    at: DateTime,
) -> Result<(), Unavailable> {
    if dead_ids.is_empty() {
        return Ok(());
    }
    let change = doc! {
        "$set": { "body": no_body(), "reason.detail": ERASED },
        "$min": { "erased_at": at },
    };
    database
        .collection::<Document>(DEAD_LETTERS)
        .update_many(doc! { "_id": { "$in": dead_ids } }, change)
        .await?;
    Ok(())
}

/// Marks the messages first, so that a writer of further contents finds the mark.
pub(super) async fn erase_messages(
    database: &Database,
    ids: Vec<String>,
    at: DateTime,
) -> Result<(), Unavailable> {
    if ids.is_empty() {
        return Ok(());
    }
    let mark = doc! { "$unset": { "content": "" }, "$min": { "erased_at": at } };
    database
        .collection::<Document>(MESSAGES)
        .update_many(doc! { "_id": { "$in": &ids } }, mark)
        .await?;
    let change = doc! { "$set": { "content": "" }, "$min": { "erased_at": at } };
    database
        .collection::<Document>(ANSWERS)
        .update_many(doc! { "message_id": { "$in": &ids } }, change)
        .await?;
    let mut after = String::new();
    loop {
        match erase_events(database, &ids, &after).await? {
            Some(last) => after = last,
            None => return Ok(()),
        }
    }
}

/// Marks these answers without a message, and erases the texts of the sessions server in their
/// `latest` entry. An update applies only if `latest` is still as it was read: a writer that has
/// replaced it erases the texts itself.
pub(super) async fn erase_answers(
    database: &Database,
    ids: Vec<String>,
    at: DateTime,
) -> Result<(), Unavailable> {
    #[derive(Deserialize)]
    struct Stored {
        #[serde(rename = "_id")]
        callback_id: String,
        latest: String,
    }

    if ids.is_empty() {
        return Ok(());
    }
    let answers = database.collection::<Document>(ANSWERS);
    let change = doc! { "$set": { "content": "" }, "$min": { "erased_at": at } };
    answers
        .update_many(doc! { "_id": { "$in": &ids } }, change)
        .await?;
    let found = answers
        .find(doc! { "_id": { "$in": ids }, "latest": { "$exists": true } })
        .projection(doc! { "latest": 1 })
        .selection_criteria(primary())
        .await?;
    let mut updates = Vec::new();
    for answer in rows(found, |stored: Stored| Ok(stored)).await? {
        if let Some(erased) = latest_without_contents(&answer.latest).map_err(Unavailable::new)? {
            let bytes = answer.latest.len() + erased.len();
            let which = doc! { "_id": answer.callback_id, "latest": answer.latest };
            let change = doc! { "$set": { "latest": erased } };
            updates.push((doc! { "q": which, "u": change }, bytes));
        }
    }
    for updates in bulk::in_commands(updates) {
        bulk::update(database, ANSWERS, updates).await?;
    }
    Ok(())
}

/// Erases contents from the first entries after this id. Returns the last id if there may be more.
async fn erase_events(
    database: &Database,
    message_ids: &[String],
    after: &str,
) -> Result<Option<String>, Unavailable> {
    #[derive(Deserialize)]
    struct Stored {
        #[serde(rename = "_id")]
        entry_id: String,
        event: String,
    }

    let mut found = database
        .collection::<Document>(ENTRIES)
        .find(doc! { "message_id": { "$in": message_ids }, "_id": { "$gt": after } })
        .projection(doc! { "event": 1 })
        .sort(doc! { "_id": 1 })
        .limit(ENTRIES_STEP)
        .selection_criteria(primary())
        .await?;
    let (mut count, mut last, mut updates) = (0, None, Vec::new());
    while found.advance().await? {
        let document = found.deserialize_current()?;
        let entry: Stored = row(document)?;
        count += 1;
        if let Some(event) = without_contents(&entry.event).map_err(Unavailable::new)? {
            let bytes = event.len();
            let change = doc! { "$set": { "event": event } };
            updates.push((doc! { "q": { "_id": &entry.entry_id }, "u": change }, bytes));
        }
        last = Some(entry.entry_id);
    }
    for updates in bulk::in_commands(updates) {
        bulk::update(database, ENTRIES, updates).await?;
    }
    Ok(last.filter(|_| count == ENTRIES_STEP))
}
