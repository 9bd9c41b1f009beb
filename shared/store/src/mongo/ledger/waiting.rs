//! Messages that wait, and the leases of their channels.
//!
//! Invariant: a message is written before its channel's record. The record is removed only if nothing
//! was put since its owner found no message.

mod cancelled;
mod channels;
mod due;
mod row;
mod summary;

use async_trait::async_trait;
use bson::{Document, doc};
use mongodb::Collection;
use roundtrip_model::ChannelId;
use time::OffsetDateTime;

use super::{
    super::MongoStore, WAITING, WAITING_CHANNELS, bulk, document, just_after, primary, read_time,
    stored, stored_from, those_there,
};
use crate::{
    Detail, QueryError, SettledRow, Settlement, Unavailable, WaitingCursor, WaitingMessage,
    WaitingRoom, WaitingSelection, WaitingSummary,
    ledger::{MAX_ROWS, earliest_looks, look_no_later},
};
pub(super) use cancelled::cancel;
use cancelled::cancel_put;
use channels::LeaseEnd;
use due::{make_due_step, make_message_due, next, wake};
pub(super) use row::{Row, outline};
use row::{read, replacement};

#[async_trait]
impl WaitingRoom for MongoStore {
    async fn put_waiting(&self, messages: &[WaitingMessage]) -> Result<(), Unavailable> {
        if messages.is_empty() {
            return Ok(());
        }
        let rows = messages.iter().map(|message| document(&Row::of(message)));
        let rows = rows.collect::<Result<Vec<_>, _>>()?;
        let bodies: Vec<usize> = messages.iter().map(|message| message.body.len()).collect();
        let channels = earliest_looks(messages).into_iter();
        let looks: Vec<_> = channels
            .map(|(channel, looks)| (channels::look(channel.as_str(), looks), 0))
            .collect();
        let messages = messages.to_vec();
        self.run(move |database| async move {
            let waiting = database.collection::<Document>(WAITING);
            let there = those_there(waiting.insert_many(&rows).ordered(false).await)?;
            let replacements = there
                .into_iter()
                .filter_map(|index| Some((replacement(rows.get(index)?), *bodies.get(index)?)));
            for updates in bulk::in_commands(replacements) {
                bulk::upsert(&database, WAITING, updates).await?;
            }
            cancel_put(&database, &messages).await?;
            for updates in bulk::in_commands(looks) {
                bulk::update(&database, WAITING_CHANNELS, updates).await?;
            }
            Ok::<_, Unavailable>(())
        })
        .await
    }

    async fn claim_channels(
        &self,
        owner: &str,
        now: OffsetDateTime,
        lease_until: OffsetDateTime,
        limit: u16,
    ) -> Result<Vec<ChannelId>, Unavailable> {
        // MongoDB reads 0 as no limit.
        if limit == 0 {
            return Ok(Vec::new());
        }
        let (owner, now, lease_until) = (owner.to_owned(), just_after(now), stored(lease_until));
        self.on(
            WAITING_CHANNELS,
            move |channels: Collection<Document>| async move {
                channels::claim(&channels, &owner, now, lease_until, limit).await
            },
        )
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
        let (owner, named) = (owner.to_owned(), channels.to_vec());
        let lease_until = stored(lease_until);
        self.on(
            WAITING_CHANNELS,
            move |channels: Collection<Document>| async move {
                channels::extend(&channels, &owner, named, lease_until).await
            },
        )
        .await
    }

    async fn due_messages(
        &self,
        channel: &ChannelId,
        after: Option<&WaitingCursor>,
        now: OffsetDateTime,
        limit: u16,
    ) -> Result<Vec<WaitingMessage>, Unavailable> {
        let due = due_filter(channel, after, now);
        // MongoDB reads 0 as no limit.
        let (Some(due), 1..) = (due, limit) else {
            return Ok(Vec::new());
        };
        self.on(WAITING, move |waiting: Collection<Document>| async move {
            let found = waiting
                .find(due)
                .sort(doc! { "due_at": 1, "_id": 1 })
                .selection_criteria(primary())
                .limit(i64::from(limit.min(MAX_ROWS)))
                .await?;
            super::page(found, Detail::Whole, Row::message).await
        })
        .await
    }

    async fn expired_messages(
        &self,
        channel: &ChannelId,
        now: OffsetDateTime,
        limit: u16,
    ) -> Result<Vec<WaitingMessage>, Unavailable> {
        // MongoDB reads 0 as no limit.
        if limit == 0 {
            return Ok(Vec::new());
        }
        let expired = doc! {
            "channel_id": channel.as_str(),
            "expires_at": { "$lt": just_after(now) },
        };
        self.on(WAITING, move |waiting: Collection<Document>| async move {
            let found = waiting
                .find(expired)
                .sort(doc! { "expires_at": 1, "_id": 1 })
                .selection_criteria(primary())
                .limit(i64::from(limit.min(MAX_ROWS)))
                .await?;
            super::page(found, Detail::Whole, Row::message).await
        })
        .await
    }

