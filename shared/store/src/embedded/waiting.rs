//! Messages that wait, and the leases of their channels.
//!
//! Invariant: a channel with messages has a record. Both change in one transaction.

pub(super) mod channels;

use async_trait::async_trait;
use bytes::Bytes;
use roundtrip_model::{ChannelId, Entry, millis};
use rusqlite::{Connection, OptionalExtension, Params, Row, Transaction, params};
use time::OffsetDateTime;

use super::{
    SqliteStore,
    erased::of_sessions,
    journal::record,
    rows::{self, Columns},
};
use crate::{
    QueryError, SettledRow, Settlement, Unavailable, WaitingCursor, WaitingMessage, WaitingRoom,
    WaitingSelection, WaitingSummary,
    ledger::{earliest_looks, look_no_later},
    page::PageBudget,
};
use channels::{claim, claimable, extend, forget, look, release, wake};

/// How many messages one transaction makes due.
pub(super) const DUE_STEP: u16 = 1000;

const PUT: &str = "
    INSERT INTO waiting (message_id, channel_id, session_id, replay_count, attempts, accepted_at,
        due_at, reason, expires_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
    ON CONFLICT (message_id) DO UPDATE SET
        replay_count = excluded.replay_count,
        attempts = excluded.attempts,
        accepted_at = excluded.accepted_at,
        due_at = excluded.due_at,
        reason = excluded.reason,
        expires_at = excluded.expires_at
    WHERE (excluded.replay_count, excluded.attempts) > (replay_count, attempts)";
// A `RETURNING row_id` above would cost as much as the whole insert.
const PUT_BODY: &str = "
    INSERT INTO waiting_bodies (row_id, body)
    VALUES ((SELECT row_id FROM waiting WHERE message_id = ?1), ?2)
    ON CONFLICT (row_id) DO UPDATE SET body = excluded.body";
pub(super) const NEXT_DUE: &str = "SELECT min(due_at) FROM waiting WHERE channel_id = ?1";
pub(super) const DUE: &str = "
    SELECT waiting.*, body FROM waiting JOIN waiting_bodies USING (row_id)
    WHERE channel_id = ?1 AND (due_at, message_id) > (?2, ?3) AND due_at <= ?4
    ORDER BY due_at, message_id LIMIT ?5";
pub(super) const NEXT_EXPIRY: &str =
    "SELECT min(expires_at) FROM waiting WHERE channel_id = ?1 AND expires_at IS NOT NULL";
pub(super) const EXPIRED: &str = "
    SELECT waiting.*, body FROM waiting JOIN waiting_bodies USING (row_id)
    WHERE channel_id = ?1 AND expires_at <= ?2
    ORDER BY expires_at, message_id LIMIT ?3";
pub(super) const DEFER: &str = "
    UPDATE waiting SET attempts = ?4, due_at = ?5, reason = ?6
    WHERE message_id = ?1 AND replay_count = ?2 AND attempts = ?3";
pub(super) const REMOVE_SETTLED: &str =
    "DELETE FROM waiting WHERE message_id = ?1 AND replay_count = ?2 AND attempts = ?3";
pub(super) const MAKE_CHANNEL_DUE: &str = "
    UPDATE waiting SET due_at = ?2 WHERE row_id IN (
        SELECT row_id FROM waiting WHERE channel_id = ?1 AND due_at > ?2 AND reason = 'retry'
        ORDER BY due_at, message_id LIMIT ?3)";
pub(super) const MAKE_MESSAGE_DUE: &str =
    "UPDATE waiting SET due_at = ?2 WHERE message_id = ?1 AND due_at > ?2";
// One row for each reason.
pub(super) const COUNTS: &str = "
    SELECT reason, count, (
        SELECT min(accepted_at) FROM waiting
        WHERE waiting.channel_id = waiting_counts.channel_id
            AND waiting.reason = waiting_counts.reason
    ) AS oldest
    FROM waiting_counts WHERE channel_id = ?1";
const OUTLINE: &str = "SELECT * FROM waiting WHERE message_id = ?1";

#[async_trait]
impl WaitingRoom for SqliteStore {
    async fn put_waiting(&self, messages: &[WaitingMessage]) -> Result<(), Unavailable> {
        if messages.is_empty() {
            return Ok(());
        }
        let messages = messages.to_vec();
        self.write(move |transaction| put(transaction, &messages))
            .await
    }

    async fn claim_channels(
        &self,
        owner: &str,
        now: OffsetDateTime,
        lease_until: OffsetDateTime,
        limit: u16,
    ) -> Result<Vec<ChannelId>, Unavailable> {
        let (now, lease_until) = (millis::of(now), millis::of(lease_until));
        let find = move |connection: &mut Connection| claimable(connection, now, limit);
        // Usually there are none, and other writers need not wait.
        if self.run::<_, _, Unavailable>(find).await?.is_empty() {
            return Ok(Vec::new());
        }
        let owner = owner.to_owned();
        self.write(move |transaction| claim(transaction, &owner, now, lease_until, limit))
            .await
    }

    async fn extend_leases(
        &self,
        owner: &str,
        channels: &[ChannelId],
        lease_until: OffsetDateTime,
    ) -> Result<Vec<ChannelId>, Unavailable> {
        if channels.is_empty() {
            return Ok(Vec::new());
        }
        let (owner, channels) = (owner.to_owned(), channels.to_vec());
        let lease_until = millis::of(lease_until);
        self.write(move |transaction| extend(transaction, &owner, channels, lease_until))
            .await
    }

    async fn due_messages(
        &self,
        channel: &ChannelId,
        after: Option<&WaitingCursor>,
        now: OffsetDateTime,
        limit: u16,
    ) -> Result<Vec<WaitingMessage>, Unavailable> {
        let (channel, after, now) = (channel.clone(), after.cloned(), millis::of(now));
        self.run(move |connection| due(connection, &channel, after.as_ref(), now, limit))
            .await
    }

    async fn expired_messages(
        &self,
        channel: &ChannelId,
        now: OffsetDateTime,
        limit: u16,
    ) -> Result<Vec<WaitingMessage>, Unavailable> {
        let (channel, now) = (channel.to_string(), millis::of(now));
        self.run(move |connection| page(connection, EXPIRED, (&*channel, now, limit), limit))
            .await
    }

    async fn settle_waiting(&self, settled: &[SettledRow]) -> Result<(), Unavailable> {
        if settled.is_empty() {
            return Ok(());
        }
        let settled = settled.to_vec();
        self.write(move |transaction| settle(transaction, &settled))
            .await
    }

    async fn release_channel(
        &self,
        owner: &str,
        channel: &ChannelId,
        now: OffsetDateTime,
        look_at: Option<OffsetDateTime>,
    ) -> Result<(), Unavailable> {
        let (owner, channel, now) = (owner.to_owned(), channel.to_string(), millis::of(now));
        self.write(move |transaction| {
            let Some(next_due) = next(transaction, NEXT_DUE, &channel)? else {
                return forget(transaction, &owner, &channel);
            };
            let next_expiry = next(transaction, NEXT_EXPIRY, &channel)?;
            let held_until =
                look_at.map(|at| look_no_later(millis::not_before(at), now, next_expiry));
            let next_look = next_expiry.map_or(next_due, |expiry| expiry.min(next_due));
            let look_at = held_until.unwrap_or(next_look);
            release(transaction, &owner, &channel, look_at, held_until.is_some())
        })
        .await
    }

    async fn wake_channel(
        &self,
        channel: &ChannelId,
        now: OffsetDateTime,
    ) -> Result<(), Unavailable> {
        let (channel, now) = (channel.to_string(), millis::of(now));
        self.write(move |transaction| wake(transaction, &channel, now))
            .await
    }

    async fn make_due(
        &self,
        which: &WaitingSelection,
        now: OffsetDateTime,
    ) -> Result<u64, Unavailable> {
        let now = millis::of(now);
        let channel = match which {
            WaitingSelection::Channel(channel) => channel.to_string(),
            WaitingSelection::Message(id) => {
                let id = id.clone();
                let make_due =
                    move |transaction: &Transaction<'_>| make_message_due(transaction, &id, now);
                return self.write(make_due).await;
            }
        };
        let mut made_due = 0;
        // In steps, so that other writers never wait for long.
        loop {
            let channel = channel.clone();
            let step = move |transaction: &Transaction<'_>| {
                let made_due = transaction
                    .prepare_cached(MAKE_CHANNEL_DUE)?
                    .execute((&channel, now, DUE_STEP))?;
                wake(transaction, &channel, now)?;
                Ok::<_, rusqlite::Error>(made_due)
            };
            let step = self.write::<_, _, Unavailable>(step).await?;
            made_due += step as u64;
            if step < usize::from(DUE_STEP) {
                return Ok(made_due);
            }
        }
    }

    async fn held_until(&self, channel: &ChannelId) -> Result<Option<OffsetDateTime>, Unavailable> {
        let channel = channel.to_string();
        self.run(move |connection| channels::held_until(connection, &channel))
            .await
    }

    async fn waiting_message(&self, id: &str) -> Result<Option<WaitingMessage>, Unavailable> {
        let id = id.to_owned();
        self.run(move |connection| {
            let mut select = connection.prepare_cached(OUTLINE)?;
            select.query_row([id], outline).optional()
        })
        .await
    }

    async fn waiting_summary(&self, channel: &ChannelId) -> Result<WaitingSummary, QueryError> {
        let channel = channel.to_string();
        self.run_query(move |connection, _| {
            let snapshot = connection.transaction()?;
            summary(&snapshot, &channel)
        })
        .await
    }
}

