//! The records of channels for which messages wait: their leases, and the times to look at them.
//!
//! Invariant: only the owner changes the `look_at` of a leased channel. What a put or a wake asks for
//! meanwhile is in `look_again_at`, and the lease's end takes the earlier of the two.

use std::collections::BTreeSet;

use bson::{Bson, DateTime, Document, doc};
use mongodb::{Collection, Cursor, error::Error};
use roundtrip_model::ChannelId;
use serde::Deserialize;

use super::super::{primary, rows, texts};

/// An update that has a channel looked at from this time on.
pub(super) fn look(channel: &str, at: DateTime) -> Document {
    let is_free = doc! { "$eq": [{ "$ifNull": ["$owner", Bson::Null] }, Bson::Null] };
    doc! {
        "q": { "_id": channel },
        "u": [{ "$set": {
            // `$min` ignores null.
            "look_at": { "$cond": [&is_free, { "$min": ["$look_at", at] }, "$look_at"] },
            "look_again_at": { "$cond": [is_free, Bson::Null, { "$min": ["$look_again_at", at] }] },
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

/// Ends a lease. Without a time the record is removed, unless a put or a wake has given a time.
pub(super) async fn release(
    channels: &Collection<Document>,
    owner: &str,
    channel: &str,
    look_at: Option<DateTime>,
) -> Result<(), Error> {
    let own = doc! { "_id": channel, "owner": owner };
    if look_at.is_none() {
        let mut unasked = own.clone();
        unasked.insert("look_again_at", Bson::Null);
        if channels.delete_one(unasked).await?.deleted_count > 0 {
            return Ok(());
        }
    }
    let change = doc! { "$set": {
        "owner": Bson::Null,
        "look_at": { "$min": [look_at, "$look_again_at"] },
        "look_again_at": Bson::Null,
    } };
    channels.update_one(own, vec![change]).await.map(drop)
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
