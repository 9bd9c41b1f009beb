//! The records of channels for which messages wait: their leases, and the times to look at them.
//!
//! Invariant: only the owner changes the `look_at` of a leased channel. What a put or a wake asks for
//! meanwhile is in `look_again_at`, and the lease's end takes the earlier of the two.

use roundtrip_model::ChannelId;
use rusqlite::{Connection, Transaction};

use super::Columns;

const LOOK: &str = "
    INSERT INTO waiting_channels (channel_id, look_at) VALUES (?1, ?2)
    ON CONFLICT (channel_id) DO UPDATE SET
        look_at = iif(owner IS NULL, min(look_at, excluded.look_at), look_at),
        look_again_at = iif(owner IS NULL, NULL,
            min(ifnull(look_again_at, excluded.look_at), excluded.look_at))";
pub(in crate::embedded) const CLAIMABLE: &str = "
    SELECT channel_id FROM waiting_channels
    WHERE look_at <= ?1 ORDER BY look_at, channel_id LIMIT ?2";
const CLAIM: &str = "
    UPDATE waiting_channels SET owner = ?2, look_at = ?3, look_again_at = NULL
    WHERE channel_id = ?1";
const EXTEND: &str =
    "UPDATE waiting_channels SET look_at = ?3 WHERE channel_id = ?1 AND owner = ?2";
const RELEASE: &str = "
    UPDATE waiting_channels SET
        owner = NULL,
        look_at = min(?3, ifnull(look_again_at, ?3)),
        look_again_at = NULL
    WHERE channel_id = ?1 AND owner = ?2";
const FORGET: &str = "DELETE FROM waiting_channels WHERE channel_id = ?1 AND owner = ?2";

/// Has a channel looked at from this time on.
pub(super) fn look(transaction: &Transaction<'_>, channel: &str, at: i64) -> rusqlite::Result<()> {
    let mut look = transaction.prepare_cached(LOOK)?;
    look.execute((channel, at)).map(drop)
}

pub(super) fn claimable(
    connection: &Connection,
    now: i64,
    limit: u16,
) -> rusqlite::Result<Vec<ChannelId>> {
    let mut find = connection.prepare_cached(CLAIMABLE)?;
    let channels = find.query_map((now, limit), |row| Columns(row).parsed("channel_id"))?;
    channels.collect()
}

/// Leases channels to be looked at.
pub(super) fn claim(
    transaction: &Transaction<'_>,
    owner: &str,
    now: i64,
    lease_until: i64,
    limit: u16,
) -> rusqlite::Result<Vec<ChannelId>> {
    let channels = claimable(transaction, now, limit)?;
    let mut claim = transaction.prepare_cached(CLAIM)?;
    for channel in &channels {
        claim.execute((channel.as_str(), owner, lease_until))?;
    }
    Ok(channels)
}

/// Extends leases, and returns the channels that the owner still has.
pub(super) fn extend(
    transaction: &Transaction<'_>,
    owner: &str,
    channels: Vec<ChannelId>,
    lease_until: i64,
) -> rusqlite::Result<Vec<ChannelId>> {
    let mut extend = transaction.prepare_cached(EXTEND)?;
    let mut kept = Vec::new();
    for channel in channels {
        if extend.execute((channel.as_str(), owner, lease_until))? > 0 {
            kept.push(channel);
        }
    }
    Ok(kept)
}

/// Ends a lease. Without a time the record is removed.
pub(super) fn release(
    transaction: &Transaction<'_>,
    owner: &str,
    channel: &str,
    look_at: Option<i64>,
) -> rusqlite::Result<()> {
    let changed = match look_at {
        Some(at) => transaction
            .prepare_cached(RELEASE)?
            .execute((channel, owner, at)),
        None => transaction
            .prepare_cached(FORGET)?
            .execute((channel, owner)),
    };
    changed.map(drop)
}
