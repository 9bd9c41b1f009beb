//! The contents of answers, as a replay reads them.

use async_trait::async_trait;
use bson::{Bson, DateTime, Document, doc};
use roundtrip_model::CallbackId;
use serde::Deserialize;
use time::OffsetDateTime;

use super::{
    super::MongoStore, ANSWERS, journal::AnswerRow, of_channels, page, read_time, rows,
    stored_from, texts,
};
use crate::{
    AnswerFilter, Detail, KeptAnswers, MAX_PAGE, QueryError, StoredAnswer, TurnCursor,
    ledger::MAX_ROWS,
};

#[async_trait]
impl KeptAnswers for MongoStore {
    async fn kept_answers(
        &self,
        filter: &AnswerFilter,
        after: Option<&TurnCursor>,
        limit: u16,
    ) -> Result<Vec<StoredAnswer>, QueryError> {
        // MongoDB reads 0 as no limit.
        if limit == 0 {
            return Ok(Vec::new());
        }
        let asked = matching(filter, after);
        self.read(ANSWERS, move |answers, max_time| async move {
            let found = answers
                .find(asked)
                .sort(doc! { "at": 1, "_id": 1 })
                .limit(i64::from(limit.min(MAX_ROWS)))
                .max_time(max_time)
                .await?;
            page(found, Detail::Whole, AnswerRow::stored).await
        })
        .await
    }

    async fn count_kept_answers(&self, filter: &AnswerFilter) -> Result<u64, QueryError> {
        let asked = matching(filter, None);
        self.run_query(ANSWERS, move |answers, max_time| async move {
            answers.count_documents(asked).max_time(max_time).await
        })
        .await
    }

    async fn kept_answer_ids(
        &self,
        filter: &AnswerFilter,
    ) -> Result<Vec<(CallbackId, Option<OffsetDateTime>)>, QueryError> {
        #[derive(Deserialize)]
        struct Id {
            #[serde(rename = "_id")]
            callback_id: CallbackId,
            erased_at: Option<DateTime>,
        }

        let asked = matching(filter, None);
        self.run_query(ANSWERS, move |answers, max_time| async move {
            let found = answers
                .find(asked)
                .projection(doc! { "erased_at": 1 })
                .limit(i64::from(MAX_PAGE))
                .max_time(max_time)
                .await?;
            rows(found, |id: Id| {
                let erased_at = id.erased_at.map(read_time).transpose()?;
                Ok((id.callback_id, erased_at))
            })
            .await
        })
        .await
    }
}

pub(super) fn matching(filter: &AnswerFilter, after: Option<&TurnCursor>) -> Document {
    let AnswerFilter {
        callback_ids,
        session,
        channel,
        channels,
        without_message,
        since,
        until,
    } = filter;
    let mut asked = Document::new();
    if let Some(ids) = callback_ids {
        asked.insert("_id", doc! { "$in": texts(ids) });
    }
    if let Some(session) = session {
        asked.insert("session_id", session.as_str());
    }
    if let Some(of_channels) = of_channels(channel.as_ref(), channels.as_deref()) {
        asked.insert("channel_id", of_channels);
    }
    if *without_message {
        asked.insert("message_id", Bson::Null);
    }
    let mut from = since.map(stored_from);
    if let Some(after) = after {
        let (at, id) = after.answer();
        let at = DateTime::from_millis(at);
        let later = doc! { "at": { "$gt": at } };
        let same_time = doc! { "at": at, "_id": { "$gt": id } };
        asked.insert("$or", [later, same_time].to_vec());
        // Lets the index find the place.
        from = from.max(Some(at));
    }
    let mut at = Document::new();
    at.extend(from.map(|from| ("$gte".to_owned(), from.into())));
    at.extend(until.map(|until| ("$lt".to_owned(), stored_from(until).into())));
    if !at.is_empty() {
        asked.insert("at", at);
    }
    asked
}
