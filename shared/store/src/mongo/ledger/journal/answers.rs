//! The contents of answers, as they are stored.

use bson::{DateTime, Document, doc};
use futures::TryStreamExt;
use mongodb::Collection;
use roundtrip_model::{CallbackId, ChannelId, MessageId};
use serde::Deserialize;

use super::super::{Unreadable, primary, read_time, row};
use crate::{AnswerRecord, Answers, MAX_ANSWERS, SessionAnswer, Unavailable, page::PageBudget};

/// The latest answers to a message.
pub(super) async fn all(
    stored: &Collection<Document>,
    message_id: &str,
) -> Result<Answers, Unavailable> {
    let mut found = stored
        .find(doc! { "message_id": message_id })
        .sort(doc! { "at": -1, "_id": -1 })
        .limit(i64::from(MAX_ANSWERS) + 1)
        .await?;
    let mut budget = PageBudget::of(MAX_ANSWERS);
    let mut page = Answers::default();
    while let Some(document) = found.try_next().await? {
        let answer: AnswerRow = row(document)?;
        if !budget.take(answer.content.len()) {
            page.has_earlier = true;
            break;
        }
        page.answers.push(answer.record()?);
    }
    page.answers.reverse();
    Ok(page)
}

/// The answer with this id, or the first one.
pub(super) async fn one(
    stored: &Collection<Document>,
    message_id: &str,
    which: Option<&str>,
) -> Result<Option<AnswerRecord>, Unavailable> {
    let mut asked = doc! { "message_id": message_id };
    asked.extend(which.map(|id| ("_id".to_owned(), id.into())));
    let found = stored
        .find_one(asked)
        .sort(doc! { "at": 1, "_id": 1 })
        .selection_criteria(primary());
    let found = found.await?.map(row::<AnswerRow>).transpose()?;
    Ok(found.map(|found| found.record()).transpose()?)
}

/// An answer as it is stored.
#[derive(Deserialize)]
pub(super) struct AnswerRow {
    #[serde(rename = "_id")]
    callback_id: CallbackId,
    message_id: MessageId,
    channel_id: ChannelId,
    at: DateTime,
    /// The JSON of a `KeptAnswer`.
    content: String,
    erased_at: Option<DateTime>,
}

impl AnswerRow {
    pub(super) fn of_session(self) -> Result<SessionAnswer, Unreadable> {
        Ok(SessionAnswer {
            message_id: self.message_id,
            channel_id: self.channel_id.clone(),
            answer: self.record()?,
        })
    }

    fn record(&self) -> Result<AnswerRecord, Unreadable> {
        let content = match self.erased_at {
            Some(_) => None,
            None => serde_json::from_str(&self.content)
                .map(Some)
                .map_err(|error| Unreadable(error.into()))?,
        };
        Ok(AnswerRecord {
            callback_id: self.callback_id,
            at: read_time(self.at)?,
            content,
            contents_erased_at: self.erased_at.map(read_time).transpose()?,
        })
    }
}