    async fn settle_waiting(&self, settled: &[SettledRow]) -> Result<(), Unavailable> {
        let (mut deletes, mut updates) = (Vec::new(), Vec::new());
        for row in settled {
            let which = doc! {
                "_id": &row.id,
                "replay_count": i64::from(row.replay_count),
                "attempts": i64::from(row.attempts),
            };
            match &row.settlement {
                Settlement::Removed => deletes.push((doc! { "q": which, "limit": 1 }, 0)),
                Settlement::Deferred {
                    attempts,
                    due_at,
                    reason,
                } => {
                    let change = doc! { "$set": {
                        "attempts": i64::from(*attempts),
                        "due_at": stored_from(*due_at),
                        "reason": reason.as_str(),
                    } };
                    updates.push((doc! { "q": which, "u": change }, 0));
                }
            }
        }
        if settled.is_empty() {
            return Ok(());
        }
        self.run(move |database| async move {
            for deletes in bulk::in_commands(deletes) {
                bulk::delete(&database, WAITING, deletes).await?;
            }
            for updates in bulk::in_commands(updates) {
                bulk::update(&database, WAITING, updates).await?;
            }
            Ok::<_, Unavailable>(())
        })
        .await
    }

    async fn release_channel(
        &self,
        owner: &str,
        channel: &ChannelId,
        now: OffsetDateTime,
        look_at: Option<OffsetDateTime>,
    ) -> Result<(), Unavailable> {
        let (owner, channel, now) = (owner.to_owned(), channel.to_string(), stored(now));
        self.run(move |database| async move {
            let waiting = database.collection(WAITING);
            let channels = database.collection(WAITING_CHANNELS);
            let next_due = next(&waiting, "due_at", &channel).await?;
            if next_due.is_none() && channels::forget(&channels, &owner, &channel).await? {
                return Ok(());
            }
            let next_expiry = next(&waiting, "expires_at", &channel).await?;
            let held_until = look_at.map(|at| look_no_later(stored_from(at), now, next_expiry));
            let next_look = next_due.into_iter().chain(next_expiry).min();
            let end = match held_until {
                Some(until) => LeaseEnd::Held(until),
                None => LeaseEnd::LookAt(next_look),
            };
            channels::release(&channels, &owner, &channel, end).await?;
            Ok::<_, Unavailable>(())
        })
        .await
    }

    async fn wake_channel(
        &self,
        channel: &ChannelId,
        now: OffsetDateTime,
    ) -> Result<(), Unavailable> {
        let (channel, now) = (channel.to_string(), stored(now));
        self.run(move |database| async move { wake(&database, &channel, now).await })
            .await
    }

    async fn make_due(
        &self,
        which: &WaitingSelection,
        now: OffsetDateTime,
    ) -> Result<u64, Unavailable> {
        let now = stored(now);
        let channel = match which {
            WaitingSelection::Channel(channel) => channel.to_string(),
            WaitingSelection::Message(id) => {
                let id = id.clone();
                return self
                    .run(move |database| async move { make_message_due(&database, &id, now).await })
                    .await;
            }
        };
        let mut made_due = 0;
        loop {
            let channel = channel.clone();
            let step = self.run::<_, _, Unavailable, _>(move |database| async move {
                let step = make_due_step(&database.collection(WAITING), &channel, now).await?;
                wake(&database, &channel, now).await?;
                Ok::<_, Unavailable>(step)
            });
            let step = step.await?;
            made_due += step.changed;
            if step.is_last {
                return Ok(made_due);
            }
        }
    }

    async fn held_until(&self, channel: &ChannelId) -> Result<Option<OffsetDateTime>, Unavailable> {
        let channel = channel.to_string();
        self.on(
            WAITING_CHANNELS,
            move |channels: Collection<Document>| async move {
                let until = channels::held_until(&channels, &channel).await?;
                Ok::<_, Unavailable>(until.map(read_time).transpose()?)
            },
        )
        .await
    }

    async fn waiting_message(&self, id: &str) -> Result<Option<WaitingMessage>, Unavailable> {
        let which = doc! { "_id": id };
        self.on(WAITING, move |waiting: Collection<Document>| async move {
            let found = waiting
                .find_one(which)
                .projection(outline())
                .selection_criteria(primary());
            read(found.await?)
        })
        .await
    }

    async fn waiting_summary(&self, channel: &ChannelId) -> Result<WaitingSummary, QueryError> {
        let channel = channel.to_string();
        let max_counted = self.max_counted_waiting();
        self.run_query(
            WAITING,
            move |waiting: Collection<Document>, max_time| async move {
                summary::read(&waiting, &channel, max_counted, max_time).await
            },
        )
        .await
    }
}

/// Finds the channel's due messages after the cursor. `None` if none can be due.
fn due_filter(
    channel: &ChannelId,
    after: Option<&WaitingCursor>,
    now: OffsetDateTime,
) -> Option<Document> {
    let (channel, end) = (channel.as_str(), just_after(now));
    let Some(after) = after else {
        return Some(doc! { "channel_id": channel, "due_at": { "$lt": end } });
    };
    let due_at = stored(after.due_at);
    // Each branch names the channel, so that the server reads both in the index's order.
    (due_at < end).then(|| {
        doc! { "$or": [
            { "channel_id": channel, "due_at": due_at, "_id": { "$gt": &after.id } },
            { "channel_id": channel, "due_at": { "$gt": due_at, "$lt": end } },
        ] }
    })
}
