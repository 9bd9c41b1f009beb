//! The journal.
//!
//! Invariant: a call records all of its entries or none, and leaves an existing entry unchanged. It
//! stores no contents of a message whose contents were erased.

mod answers;

pub(super) use answers::stored_answer;

use std::collections::BTreeSet;

use async_trait::async_trait;
use roundtrip_model::{
    CallbackId, ChannelId, Entry, MessageId, MessageKind, SessionId, State, journal::Position,
    millis,
};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use time::OffsetDateTime;

use super::{
    SqliteStore,
    erased::erased,
    rows::{self, Columns, Conditions, Selection, Table, unwritable},
    session_events,
};
use crate::{
    AnswerRecord, Answers, Conversation, Detail, FIRST_ENTRIES, Journal, MAX_ENTRIES, MAX_PAGE,
    MessageContent, MessageFilter, MessageRecord, QueryError, StateFilter, TurnCursor, Unavailable,
    ledger::{
        AnswerChange, MessageProjection, Part, StoredContent, Subject, answers_in, erased_event,
        events_in, latest_without_contents, merged, message_of, stored_event, timeline,
    },
};

const TABLE: Table = Table {
    name: "messages",
    id: "message_id",
    order: "message_id DESC",
};

const INSERT_ENTRY: &str = "
    INSERT INTO entries (message_id, at, entry_id, round, event) VALUES (?1, ?2, ?3, ?4, ?5)
    ON CONFLICT DO NOTHING";
const INSERT_ENTRY_CONTENT: &str = "
    INSERT INTO entry_contents (entry_id, event) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
const INSERT_CONTENT: &str = "
    INSERT INTO contents (message_id, message, response_url, answer_within_ms)
    VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT DO NOTHING";
