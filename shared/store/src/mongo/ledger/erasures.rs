//! The erasure of contents.
//!
//! Invariant: an erasure is stored first and then reads what to erase, from the primary. A writer
//! does the opposite (`erased.rs`), so one of the two finds the contents, in any order.

use async_trait::async_trait;
use bson::{DateTime, Document, doc};
use mongodb::{Collection, Database};
use roundtrip_model::{CallbackId, MessageId, SessionId};
use serde::Deserialize;
use time::OffsetDateTime;

use super::{
    super::MongoStore,
    ANSWERS, DEAD_LETTERS, ERASURES, MESSAGES, WAITING,
    answers::matching,
    erased::{ErasureRow, erase_answers, erase_letters, erase_messages, of_sessions},
    named, primary, read_time, rows, stored, texts,
    waiting::{Row, cancel, outline},
};
use crate::{AnswerFilter, Erasure, Erasures, MAX_ERASED_AT_ONCE, TurnCursor, Unavailable};

#[async_trait]
impl Erasures for MongoStore {
    async fn request_erasure(
        &self,
        session: &SessionId,
        at: OffsetDateTime,
    ) -> Result<(), Unavailable> {
        let which = named(session);
        let change = doc! { "$max": { "requested_at": stored(at) }, "$unset": { "ended_at": "" } };
        self.on(ERASURES, move |erasures: Collection<Document>| async move {
            let update = erasures.update_one(which, change).upsert(true);
            update.await.map(drop)
        })
        .await
    }

    async fn erasure(&self, session: &SessionId) -> Result<Option<Erasure>, Unavailable> {
        let sessions = vec![session.to_string()];
        self.run(move |database| async move {
            let found = of_sessions(&database, sessions).await?;
            Ok::<_, Unavailable>(found.into_values().next())
        })
        .await
    }

    async fn unfinished_erasures(&self, limit: u16) -> Result<Vec<Erasure>, Unavailable> {
        // MongoDB reads 0 as no limit.
        if limit == 0 {
            return Ok(Vec::new());
        }
        self.on(ERASURES, move |erasures: Collection<Document>| async move {
            let found = erasures
                .find(doc! { "ended_at": null })
                .sort(doc! { "requested_at": 1, "_id": 1 })
                .limit(i64::from(limit))
                .selection_criteria(primary())
                .await?;
            Ok::<_, Unavailable>(rows(found, ErasureRow::erasure).await?)
        })
        .await
    }

    async fn erase_session(
        &self,
        erasure: &Erasure,
        now: OffsetDateTime,
    ) -> Result<(), Unavailable> {
        // First, so that no further attempt begins. In steps, because each has its own time limit.
        for contents in [Contents::Waiting, Contents::Letters, Contents::Messages] {
            let mut after = String::new();
            loop {
                let of = erasure.clone();
                let step = self.run::<_, _, Unavailable, _>(move |database| async move {
                    contents.erase_step(&database, &of, &after).await
                });
                match step.await? {
                    Some(last) => after = last,
                    None => break,
                }
            }
        }
        let mut after = None;
        loop {
            let of = erasure.clone();
            let step = self.run::<_, _, Unavailable, _>(move |database| async move {
                erase_answers_after(&database, &of, after.as_ref()).await
            });
            after = step.await?;
            if after.is_none() {
                break;
            }
        }
        let mut which = named(&erasure.session_id);
        which.insert("requested_at", stored(erasure.requested_at));
        let end = doc! { "$set": { "ended_at": stored(now) } };
        self.on(ERASURES, move |erasures: Collection<Document>| async move {
            erasures.update_one(which, end).await.map(drop)
        })
        .await
    }

    async fn erase_messages(
        &self,
        ids: &[MessageId],
        at: OffsetDateTime,
    ) -> Result<(), Unavailable> {
        let (ids, at) = (texts(ids), stored(at));
        self.run(move |database| async move { erase_messages(&database, ids, at).await })
            .await
    }

    async fn erase_answers(
        &self,
        ids: &[CallbackId],
        at: OffsetDateTime,
    ) -> Result<(), Unavailable> {
        let (ids, at) = (texts(ids), stored(at));
        self.run(move |database| async move { erase_answers(&database, ids, at).await })
            .await
    }