fn put(transaction: &Transaction<'_>, messages: &[WaitingMessage]) -> rusqlite::Result<()> {
    let mut put = transaction.prepare_cached(PUT)?;
    let mut put_body = transaction.prepare_cached(PUT_BODY)?;
    let erasures = of_sessions(
        transaction,
        messages.iter().map(|message| &message.session_id),
    )?;
    for message in messages {
        let erasure = erasures.get(&message.session_id);
        if let Some(erasure) = erasure.filter(|erasure| erasure.covers(&message.id)) {
            cancelled(transaction, [message], erasure.requested_at)?;
            continue;
        }
        let values = params![
            message.id,
            message.channel_id.as_str(),
            message.session_id.as_str(),
            message.replay_count,
            message.attempts,
            millis::of(message.accepted_at),
            millis::not_before(message.due_at),
            message.reason.as_str(),
            message.expires_at.map(millis::not_before),
        ];
        if put.execute(values)? > 0 {
            put_body.execute((&message.id, &message.body[..]))?;
        }
    }
    for (channel, looks) in earliest_looks(messages) {
        let expires_at = looks.expires_at.map(millis::not_before);
        let due_at = millis::not_before(looks.due_at);
        look(transaction, channel.as_str(), due_at, expires_at)?;
    }
    Ok(())
}

