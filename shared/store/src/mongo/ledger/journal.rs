//! The journal.
//!
//! Invariant: a call writes the contents of answers, then the documents of messages, then the entries,
//! then the events of sessions, so that a reader of an entry or an event finds what it is about. A state can be ahead of an answer's content,
//! because a forward's entry may come in an earlier call than the answer's. Last it erases what it
//! has written of messages whose contents are erased.

mod answers;
mod conversation;
mod documents;
mod update;

pub(super) use answers::AnswerRow;

use async_trait::async_trait;
use bson::{Document, doc};
use mongodb::{Collection, Database, error::Error};
use roundtrip_model::{
    CallbackId, ChannelId, Entry, MessageId, MessageKind, SessionId, State, journal::Position,
};
use serde::Deserialize;
use time::OffsetDateTime;

use self::documents::{EntryRow, MessageRow, PositionRow};
use super::{
    super::MongoStore, ANSWERS, Asked, ENTRIES, MESSAGES, SESSION_EVENTS, Unreadable, bulk,
    document, erased::erase_recorded, just_after, of_channels, primary, row, rows, session_events,
    texts, unless_there,
};
use crate::{
    AnswerRecord, Answers, Conversation, Detail, FIRST_ENTRIES, Journal, MAX_ENTRIES, MAX_PAGE,
    MessageFilter, MessageRecord, QueryError, StateFilter, StoredAnswer, TurnCursor, Unavailable,
    ledger::{MAX_ROWS, Subject, merged, message_of, timeline},
};

#[derive(Deserialize)]
struct IdRow {
    #[serde(rename = "_id")]
    message_id: MessageId,
}

#[async_trait]
impl Journal for MongoStore {
    async fn record(&self, entries: &[Entry]) -> Result<(), Unavailable> {
        if entries.is_empty() {
            return Ok(());
        }
        let write = Write::of(entries)?;
        let subjects: Vec<_> = entries
            .iter()
            .filter_map(|entry| Some((Subject::of(entry)?, entry.session_id.clone())))
            .collect();
        self.run(move |database| async move {
            write.send(&database).await?;
            erase_recorded(&database, &subjects).await
        })
        .await
    }

    async fn message(
        &self,
        id: &MessageId,
    ) -> Result<Option<(MessageRecord, Vec<Entry>)>, Unavailable> {
        let id = id.to_string();
        self.run(move |database| async move { message(&database, &id).await })
            .await
    }

    async fn answers(&self, id: &MessageId) -> Result<Answers, Unavailable> {
        let id = id.to_string();
        self.on(ANSWERS, move |stored: Collection<Document>| async move {
            answers::all(&stored, &id).await
        })
        .await
    }

    async fn answer(
        &self,
        message: &MessageId,
        which: Option<&CallbackId>,
    ) -> Result<Option<AnswerRecord>, Unavailable> {
        let (message, which) = (message.to_string(), which.map(ToString::to_string));
        self.on(ANSWERS, move |stored: Collection<Document>| async move {
            answers::one(&stored, &message, which.as_deref()).await
        })
        .await
    }

    async fn states(&self, ids: &[MessageId]) -> Result<Vec<(MessageId, State)>, Unavailable> {
        #[derive(Deserialize)]
        struct StateRow {
            #[serde(rename = "_id")]
            message_id: MessageId,
            position: PositionRow,
        }

        let asked = doc! { "_id": { "$in": texts(ids) } };
        self.on(MESSAGES, move |messages: Collection<Document>| async move {
            let found = messages
                .find(asked)
                .projection(doc! { "position.s": 1 })
                .limit(i64::from(MAX_PAGE))
                .selection_criteria(primary())
                .await?;
            let states = rows(found, |row: StateRow| {
                Ok((row.message_id, row.position.state))
            });
            Ok::<_, Unavailable>(states.await?)
        })
        .await
    }

    async fn oldest(&self, state: State) -> Result<Option<MessageId>, Unavailable> {
        self.on(MESSAGES, move |messages: Collection<Document>| async move {
            let found = messages
                .find(doc! { "position.s": state.as_str() })
                .projection(doc! { "_id": 1 })
                .sort(doc! { "_id": 1 })
                .limit(1)
                .selection_criteria(primary())
                .await?;
            let ids = rows(found, |IdRow { message_id }| Ok(message_id)).await?;
            Ok::<_, Unavailable>(ids.into_iter().next())
        })
        .await
    }

