//! The contents of answers, with or without a message, as a replay reads them.

use async_trait::async_trait;
use roundtrip_model::{
    CallbackId, ChannelId, Entry, Event, MessageId, SessionId,
    journal::{KeptAnswer, Position},
    millis,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{TurnCursor, erased::erased_event, message_of};
use crate::QueryError;

#[async_trait]
pub trait KeptAnswers: Send + Sync + 'static {
    /// Matching answers after the cursor, in the order of time and then id. A page ends at its limit
    /// or at [`MAX_PAGE_BYTES`](crate::MAX_PAGE_BYTES), but has at least one answer if any is left.
    async fn kept_answers(
        &self,
        filter: &AnswerFilter,
        after: Option<&TurnCursor>,
        limit: u16,
    ) -> Result<Vec<StoredAnswer>, QueryError>;

    async fn count_kept_answers(&self, filter: &AnswerFilter) -> Result<u64, QueryError>;

    /// The ids of matching answers, and when their contents were to be erased, if they were: at most
    /// [`MAX_PAGE`](crate::MAX_PAGE).
    async fn kept_answer_ids(
        &self,
        filter: &AnswerFilter,
    ) -> Result<Vec<(CallbackId, Option<OffsetDateTime>)>, QueryError>;
}

/// An answer as it is stored.
#[derive(Debug, Clone)]
pub struct StoredAnswer {
    pub callback_id: CallbackId,
    /// When Roundtrip accepted it.
    pub at: OffsetDateTime,
    /// Its content, as far as it is kept. `None` until its entry arrives, and after it was erased.
    pub content: Option<KeptAnswer>,
    /// The message that is answered. `None` if the answer came without a token. So is `channel_id`.
    pub message_id: Option<MessageId>,
    pub channel_id: Option<ChannelId>,
    pub session_id: SessionId,
    /// What became of an answer without a message. That of any other answer is in the timeline of
    /// its message.
    pub latest: Option<Entry>,
    /// When the contents were to be erased, if they were.
    pub contents_erased_at: Option<OffsetDateTime>,
}

impl StoredAnswer {
    /// The place after this answer.
    pub fn cursor(&self) -> TurnCursor {
        TurnCursor::after_answer(self.at, self.callback_id)
    }

    /// The bytes of its content.
    pub(crate) fn bytes(&self) -> usize {
        self.content.as_ref().map_or(0, KeptAnswer::bytes)
    }
}

/// A filter on answers. A field that is `None` matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AnswerFilter {
    #[serde(rename = "ids", skip_serializing_if = "Option::is_none")]
    pub callback_ids: Option<Vec<CallbackId>>,
    #[serde(rename = "session_id", skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// From this channel. An answer that came without a token is from no known channel.
    #[serde(rename = "channel_id", skip_serializing_if = "Option::is_none")]
    pub channel: Option<ChannelId>,
    #[serde(rename = "channel_ids", skip_serializing_if = "Option::is_none")]
    pub channels: Option<Vec<ChannelId>>,
    /// Only answers without a message.
    #[serde(skip)]
    pub without_message: bool,
    /// Accepted at this time or later.
    #[serde(
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub since: Option<OffsetDateTime>,
    /// Accepted before this time.
    #[serde(
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub until: Option<OffsetDateTime>,
}

/// What an entry changes in the row of its answer.
pub(crate) enum AnswerChange<'a> {
    /// The answer was accepted.
    Content(&'a KeptAnswer),
    /// Something became of an answer without a message. The greatest text is kept.
    Latest(String),
}

/// The changes of answers by these entries.
pub(crate) fn answers_in(
    entries: &[Entry],
) -> impl Iterator<Item = serde_json::Result<(&Entry, CallbackId, AnswerChange<'_>)>> {
    entries.iter().filter_map(|entry| {
        let callback_id = entry.event.callback_id()?;
        let change = match &entry.event {
            Event::Answered { content, .. } => AnswerChange::Content(content.as_ref()?),
            _ if message_of(entry).is_some() => return None,
            _ => match latest_text(entry) {
                Ok(text) => AnswerChange::Latest(text),
                Err(error) => return Some(Err(error)),
            },
        };
        Some(Ok((entry, callback_id, change)))
    })
}

/// The digits of an `i64` that is not negative.
const DIGITS: usize = 19;

/// An entry as text. Of an answer's entries the one with the greatest text tells what became of the
/// answer: the text begins with the rank, and then the time, in digits of a fixed number.
fn latest_text(entry: &Entry) -> serde_json::Result<String> {
    let Position { rank, .. } = entry.position();
    let at = millis::of(entry.at).max(0);
    let json = serde_json::to_string(entry)?;
    Ok(format!("{rank:0DIGITS$}{at:0DIGITS$}{json}"))
}

/// The entry in a text that `latest_text` has made.
pub(crate) fn latest_entry(text: &str) -> serde_json::Result<Entry> {
    serde_json::from_str(text.get(2 * DIGITS..).unwrap_or_default())
}

/// The text of a `latest` entry without what the receiver wrote. `None` if that changes nothing.
pub(crate) fn latest_without_contents(text: &str) -> serde_json::Result<Option<String>> {
    let entry = latest_entry(text)?;
    let erased = erased_event(&entry.event);
    let erased = erased.map(|event| latest_text(&Entry { event, ..entry }));
    erased.transpose()
}