/// Records that these messages no longer wait, because their session was erased at this time.
pub(super) fn cancelled<'a>(
    transaction: &Transaction<'_>,
    messages: impl IntoIterator<Item = &'a WaitingMessage>,
    at: OffsetDateTime,
) -> rusqlite::Result<()> {
    let entries: Vec<Entry> = messages
        .into_iter()
        .filter_map(|message| message.cancelled(at))
        .collect();
    record(transaction, &entries)
}

/// The earliest due time or expiry of a channel's messages.
fn next(connection: &Connection, sql: &str, channel: &str) -> rusqlite::Result<Option<i64>> {
    let mut next = connection.prepare_cached(sql)?;
    next.query_row([channel], |row| row.get(0))
}

fn due(
    connection: &Connection,
    channel: &ChannelId,
    after: Option<&WaitingCursor>,
    now: i64,
    limit: u16,
) -> rusqlite::Result<Vec<WaitingMessage>> {
    let (due_at, id) = after.map_or((i64::MIN, ""), |cursor| {
        (millis::of(cursor.due_at), &*cursor.id)
    });
    page(
        connection,
        DUE,
        (channel.as_str(), due_at, id, now, limit),
        limit,
    )
}

fn page(
    connection: &Connection,
    sql: &str,
    values: impl Params,
    limit: u16,
) -> rusqlite::Result<Vec<WaitingMessage>> {
    let mut budget = PageBudget::of(limit);
    let mut page = Vec::new();
    let mut select = connection.prepare_cached(sql)?;
    let mut found = select.query(values)?;
    while let Some(row) = found.next()? {
        let body = row.get_ref("body")?.as_blob()?;
        if !budget.take(body.len()) {
            break;
        }
        page.push(WaitingMessage {
            body: Bytes::copy_from_slice(body),
            ..outline(row)?
        });
    }
    Ok(page)
}

