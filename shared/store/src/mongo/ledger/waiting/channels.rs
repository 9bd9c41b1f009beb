//! The records of channels for which messages wait: their leases, and the times to look at them.
//!
//! Invariant: only the owner changes the `look_at` of a leased channel. During a lease, puts and wakes
//! write the times at which the channel has to be looked at to other fields; the release sets
//! `look_at` to the earliest of all. `due_again_at` is the earliest due time of the put messages; a
//! release that holds the channel ignores it. `look_again_at` is the earliest expiry of them, or the
//! time of a wake.

use std::collections::BTreeSet;

use bson::{Bson, DateTime, Document, doc};
use mongodb::{Collection, Cursor, error::Error};
use roundtrip_model::ChannelId;
use serde::Deserialize;

use super::super::{primary, row, rows, stored_from, texts};
use crate::{Unavailable, ledger::Looks};

/// An update that has a channel looked at for messages that were put. Their due time does not count
/// if the channel is held.
pub(super) fn look(channel: &str, looks: Looks) -> Document {
    let expires_at = looks.expires_at.map(stored_from);
    update(channel, Some(stored_from(looks.due_at)), expires_at)
}

/// An update that has a channel looked at now.
pub(super) fn wake(channel: &str, now: DateTime) -> Document {
    update(channel, None, Some(now))
}

/// An update that has a channel looked at from the earlier of these times on. `due_at` does not count
/// if the channel is held.
fn update(channel: &str, due_at: Option<DateTime>, always_at: Option<DateTime>) -> Document {
    let is_free = doc! { "$eq": [{ "$ifNull": ["$owner", Bson::Null] }, Bson::Null] };
    let is_held = doc! { "$eq": ["$is_held", true] };
    // `$min` ignores null.
    let look_at = doc! { "$cond": [
        is_held,
        { "$min": ["$look_at", always_at] },
        { "$min": ["$look_at", due_at, always_at] },
    ] };
    let again = |field: &str, at: Option<DateTime>| {
        doc! { "$cond": [&is_free, Bson::Null, { "$min": [field, at] }] }
    };
    doc! {
        "q": { "_id": channel },
        "u": [{ "$set": {
            "look_at": { "$cond": [&is_free, look_at, "$look_at"] },
            "look_again_at": again("$look_again_at", always_at),
            "due_again_at": again("$due_again_at", due_at),
        } }],
        "upsert": true,
    }
}

/// Leases channels to be looked at before this time.
pub(super) async fn claim(
    channels: &Collection<Document>,
    owner: &str,
    before: DateTime,
    lease_until: DateTime,
    limit: u16,
) -> Result<Vec<ChannelId>, Error> {
    let claimable = doc! { "look_at": { "$lt": before } };
    let found = channels
        .find(claimable.clone())
        .projection(doc! { "_id": 1 })
        .sort(doc! { "look_at": 1, "_id": 1 })
        .selection_criteria(primary())
        .limit(i64::from(limit))
        .await?;
    let found = ids(found).await?;
    if found.is_empty() {
        return Ok(found);
    }
    // Another owner may have claimed some meanwhile.
    let mut still = claimable;
    still.insert("_id", doc! { "$in": texts(&found) });
    let change = doc! { "$set": {
        "owner": owner,
        "look_at": lease_until,
        "look_again_at": Bson::Null,
        "due_again_at": Bson::Null,
    } };
    channels.update_many(still, change).await?;
    let claimed = doc! { "owner": owner, "look_at": lease_until };
    among(channels, found, claimed).await
}

/// Extends leases, and returns the channels that the owner still has.
pub(super) async fn extend(
    channels: &Collection<Document>,
    owner: &str,
    named: Vec<ChannelId>,
    lease_until: DateTime,
) -> Result<Vec<ChannelId>, Error> {
    let own = doc! { "owner": owner };
    let mut which = own.clone();
    which.insert("_id", doc! { "$in": texts(&named) });
    let change = doc! { "$set": { "look_at": lease_until } };
    channels.update_many(which, change).await?;
    among(channels, named, own).await
}

/// Ends the lease of a channel without messages, unless a put or a wake came since the claim.
/// Returns whether the lease has ended.
pub(super) async fn forget(
    channels: &Collection<Document>,
    owner: &str,
    channel: &str,
) -> Result<bool, Error> {
    let unasked = doc! {
        "_id": channel,
        "owner": owner,
        "look_again_at": Bson::Null,
        "due_again_at": Bson::Null,
    };
    Ok(channels.delete_one(unasked).await?.deleted_count > 0)
}

/// When a channel is looked at after its lease.
pub(super) enum LeaseEnd {
    /// At this time. `None` if only a put or a wake since the claim gives one.
    LookAt(Option<DateTime>),
    /// At this time, also for messages that are due before.
    Held(DateTime),
}

/// Ends a lease.
pub(super) async fn release(
    channels: &Collection<Document>,
    owner: &str,
    channel: &str,
    end: LeaseEnd,
) -> Result<(), Error> {
    let (is_held, look_at) = match end {
        LeaseEnd::LookAt(at) => (
            false,
            doc! { "$min": [at, "$look_again_at", "$due_again_at"] },
        ),
        LeaseEnd::Held(at) => (true, doc! { "$min": [at, "$look_again_at"] }),
    };
    let change = doc! { "$set": {
        "owner": Bson::Null,
        "look_at": look_at,
        "look_again_at": Bson::Null,
        "due_again_at": Bson::Null,
        "is_held": is_held,
    } };
    let own = doc! { "_id": channel, "owner": owner };
    channels.update_one(own, vec![change]).await.map(drop)
}

pub(super) async fn held_until(
    channels: &Collection<Document>,
    channel: &str,
) -> Result<Option<DateTime>, Unavailable> {
    #[derive(Deserialize)]
    struct Held {
        look_at: DateTime,
    }

    let held = channels
        .find_one(doc! { "_id": channel, "is_held": true, "owner": Bson::Null })
        .projection(doc! { "_id": 0, "look_at": 1 })
        .await?;
    let held = held.map(row::<Held>).transpose()?;
    Ok(held.map(|held| held.look_at))
}

/// Those of the channels whose records match.
async fn among(
    channels: &Collection<Document>,
    mut named: Vec<ChannelId>,
    mut which: Document,
) -> Result<Vec<ChannelId>, Error> {
    which.insert("_id", doc! { "$in": texts(&named) });
    let found = channels
        .find(which)
        .projection(doc! { "_id": 1 })
        .selection_criteria(primary())
        .await?;
    let found: BTreeSet<ChannelId> = ids(found).await?.into_iter().collect();
    named.retain(|channel| found.contains(channel));
    Ok(named)
}

async fn ids(found: Cursor<Document>) -> Result<Vec<ChannelId>, Error> {
    #[derive(Deserialize)]
    struct Found {
        #[serde(rename = "_id")]
        channel_id: ChannelId,
    }

    rows(found, |found: Found| Ok(found.channel_id)).await
}