// A repeated answer has a later time. Of an answer without a message the row may begin with what
// became of it.
const INSERT_ANSWER: &str = "
    INSERT INTO answers (callback_id, message_id, channel_id, session_id, at, content, latest,
        erased_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
    ON CONFLICT DO UPDATE SET
        at = min(at, excluded.at),
        content = coalesce(content, excluded.content),
        latest = nullif(max(coalesce(latest, ''), coalesce(excluded.latest, '')), '')
    WHERE excluded.at < at OR content IS NULL OR excluded.latest > coalesce(latest, '')";
const HAS_ANSWER: &str = "
    SELECT 1 FROM answers WHERE callback_id = ?1 AND content IS NOT NULL";
const STATES: &str = "
    SELECT message_id, state FROM messages
    WHERE message_id IN (SELECT value FROM json_each(?1)) LIMIT ?2";
const OLDEST: &str = "SELECT message_id FROM messages WHERE state = ?1 ORDER BY message_id LIMIT 1";
const SAID: &str = "
    WHERE session_id = ?1 AND message_id > ?2
    AND (?3 IS NULL OR channel_id IN (SELECT value FROM json_each(?3)))
    ORDER BY message_id LIMIT ?4";
const ADVANCE: &str = "
    INSERT INTO messages (message_id, channel_id, session_id, state, position, round, updated_at,
        answer_by, erased_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
    ON CONFLICT DO UPDATE SET
        state = CASE WHEN excluded.position > position THEN excluded.state ELSE state END,
        answer_by = CASE
            WHEN (excluded.position, ifnull(excluded.answer_by, 0)) > (position, ifnull(answer_by, 0))
            THEN excluded.answer_by ELSE answer_by END,
        position = max(position, excluded.position),
        round = max(round, excluded.round),
        updated_at = max(updated_at, excluded.updated_at)
    WHERE (excluded.position, ifnull(excluded.answer_by, 0)) > (position, ifnull(answer_by, 0))
        OR excluded.updated_at > updated_at";
pub(super) const UNANSWERED: &str = "
    SELECT messages.*, NULL AS message FROM messages
    WHERE answer_by <= ?1 ORDER BY answer_by, message_id LIMIT ?2";
const MESSAGE: &str = "
    SELECT messages.*, message, response_url, answer_within_ms
    FROM messages LEFT JOIN contents USING (message_id)";
const OUTLINE: &str = "
    SELECT messages.*, NULL AS message FROM messages";
const FIRST: &str = "
    SELECT entry_id, round, at, coalesce(entry_contents.event, entries.event) AS event
    FROM entries LEFT JOIN entry_contents USING (entry_id) WHERE message_id = ?1
    ORDER BY at, entry_id LIMIT ?2";
const LATEST: &str = "
    SELECT entry_id, round, at, coalesce(entry_contents.event, entries.event) AS event
    FROM entries LEFT JOIN entry_contents USING (entry_id) WHERE message_id = ?1
    ORDER BY at DESC, entry_id DESC LIMIT ?2";

#[async_trait]
impl Journal for SqliteStore {
    async fn record(&self, entries: &[Entry]) -> Result<(), Unavailable> {
        if entries.is_empty() {
            return Ok(());
        }
        let entries = entries.to_vec();
        self.write(move |transaction| record(transaction, &entries))
            .await
    }

    async fn message(
        &self,
        id: &MessageId,
    ) -> Result<Option<(MessageRecord, Vec<Entry>)>, Unavailable> {
        let id = *id;
        self.run(move |connection| {
            // One snapshot for both reads.
            let snapshot = connection.transaction()?;
            message(&snapshot, &id)
        })
        .await
    }

    async fn answers(&self, id: &MessageId) -> Result<Answers, Unavailable> {
        let id = id.to_string();
        self.run(move |connection| answers::all(connection, &id))
            .await
    }

    async fn answer(
        &self,
        message: &MessageId,
        which: Option<&CallbackId>,
    ) -> Result<Option<AnswerRecord>, Unavailable> {
        let (message, which) = (message.to_string(), which.map(ToString::to_string));
        self.run(move |connection| answers::one(connection, &message, which.as_deref()))
            .await
    }

    async fn states(&self, ids: &[MessageId]) -> Result<Vec<(MessageId, State)>, Unavailable> {
        let ids = serde_json::json!(ids).to_string();
        self.run(move |connection| {
            let mut select = connection.prepare_cached(STATES)?;
            let found = select.query_map((ids, MAX_PAGE), |row| {
                let columns = Columns(row);
                Ok((columns.parsed("message_id")?, columns.named("state")?))
            })?;
            found.collect::<rusqlite::Result<_>>()
        })
        .await
    }

    async fn oldest(&self, state: State) -> Result<Option<MessageId>, Unavailable> {
        self.run(move |connection| {
            let mut select = connection.prepare_cached(OLDEST)?;
            let found = select.query_row([state.as_str()], |row| Columns(row).parsed("message_id"));
            found.optional()
        })
        .await
    }

    async fn unanswered(
        &self,
        due_at: OffsetDateTime,
        limit: u16,
    ) -> Result<Vec<MessageRecord>, Unavailable> {
        let due_at = millis::of(due_at);
        self.run(move |connection| {
            let mut select = connection.prepare_cached(UNANSWERED)?;
            let found = select.query_map((due_at, limit), message_record)?;
            found.collect::<rusqlite::Result<_>>()
        })
        .await
    }

    async fn conversation(
        &self,
        session: &SessionId,
        channels: Option<&[ChannelId]>,
        after: Option<&TurnCursor>,
        limit: u16,
    ) -> Result<Conversation, QueryError> {
        let session = session.to_string();
        let channels = channels.map(|channels| serde_json::json!(channels).to_string());
        let after = after.copied();
        self.run_query(move |connection, _| {
            // One snapshot for both reads.
            let snapshot = connection.transaction()?;
            let of = (session.as_str(), channels.as_deref());
            let messages = said(&snapshot, of, after.as_ref(), limit)?;
            let answers = answers::in_session(&snapshot, of, after.as_ref(), limit)?;
            Ok::<_, rusqlite::Error>(merged(messages, answers, limit))
        })
        .await
    }

    async fn messages(
        &self,
        filter: &MessageFilter,
        after: Option<&MessageId>,
        limit: u16,
        detail: Detail,
    ) -> Result<Vec<MessageRecord>, QueryError> {
        let mut conditions = conditions(filter);
        conditions.maybe("message_id < ?", after.map(ToString::to_string));
        let page = move |connection: &mut Connection| page(connection, &conditions, limit, detail);
        match detail {
            Detail::Outline => self.run_query(move |connection, _| page(connection)).await,
            // For a replay, which must not wait for clients' queries.
            Detail::Whole => self.run(page).await,
        }
    }

    async fn count_messages(&self, filter: &MessageFilter) -> Result<u64, QueryError> {
        let conditions = conditions(filter);
        self.run_query(move |connection, _| conditions.count(connection))
            .await
    }
}

pub(super) fn record(transaction: &Transaction<'_>, entries: &[Entry]) -> rusqlite::Result<()> {
    let erased = erased(transaction, entries)?;
    let mut insert = transaction.prepare_cached(INSERT_ENTRY)?;
    let mut content = transaction.prepare_cached(INSERT_CONTENT)?;
    let mut entry_content = transaction.prepare_cached(INSERT_ENTRY_CONTENT)?;
    for entry in entries {
        let Some((id, _)) = message_of(entry) else {
            continue;
        };
        let message_id = id.to_string();
        let is_erased = erased.contains_key(&Subject::Message(id));
        if let Some(stored) = StoredContent::of(&entry.event).map_err(unwritable)?
            && !is_erased
        {
            content.execute(params![
                message_id,
                stored.message,
                stored.response_url,
                stored.answer_within_ms.map(rows::count),
            ])?;
        }
        let mut event = stored_event(&entry.event).map_err(unwritable)?;
        let entry_id = entry.entry_id.to_string();
        if let Some(erased) = erased_event(&entry.event) {
            if !is_erased {
                entry_content.execute((&entry_id, event))?;
            }
            event = stored_event(&erased).map_err(unwritable)?;
        }
        insert.execute((
            message_id,
            millis::of(entry.at),
            entry_id,
            entry.replay_count,
            event,
        ))?;
    }
    let mut answer = transaction.prepare_cached(INSERT_ANSWER)?;
    let mut has_answer = transaction.prepare_cached(HAS_ANSWER)?;
    let mut repeats = BTreeSet::new();
    for change in answers_in(entries) {
        let (entry, callback_id, change) = change.map_err(unwritable)?;
        let callback = callback_id.to_string();
        if matches!(change, AnswerChange::Content(_)) && has_answer.exists([&callback])? {
            repeats.insert(entry.entry_id);
        }
        let erased_at = Subject::of(entry).and_then(|subject| erased.get(&subject));
        let (content, latest) = match change {
            AnswerChange::Content(_) if erased_at.is_some() => (Some(String::new()), None),
            AnswerChange::Content(content) => (
                Some(serde_json::to_string(content).map_err(unwritable)?),
                None,
            ),
            AnswerChange::Latest(latest) if erased_at.is_some() => {
                let erased = latest_without_contents(&latest).map_err(unwritable)?;
                (None, Some(erased.unwrap_or(latest)))
            }
            AnswerChange::Latest(latest) => (None, Some(latest)),
        };
        let (message_id, channel_id) = message_of(entry).unzip();
        answer.execute((
            callback,
            message_id.map(|id| id.to_string()),
            channel_id.map(ChannelId::as_str),
            entry.session_id.as_str(),
            millis::of(entry.at),
            content,
            latest,
            erased_at,
        ))?;
    }
    let mut advance = transaction.prepare_cached(ADVANCE)?;
    for projection in MessageProjection::by(entries).map_err(unwritable)? {
        advance.execute(params![
            projection.message_id.to_string(),
            projection.channel_id.as_str(),
            projection.entry.session_id.as_str(),
            projection.position.state.as_str(),
            projection.position.rank,
            projection.replay_count,
            millis::of(projection.updated_at),
            projection.position.answer_by.map(millis::of),
            erased.get(&Subject::Message(projection.message_id)),
        ])?;
    }
    let events = events_in(entries).filter(|event| !repeats.contains(&event.entry.entry_id));
    session_events::insert(transaction, events)
}

fn message(
    snapshot: &Transaction<'_>,
    id: &MessageId,
) -> rusqlite::Result<Option<(MessageRecord, Vec<Entry>)>> {
    let id = id.to_string();
    let found = snapshot
        .prepare_cached(&format!("{MESSAGE} WHERE message_id = ?1"))?
        .query_row([&id], message_record)
        .optional()?;
    let Some(record) = found else {
        return Ok(None);
    };
    let entries = |sql, limit: usize| -> rusqlite::Result<Vec<Entry>> {
        let mut entries = snapshot.prepare_cached(sql)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let found = entries.query_map(params![id, limit], |row| entry(row, &record))?;
        found.collect()
    };
    let latest = entries(LATEST, MAX_ENTRIES)?;
    let first = if latest.len() == MAX_ENTRIES {
        entries(FIRST, FIRST_ENTRIES)?
    } else {
        Vec::new()
    };
    Ok(Some((record, timeline(latest, first))))
}

/// The messages of a session, in these channels.
fn said(
    snapshot: &Transaction<'_>,
    (session, channels): (&str, Option<&str>),
    after: Option<&TurnCursor>,
    limit: u16,
) -> rusqlite::Result<Part<MessageRecord>> {
    let mut part = Part::of(limit);
    let after = after.map(TurnCursor::message_id).unwrap_or_default();
    let mut select = snapshot.prepare_cached(&format!("{MESSAGE} {SAID}"))?;
    let mut found = select.query(params![session, after, channels, u32::from(limit) + 1])?;
    while let Some(row) = found.next()? {
        let message = message_record(row)?;
        let bytes = message.bytes();
        if !part.add(message, bytes) {
            break;
        }
    }
    Ok(part)
}

fn message_record(row: &Row<'_>) -> rusqlite::Result<MessageRecord> {
    let columns = Columns(row);
    let kind = MessageKind::of_rank(columns.get("position")?);
    let message: Option<String> = columns.get("message")?;
    let content = match message {
        Some(message) => {
            let within: Option<i64> = columns.get("answer_within_ms")?;
            let within = within.map(i64::unsigned_abs);
            let content = MessageContent::read(kind, message, columns.get("response_url")?, within);
            Some(content.map_err(unwritable)?)
        }
        None => None,
    };
    Ok(MessageRecord {
        message_id: columns.parsed("message_id")?,
        channel_id: columns.parsed("channel_id")?,
        session_id: columns.parsed("session_id")?,
        kind,
        state: columns.named("state")?,
        replay_count: columns.get("round")?,
        answer_by: columns.optional_time("answer_by")?,
        updated_at: columns.time("updated_at")?,
        content,
        contents_erased_at: columns.optional_time("erased_at")?,
    })
}

fn entry(row: &Row<'_>, record: &MessageRecord) -> rusqlite::Result<Entry> {
    let columns = Columns(row);
    let event = record.event(row.get_ref("event")?.as_str()?);
    Ok(Entry {
        entry_id: columns.parsed("entry_id")?,
        message_id: Some(record.message_id),
        channel_id: Some(record.channel_id.clone()),
        session_id: record.session_id.clone(),
        kind: record.kind,
        replay_count: columns.get("round")?,
        at: columns.time("at")?,
        event: event.map_err(unwritable)?,
    })
}

pub(super) fn conditions(filter: &MessageFilter) -> Conditions {
    let MessageFilter {
        message_ids,
        session,
        channel,
        channels,
        kind,
        state,
        since: _,
        until: _,
    } = filter;
    let (from, before) = filter.id_bounds();
    let mut conditions = Conditions::selected(
        &TABLE,
        &Selection {
            with_ids: "message_id IN (SELECT value FROM json_each(?))",
            ids: message_ids.as_deref(),
            session: session.as_ref(),
            channel: channel.as_ref(),
            channels: channels.as_deref(),
        },
    );
    match state {
        None => {}
        Some(StateFilter::Is(state)) => conditions.with("state = ?", state.as_str().to_owned()),
        Some(taken @ StateFilter::Taken) => {
            let states = taken.states();
            conditions.ids("state IN (SELECT value FROM json_each(?))", Some(&states));
            conditions.with("position & ? != 0", Position::TAKEN_BITS);
            conditions.with("position & ? = 0", Position::INBOUND_BIT);
        }
    }
    match kind {
        None => {}
        Some(MessageKind::Outbound) => {
            conditions.with("position & ? = 0", Position::INBOUND_BIT);
        }
        Some(MessageKind::Inbound) => {
            conditions.with("position & ? != 0", Position::INBOUND_BIT);
        }
    }
    conditions.maybe("message_id >= ?", from);
    conditions.maybe("message_id < ?", before);
    conditions
}

fn page(
    connection: &mut Connection,
    conditions: &Conditions,
    limit: u16,
    detail: Detail,
) -> rusqlite::Result<Vec<MessageRecord>> {
    let select = match detail {
        Detail::Whole => MESSAGE,
        Detail::Outline => OUTLINE,
    };
    let sql = format!("{select} WHERE message_id = ?1");
    rows::page(connection, conditions, limit, &sql, |row| {
        let message = message_record(row)?;
        let bytes = message.bytes();
        Ok((message, bytes))
    })
}