fn settle(transaction: &Transaction<'_>, settled: &[SettledRow]) -> rusqlite::Result<()> {
    let mut remove = transaction.prepare_cached(REMOVE_SETTLED)?;
    let mut defer = transaction.prepare_cached(DEFER)?;
    for row in settled {
        let SettledRow {
            id,
            replay_count,
            attempts: seen,
            settlement,
        } = row;
        match settlement {
            Settlement::Removed => remove.execute((id, replay_count, seen))?,
            Settlement::Deferred {
                attempts,
                due_at,
                reason,
            } => {
                let due_at = millis::not_before(*due_at);
                defer.execute((id, replay_count, seen, attempts, due_at, reason.as_str()))?
            }
        };
    }
    Ok(())
}

fn make_message_due(transaction: &Transaction<'_>, id: &str, now: i64) -> rusqlite::Result<u64> {
    let mut select = transaction.prepare_cached(OUTLINE)?;
    let Some(message) = select.query_row([id], outline).optional()? else {
        return Ok(0);
    };
    let mut make_due = transaction.prepare_cached(MAKE_MESSAGE_DUE)?;
    let made_due = make_due.execute((id, now))?;
    wake(transaction, message.channel_id.as_str(), now)?;
    Ok(made_due as u64)
}

/// The message, without its body.
pub(super) fn outline(row: &Row<'_>) -> rusqlite::Result<WaitingMessage> {
    let columns = Columns(row);
    Ok(WaitingMessage {
        id: columns.get("message_id")?,
        channel_id: columns.parsed("channel_id")?,
        session_id: columns.parsed("session_id")?,
        replay_count: columns.get("replay_count")?,
        attempts: columns.get("attempts")?,
        accepted_at: columns.time("accepted_at")?,
        due_at: columns.time("due_at")?,
        reason: columns.named("reason")?,
        expires_at: columns.optional_time("expires_at")?,
        body: Bytes::new(),
    })
}

fn summary(snapshot: &Transaction<'_>, channel: &str) -> rusqlite::Result<WaitingSummary> {
    let mut summary = WaitingSummary {
        next_due_at: next(snapshot, NEXT_DUE, channel)?
            .map(rows::time)
            .transpose()?,
        ..WaitingSummary::default()
    };
    let mut select = snapshot.prepare_cached(COUNTS)?;
    let mut found = select.query([channel])?;
    while let Some(row) = found.next()? {
        let columns = Columns(row);
        let count = columns.get::<i64>("count")?.unsigned_abs();
        let oldest = columns.optional_time("oldest")?;
        summary.count += count;
        summary.reasons.insert(columns.named("reason")?, count);
        summary.oldest_accepted_at = summary.oldest_accepted_at.into_iter().chain(oldest).min();
    }
    Ok(summary)
}
