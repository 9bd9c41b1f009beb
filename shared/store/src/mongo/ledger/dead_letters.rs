//! Dead letters.
//!
//! Invariant: storing an existing dead letter again leaves it unchanged, in particular a replayed
//! one, which is kept without its contents.

use async_trait::async_trait;
use bson::{Binary, DateTime, Document, doc};
use mongodb::{Collection, error::Error};
use roundtrip_model::{ChannelId, DeadReason, MessageId, ReplayId, SessionId};
use serde::{Deserialize, Serialize};

use super::{
    super::MongoStore, Asked, DEAD_LETTERS, Unreadable, binary, document, erased::erase_inserted,
    name, no_body, of_channels, read_time, rows, stored, stored_from, texts, unless_there,
};
use crate::{
    DeadFilter, DeadLetter, DeadLetters, DeadQueue, Detail, MAX_PAGE, QueryError, Unavailable,
    ledger::MAX_ROWS,
};

/// How many dead letters one step of a purge removes. Each step has its own time limit.
const PURGE_STEP: u16 = MAX_PAGE;

#[async_trait]
impl DeadLetters for MongoStore {
    async fn insert(&self, letters: &[DeadLetter]) -> Result<(), Unavailable> {
        if letters.is_empty() {
            return Ok(());
        }
        let rows: Result<Vec<_>, _> = letters
            .iter()
            .map(|letter| document(&LetterRow::of(letter)))
            .collect();
        let rows = rows?;
        let inserted = letters.to_vec();
        self.run(move |database| async move {
            let letters = database.collection::<Document>(DEAD_LETTERS);
            unless_there(letters.insert_many(rows).ordered(false).await)?;
            erase_inserted(&database, &inserted).await
        })
        .await
    }

    async fn dead_letters(
        &self,
        filter: &DeadFilter,
        after: Option<&str>,
        limit: u16,
        detail: Detail,
    ) -> Result<Vec<DeadLetter>, QueryError> {
        // MongoDB reads 0 as no limit.
        if limit == 0 {
            return Ok(Vec::new());
        }
        let asked = matching(filter, after)?;
        let page = move |letters, max_time| async move {
            let left_out = (detail == Detail::Outline).then_some("body");
            let limit = limit.min(MAX_ROWS);
            let found = asked.page(&letters, max_time, 1, limit, left_out).await?;
            super::page(found, detail, LetterRow::letter).await
        };
        match detail {
            Detail::Outline => self.run_query(DEAD_LETTERS, page).await,
            // For a replay, which must not wait for clients' queries.
            Detail::Whole => self.read(DEAD_LETTERS, page).await,
        }
    }

    async fn count_dead_letters(&self, filter: &DeadFilter) -> Result<u64, QueryError> {
        let asked = matching(filter, None)?;
        self.run_query(DEAD_LETTERS, move |letters, max_time| async move {
            asked.count(&letters, max_time).await
        })
        .await
    }

    async fn mark_replayed(&self, dead_ids: &[String], by: &ReplayId) -> Result<(), Unavailable> {
        if dead_ids.is_empty() {
            return Ok(());
        }
        let which = doc! { "_id": { "$in": texts(dead_ids) }, "replayed": false };
        let change = doc! {
            "$set": {
                "replayed": true,
                "replayed_by": by.to_string(),
                "body": no_body(),
                "reason.detail": "",
            },
            "$currentDate": { "replayed_at": true },
        };
        self.on(DEAD_LETTERS, move |letters| async move {
            let marked = letters.update_many(which, change).await;
            marked.map(drop)
        })
        .await
    }

    async fn count_replayed(&self, by: &ReplayId, after: Option<&str>) -> Result<u64, Unavailable> {
        // Without an index: this runs only when a replay is resumed.
        let which = doc! {
            "_id": { "$gt": after.unwrap_or_default() },
            "replayed_by": by.to_string(),
        };
        self.on(DEAD_LETTERS, move |letters| async move {
            letters.count_documents(which).await
        })
        .await
    }

    async fn purge_dead_letters(&self, filter: &DeadFilter) -> Result<u64, Unavailable> {
        let mut purged = 0;
        let mut last: Option<String> = None;
        loop {
            let filter = matching(filter, last.as_deref())?.at_once();
            let step = self.on::<_, _, Unavailable, _>(DEAD_LETTERS, move |letters| async move {
                purge_step(&letters, filter).await
            });
            let (removed, found) = step.await?;
            purged += removed;
            if found.is_none() {
                return Ok(purged);
            }
            last = found;
        }
    }
}