    async fn unanswered(
        &self,
        due_at: OffsetDateTime,
        limit: u16,
    ) -> Result<Vec<MessageRecord>, Unavailable> {
        // MongoDB reads 0 as no limit.
        if limit == 0 {
            return Ok(Vec::new());
        }
        let due = doc! { "position.a": { "$lt": just_after(due_at) } };
        self.on(MESSAGES, move |messages: Collection<Document>| async move {
            let found = messages
                .find(due)
                .projection(doc! { "content": 0 })
                .sort(doc! { "position.a": 1, "_id": 1 })
                .limit(i64::from(limit.min(MAX_ROWS)))
                .selection_criteria(primary())
                .await?;
            Ok::<_, Unavailable>(rows(found, MessageRow::record).await?)
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
        let (said, answered) = conversation::filters(session, channels, after);
        let most = i64::from(limit) + 1;
        let messages = self.run_query(MESSAGES, move |messages, max_time| async move {
            let found = messages.find(said).sort(doc! { "_id": 1 });
            let found = found.limit(most).max_time(max_time).await?;
            conversation::part(found, limit, MessageRow::record, MessageRecord::bytes).await
        });
        let messages = messages.await?;
        let answers = self.run_query(ANSWERS, move |answers, max_time| async move {
            let found = answers.find(answered).sort(doc! { "at": 1, "_id": 1 });
            let found = found.limit(most).max_time(max_time).await?;
            conversation::part(found, limit, AnswerRow::stored, StoredAnswer::bytes).await
        });
        Ok(merged(messages, answers.await?, limit))
    }

    async fn messages(
        &self,
        filter: &MessageFilter,
        after: Option<&MessageId>,
        limit: u16,
        detail: Detail,
    ) -> Result<Vec<MessageRecord>, QueryError> {
        // MongoDB reads 0 as no limit.
        if limit == 0 {
            return Ok(Vec::new());
        }
        let asked = matching(filter, after);
        let page = move |messages, max_time| async move {
            let left_out = (detail == Detail::Outline).then_some("content");
            let limit = limit.min(MAX_ROWS);
            let found = asked.page(&messages, max_time, -1, limit, left_out).await?;
            super::page(found, detail, MessageRow::record).await
        };
        match detail {
            Detail::Outline => self.run_query(MESSAGES, page).await,
            // For a replay, which must not wait for clients' queries.
            Detail::Whole => self.read(MESSAGES, page).await,
        }
    }

    async fn count_messages(&self, filter: &MessageFilter) -> Result<u64, QueryError> {
        let asked = matching(filter, None);
        self.run_query(MESSAGES, move |messages, max_time| async move {
            asked.count(&messages, max_time).await
        })
        .await
    }
}

/// Records entries that have no contents.
pub(super) async fn record(database: &Database, entries: &[Entry]) -> Result<(), Unavailable> {
    if entries.is_empty() {
        return Ok(());
    }
    Write::of(entries)?.send(database).await
}

/// What is written for some entries.
struct Write {
    contents: Vec<Vec<Document>>,
    messages: Vec<Vec<Document>>,
    rows: Vec<Document>,
    session_events: Vec<Vec<Document>>,
}

impl Write {
    fn of(entries: &[Entry]) -> Result<Self, Unavailable> {
        let rows = entries.iter().filter_map(|entry| {
            let (message_id, _) = message_of(entry)?;
            Some(EntryRow::of(message_id, entry).and_then(|row| document(&row)))
        });
        Ok(Self {
            contents: update::answers(entries)?,
            messages: update::commands(entries)?,
            rows: rows.collect::<Result<_, _>>()?,
            session_events: session_events::updates(entries),
        })
    }

    async fn send(self, database: &Database) -> Result<(), Unavailable> {
        for updates in self.contents {
            bulk::update(database, ANSWERS, updates).await?;
        }
        for updates in self.messages {
            bulk::update(database, MESSAGES, updates).await?;
        }
        // MongoDB refuses an insert of nothing.
        if !self.rows.is_empty() {
            let inserted = database
                .collection::<Document>(ENTRIES)
                .insert_many(self.rows)
                .ordered(false)
                .await;
            unless_there(inserted)?;
        }
        for updates in self.session_events {
            bulk::upsert(database, SESSION_EVENTS, updates).await?;
        }
        Ok(())
    }
}

async fn message(
    database: &Database,
    id: &str,
) -> Result<Option<(MessageRecord, Vec<Entry>)>, Unavailable> {
    let entries = async |direction: i32, limit: usize| -> Result<Vec<EntryRow>, Error> {
        let found = database
            .collection::<Document>(ENTRIES)
            .find(doc! { "message_id": id })
            .sort(doc! { "at": direction, "_id": direction })
            .limit(i64::try_from(limit).unwrap_or(i64::MAX))
            .await?;
        rows(found, Ok).await
    };
    let latest = entries(-1, MAX_ENTRIES).await?;
    let first = if latest.len() == MAX_ENTRIES {
        entries(1, FIRST_ENTRIES).await?
    } else {
        Vec::new()
    };
    let timeline = timeline(latest, first);
    let found = database
        .collection::<Document>(MESSAGES)
        .find_one(doc! { "_id": id })
        .await?;
    let Some(found) = found else { return Ok(None) };
    let record = row::<MessageRow>(found)?.record()?;
    let entries: Result<_, Unreadable> = timeline.iter().map(|row| row.entry(&record)).collect();
    Ok(Some((record, entries?)))
}

fn matching(filter: &MessageFilter, after: Option<&MessageId>) -> Asked {
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
    let after = after.map(ToString::to_string);
    let mut id = Document::new();
    if let Some(ids) = message_ids {
        id.insert("$in", texts(ids));
    }
    id.extend(from.map(|from| ("$gte".to_owned(), from.into())));
    let before = before.into_iter().chain(after).min();
    id.extend(before.map(|before| ("$lt".to_owned(), before.into())));

    let mut first = Document::new();
    if !id.is_empty() {
        first.insert("_id", id);
    }
    let of_channels = of_channels(channel.as_ref(), channels.as_deref());
    first.extend(of_channels.map(|asked| ("channel_id".to_owned(), asked.into())));
    if let Some(session) = session {
        first.insert("session_id", session.as_str());
    }
    let mut then = Document::new();
    let mut rank = Document::new();
    match kind {
        None => {}
        Some(MessageKind::Outbound) => {
            rank.insert("$bitsAllClear", Position::INBOUND_BIT);
        }
        Some(MessageKind::Inbound) => {
            rank.insert("$bitsAllSet", Position::INBOUND_BIT);
        }
    }
    match state {
        None => {}
        Some(StateFilter::Is(state)) => {
            then.insert("position.s", state.as_str());
        }
        Some(taken @ StateFilter::Taken) => {
            let states: Vec<_> = taken.states().into_iter().map(State::as_str).collect();
            then.insert("position.s", doc! { "$in": states });
            rank.insert("$bitsAnySet", Position::TAKEN_BITS);
            rank.insert("$bitsAllClear", Position::INBOUND_BIT);
        }
    }
    if !rank.is_empty() {
        then.insert("position.r", rank);
    }
    let asked = Asked { first, then };
    // A named session or message is found by its id.
    if channels.is_some() && message_ids.is_none() && session.is_none() {
        return asked;
    }
    Asked {
        first: asked.at_once(),
        then: Document::new(),
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_page_goes_on_below_both_its_cursor_and_its_end() {
        let until = datetime!(2026-11-23 12:00 UTC);
        let filter = MessageFilter {
            until: Some(until),
            ..MessageFilter::default()
        };
        let end = filter.id_bounds().1.unwrap();
        let cursor: MessageId = "msg_01000000000070000000000000000000".parse().unwrap();
        assert!(cursor.to_string() < end);
        for (after, bound) in [(None, end), (Some(&cursor), cursor.to_string())] {
            let asked = matching(&filter, after);
            let first = doc! { "_id": { "$lt": bound } };
            let then = Document::new();
            assert_eq!(asked, Asked { first, then });
        }
    }
}
