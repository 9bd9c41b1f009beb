//! The records of channels for which messages wait: their leases, and the times to look at them.
//!
//! Invariant: only the owner changes the `look_at` of a leased channel. What a wake asks for meanwhile
//! is in `look_again_at`, and the lease's end takes the earlier of the two. What was put meanwhile is
//! read at the lease's end.

use roundtrip_model::ChannelId;
use rusqlite::{Connection, OptionalExtension, Transaction};
use time::OffsetDateTime;

use super::Columns;

const LOOK: &str = "
    INSERT INTO waiting_channels (channel_id, look_at) VALUES (?1, min(?2, ifnull(?3, ?2)))
    ON CONFLICT (channel_id) DO UPDATE SET
        look_at = min(look_at, iif(is_held, ifnull(?3, look_at), excluded.look_at))
    WHERE owner IS NULL";
const WAKE: &str = "
    UPDATE waiting_channels SET
        look_at = iif(owner IS NULL, min(look_at, ?2), look_at),
        look_again_at = iif(owner IS NULL, NULL, min(ifnull(look_again_at, ?2), ?2))
    WHERE channel_id = ?1";
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
        look_again_at = NULL,
        is_held = ?4
    WHERE channel_id = ?1 AND owner = ?2";
const HELD_UNTIL: &str = "
    SELECT look_at FROM waiting_channels
    WHERE channel_id = ?1 AND is_held AND owner IS NULL";
const FORGET: &str = "DELETE FROM waiting_channels WHERE channel_id = ?1 AND owner = ?2";

/// Has a channel looked at for messages that were put. Their due time does not count if the channel
/// is held.
pub(super) fn look(
    transaction: &Transaction<'_>,
    channel: &str,
    due_at: i64,
    expires_at: Option<i64>,
) -> rusqlite::Result<()> {
    let mut look = transaction.prepare_cached(LOOK)?;
    look.execute((channel, due_at, expires_at)).map(drop)
}

/// Has a channel looked at now, if it has a record.
pub(super) fn wake(transaction: &Transaction<'_>, channel: &str, now: i64) -> rusqlite::Result<()> {
    let mut wake = transaction.prepare_cached(WAKE)?;
    wake.execute((channel, now)).map(drop)
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

/// Ends the lease of a channel with messages.
pub(super) fn release(
    transaction: &Transaction<'_>,
    owner: &str,
    channel: &str,
    look_at: i64,
    is_held: bool,
) -> rusqlite::Result<()> {
    let mut release = transaction.prepare_cached(RELEASE)?;
    release
        .execute((channel, owner, look_at, is_held))
        .map(drop)
}

pub(super) fn held_until(
    connection: &Connection,
    channel: &str,
) -> rusqlite::Result<Option<OffsetDateTime>> {
    let mut held = connection.prepare_cached(HELD_UNTIL)?;
    let until = held.query_row([channel], |row| Columns(row).time("look_at"));
    until.optional()
}

/// Ends the lease of a channel without messages.
pub(super) fn forget(
    transaction: &Transaction<'_>,
    owner: &str,
    channel: &str,
) -> rusqlite::Result<()> {
    let mut forget = transaction.prepare_cached(FORGET)?;
    forget.execute((channel, owner)).map(drop)
}