    async fn erase_dead_letters(
        &self,
        dead_ids: &[String],
        at: OffsetDateTime,
    ) -> Result<(), Unavailable> {
        let (dead_ids, at) = (texts(dead_ids), stored(at));
        self.run(move |database| async move { erase_letters(&database, dead_ids, at).await })
            .await
    }
}

/// What is erased of a session, each in steps.
#[derive(Clone, Copy)]
enum Contents {
    Waiting,
    Letters,
    Messages,
}

impl Contents {
    /// Erases the first of what follows this id. Returns the last id if there may be more.
    async fn erase_step(
        self,
        database: &Database,
        erasure: &Erasure,
        after: &str,
    ) -> Result<Option<String>, Unavailable> {
        let session = erasure.session_id.as_str();
        let end = erasure.end_of_ids();
        let at = stored(erasure.requested_at);
        let (collection, which) = match self {
            Self::Waiting => (WAITING, doc! { "_id": { "$gt": after, "$lt": end } }),
            Self::Messages => (MESSAGES, doc! { "_id": { "$gt": after, "$lt": end } }),
            Self::Letters => (
                DEAD_LETTERS,
                doc! {
                    "replayed": { "$in": [false, true] },
                    "_id": { "$gt": after },
                    "$or": [
                        { "message_id": { "$lt": end } },
                        { "message_id": null, "parcel_id": { "$lt": erasure.end_of_answer_ids() } },
                    ],
                },
            ),
        };
        let mut asked = doc! { "session_id": session };
        asked.extend(which);
        let collection = database.collection::<Document>(collection);
        let found = collection
            .find(asked)
            .sort(doc! { "_id": 1 })
            .limit(i64::from(MAX_ERASED_AT_ONCE))
            .selection_criteria(primary());
        let ids: Vec<String> = match self {
            Self::Waiting => {
                let found = found.projection(outline()).await?;
                let messages = rows(found, Row::message).await?;
                cancel(database, &messages, erasure.requested_at).await?;
                messages.into_iter().map(|message| message.id).collect()
            }
            Self::Letters | Self::Messages => {
                let found = found.projection(doc! { "_id": 1 }).await?;
                let ids = rows(found, |found: Found| Ok(found.id)).await?;
                match self {
                    Self::Letters => erase_letters(database, ids.clone(), at).await?,
                    _ => erase_messages(database, ids.clone(), at).await?,
                }
                ids
            }
        };
        let is_full = ids.len() == usize::from(MAX_ERASED_AT_ONCE);
        Ok(ids.into_iter().next_back().filter(|_| is_full))
    }
}

/// Erases the first of a session's answers without a message that follow this place. Returns the last
/// place if there may be more.
async fn erase_answers_after(
    database: &Database,
    erasure: &Erasure,
    after: Option<&TurnCursor>,
) -> Result<Option<TurnCursor>, Unavailable> {
    #[derive(Deserialize)]
    struct Found {
        #[serde(rename = "_id")]
        callback_id: CallbackId,
        at: DateTime,
    }

    let of_session = AnswerFilter {
        session: Some(erasure.session_id.clone()),
        without_message: true,
        ..AnswerFilter::default()
    };
    let mut asked = matching(&of_session, after);
    asked.insert("_id", doc! { "$lt": erasure.end_of_answer_ids() });
    let found = database
        .collection::<Document>(ANSWERS)
        .find(asked)
        .projection(doc! { "at": 1 })
        .sort(doc! { "at": 1, "_id": 1 })
        .limit(i64::from(MAX_ERASED_AT_ONCE))
        .selection_criteria(primary())
        .await?;
    let found = rows(found, |found: Found| {
        Ok((found.callback_id, read_time(found.at)?))
    });
    let found = found.await?;
    let ids: Vec<_> = found.iter().map(|(id, _)| *id).collect();
    erase_answers(database, texts(&ids), stored(erasure.requested_at)).await?;
    let is_full = found.len() == usize::from(MAX_ERASED_AT_ONCE);
    let last = found.last().filter(|_| is_full);
    Ok(last.map(|(id, at)| TurnCursor::after_answer(*at, *id)))
}

#[derive(Deserialize)]
struct Found {
    #[serde(rename = "_id")]
    id: String,
}