/// Returns how many dead letters it removed, and the last one that it found.
async fn purge_step(
    letters: &Collection<Document>,
    filter: Document,
) -> Result<(u64, Option<String>), Error> {
    #[derive(Deserialize)]
    struct Found {
        #[serde(rename = "_id")]
        dead_id: String,
    }

    let found = letters
        .find(filter)
        .projection(doc! { "_id": 1 })
        .sort(doc! { "_id": 1 })
        .limit(i64::from(PURGE_STEP))
        .await?;
    let ids: Vec<String> = rows(found, |found: Found| Ok(found.dead_id)).await?;
    let last = ids.last().cloned();
    if last.is_none() {
        return Ok((0, None));
    }
    // The filter excludes those that were replayed meanwhile.
    let deleted = letters
        .delete_many(doc! { "_id": { "$in": ids }, "replayed": false })
        .await?;
    Ok((deleted.deleted_count, last))
}

fn matching(filter: &DeadFilter, after: Option<&str>) -> Result<Asked, Unavailable> {
    let DeadFilter {
        ids,
        queue,
        channel,
        channels,
        session,
        reason,
        since,
        until,
    } = filter;
    let mut first = doc! { "replayed": false };
    if let Some(after) = after {
        first.insert("_id", doc! { "$gt": after });
    }
    if let Some(ids) = ids {
        let ids = texts(ids);
        let by_dead_id = doc! { "_id": { "$in": ids.clone() } };
        first.insert(
            "$or",
            vec![by_dead_id, doc! { "parcel_id": { "$in": ids } }],
        );
    }
    let of_channels = of_channels(channel.as_ref(), channels.as_deref());
    first.extend(of_channels.map(|asked| ("channel_id".to_owned(), asked.into())));
    if let Some(session) = session {
        first.insert("session_id", session.as_str());
    }
    let mut then = Document::new();
    if let Some(queue) = queue {
        then.insert("queue", name(queue)?);
    }
    if let Some(reason) = reason {
        then.insert("reason.kind", reason.as_str());
    }
    let mut dead_at = Document::new();
    dead_at.extend(since.map(|since| ("$gte".to_owned(), stored_from(since).into())));
    dead_at.extend(until.map(|until| ("$lt".to_owned(), stored_from(until).into())));
    if !dead_at.is_empty() {
        then.insert("dead_at", dead_at);
    }
    let asked = Asked { first, then };
    // A named session or dead letter is found by its id.
    if channels.is_some() && ids.is_none() && session.is_none() {
        return Ok(asked);
    }
    Ok(Asked {
        first: asked.at_once(),
        then: Document::new(),
    })
}

#[derive(Serialize, Deserialize)]
struct LetterRow {
    #[serde(rename = "_id")]
    dead_id: String,
    queue: DeadQueue,
    #[serde(rename = "parcel_id")]
    webhook_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<MessageId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel_id: Option<ChannelId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<SessionId>,
    reason: DeadReason,
    tries: u32,
    round: u32,
    accepted_at: DateTime,
    dead_at: DateTime,
    /// Absent with [`Detail::Outline`].
    #[serde(default = "no_body")]
    body: Binary,
    /// Written in every document, so that an index finds those with `false`.
    replayed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    erased_at: Option<DateTime>,
}

impl LetterRow {
    fn of(letter: &DeadLetter) -> Self {
        Self {
            dead_id: letter.dead_id.clone(),
            queue: letter.queue,
            webhook_id: letter.webhook_id.clone(),
            message_id: letter.message_id,
            channel_id: letter.channel_id.clone(),
            session_id: letter.session_id.clone(),
            reason: letter.reason.clone(),
            tries: letter.attempts,
            round: letter.replay_count,
            accepted_at: stored(letter.accepted_at),
            dead_at: stored(letter.dead_at),
            body: binary(&letter.body),
            replayed: false,
            erased_at: letter.contents_erased_at.map(stored),
        }
    }

    fn letter(self) -> Result<DeadLetter, Unreadable> {
        Ok(DeadLetter {
            dead_id: self.dead_id,
            queue: self.queue,
            webhook_id: self.webhook_id,
            message_id: self.message_id,
            channel_id: self.channel_id,
            session_id: self.session_id,
            reason: self.reason,
            attempts: self.tries,
            replay_count: self.round,
            accepted_at: read_time(self.accepted_at)?,
            dead_at: read_time(self.dead_at)?,
            body: self.body.bytes.into(),
            contents_erased_at: self.erased_at.map(read_time).transpose()?,
        })
    }
}
