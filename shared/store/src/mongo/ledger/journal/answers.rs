//! The contents of answers, as they are stored.

use bson::{DateTime, Document, doc};
use futures::TryStreamExt;
use mongodb::Collection;
use roundtrip_model::{CallbackId, ChannelId, MessageId, SessionId};
use serde::Deserialize;

use super::super::{Unreadable, primary, read_time, row};
use crate::{
    AnswerRecord, Answers, MAX_ANSWERS, StoredAnswer, Unavailable, ledger::latest_entry,
    page::PageBudget,
};

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
        let answer = row::<AnswerRow>(document)?.record()?;
        if !budget.take(answer.bytes()) {
            page.has_earlier = true;
            break;
        }
        page.answers.push(answer);
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
    Ok(found.map(AnswerRow::record).transpose()?)
}

/// An answer as it is stored.
#[derive(Deserialize)]
pub(in super::super) struct AnswerRow {
    #[serde(rename = "_id")]
    callback_id: CallbackId,
    message_id: Option<MessageId>,
    channel_id: Option<ChannelId>,
    session_id: SessionId,
    at: DateTime,
    /// The JSON of a `KeptAnswer`.
    content: Option<String>,
    /// An entry as text that begins with its rank and time.
    latest: Option<String>,
    erased_at: Option<DateTime>,
}

impl AnswerRow {
    pub(in super::super) fn stored(self) -> Result<StoredAnswer, Unreadable> {
        let content = self.content.filter(|_| self.erased_at.is_none());
        let content = content.map(|content| serde_json::from_str(&content));
        let latest = self.latest.map(|latest| latest_entry(&latest));
        Ok(StoredAnswer {
            callback_id: self.callback_id,
            at: read_time(self.at)?,
            content: content.transpose().map_err(json)?,
            message_id: self.message_id,
            channel_id: self.channel_id,
            session_id: self.session_id,
            latest: latest.transpose().map_err(json)?,
            contents_erased_at: self.erased_at.map(read_time).transpose()?,
        })
    }

    /// An answer to a message, which has its content until that is erased.
    fn record(self) -> Result<AnswerRecord, Unreadable> {
        let content = self.erased_at.is_none().then(|| {
            let content = self.content.unwrap_or_default();
            serde_json::from_str(&content)
        });
        Ok(AnswerRecord {
            callback_id: self.callback_id,
            at: read_time(self.at)?,
            content: content.transpose().map_err(json)?,
            contents_erased_at: self.erased_at.map(read_time).transpose()?,
        })
    }
}

fn json(error: serde_json::Error) -> Unreadable {
    Unreadable(error.into())
}
