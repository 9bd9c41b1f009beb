//! The contents of answers, as a replay reads them.

use async_trait::async_trait;
use roundtrip_model::{CallbackId, millis};
use rusqlite::params_from_iter;
use time::OffsetDateTime;

use super::{
    SqliteStore,
    journal::stored_answer,
    rows::{self, Columns, Conditions, Selection, Table},
};
use crate::{AnswerFilter, KeptAnswers, MAX_PAGE, QueryError, StoredAnswer, TurnCursor};

const TABLE: Table = Table {
    name: "answers",
    id: "callback_id",
    order: "at, callback_id",
};

const ANSWER: &str = "SELECT * FROM answers WHERE callback_id = ?1";

#[async_trait]
impl KeptAnswers for SqliteStore {
    async fn kept_answers(
        &self,
        filter: &AnswerFilter,
        after: Option<&TurnCursor>,
        limit: u16,
    ) -> Result<Vec<StoredAnswer>, QueryError> {
        let mut conditions = conditions(filter);
        if let Some(after) = after {
            conditions.with_both("(at, callback_id) > (?, ?)", after.answer());
        }
        self.run(move |connection| {
            rows::page(connection, &conditions, limit, ANSWER, |row| {
                let answer = stored_answer(row)?;
                let bytes = answer.bytes();
                Ok((answer, bytes))
            })
        })
        .await
    }

    async fn count_kept_answers(&self, filter: &AnswerFilter) -> Result<u64, QueryError> {
        let conditions = conditions(filter);
        self.run_query(move |connection, _| conditions.count(connection))
            .await
    }

    async fn kept_answer_ids(
        &self,
        filter: &AnswerFilter,
    ) -> Result<Vec<(CallbackId, Option<OffsetDateTime>)>, QueryError> {
        let conditions = conditions(filter);
        self.run_query(move |connection, _| {
            let ids = conditions.ids_sql(MAX_PAGE);
            let ids =
                format!("SELECT callback_id, erased_at FROM answers WHERE callback_id IN ({ids})");
            let mut ids = connection.prepare_cached(&ids)?;
            let ids = ids.query_map(params_from_iter(&conditions.values), |row| {
                let columns = Columns(row);
                let erased_at = columns.optional_time("erased_at")?;
                Ok((columns.parsed("callback_id")?, erased_at))
            })?;
            ids.collect::<rusqlite::Result<_>>()
        })
        .await
    }
}

pub(super) fn conditions(filter: &AnswerFilter) -> Conditions {
    let AnswerFilter {
        callback_ids,
        session,
        channel,
        channels,
        without_message,
        since,
        until,
    } = filter;
    let mut conditions = Conditions::selected(
        &TABLE,
        &Selection {
            with_ids: "callback_id IN (SELECT value FROM json_each(?))",
            ids: callback_ids.as_deref(),
            session: session.as_ref(),
            channel: channel.as_ref(),
            channels: channels.as_deref(),
        },
    );
    if *without_message {
        conditions.plain("message_id IS NULL");
    }
    conditions.maybe("at >= ?", since.map(millis::not_before));
    conditions.maybe("at < ?", until.map(millis::not_before));
    conditions
}
