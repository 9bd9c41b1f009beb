//! API keys.
//!
//! Invariant: the write that adds a key also counts the active ones, so that the limit is exact.

use std::collections::BTreeSet;

use async_trait::async_trait;
use roundtrip_model::{ApiKey, ApiKeyId, ChannelId, KeyBounds, KeyHash, millis};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use time::OffsetDateTime;

use super::{
    SqliteStore,
    rows::{Columns, counted, name, unwritable},
};
use crate::{
    ApiKeys, KeyError, MAX_ACTIVE_KEYS, MAX_KEYS_UNDER_ONE, Unavailable, ledger::MAX_ROWS,
};

const INSERT: &str = "
    INSERT INTO api_keys (key_id, name, role, channels, rate_per_second, created_at, expires_at,
        revoked_at, ends_at, made_under, hash)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
const COUNT_ACTIVE: &str = "SELECT count(*) FROM api_keys WHERE ends_at IS NULL OR ends_at > ?1";
const COUNT_UNDER: &str = "
    SELECT count(*) FROM api_keys WHERE made_under = ?2 AND (ends_at IS NULL OR ends_at > ?1)";
const ACTIVE: &str = "
    SELECT * FROM api_keys WHERE ends_at IS NULL OR ends_at > ?1 ORDER BY key_id LIMIT ?2";
/// The SQL form of [`KeyBounds::exceeded_by`]. A missing value is NULL, and so exceeds every bound.
const PAGE: &str = "
    SELECT * FROM api_keys
    WHERE key_id > ?1
        AND (?3 IS NULL OR channels IS NOT NULL AND NOT EXISTS (
            SELECT 1 FROM json_each(channels)
            WHERE value NOT IN (SELECT value FROM json_each(?3))))
        AND (?4 IS NULL OR rate_per_second <= ?4)
        AND (?5 IS NULL OR expires_at <= ?5)
    ORDER BY key_id LIMIT ?2";
const REVOKE: &str = "
    UPDATE api_keys SET revoked_at = ?2, ends_at = min(?2, coalesce(ends_at, ?2))
    WHERE key_id = ?1 AND revoked_at IS NULL";

#[async_trait]
impl ApiKeys for SqliteStore {
    async fn create_key(&self, key: &ApiKey) -> Result<(), KeyError> {
        let key = key.clone();
        self.write(move |transaction| {
            let now = millis::of(key.created_at);
            if let Some(one) = key.made_under {
                let active = counted(transaction, COUNT_UNDER, params![now, one.to_string()])?;
                if active >= u64::from(MAX_KEYS_UNDER_ONE) {
                    return Err(KeyError::TooManyUnderOne);
                }
            }
            if counted(transaction, COUNT_ACTIVE, [now])? >= u64::from(MAX_ACTIVE_KEYS) {
                return Err(KeyError::TooMany);
            }
            Ok(insert(transaction, &key)?)
        })
        .await
    }

    async fn key(&self, id: &ApiKeyId) -> Result<Option<ApiKey>, Unavailable> {
        let id = *id;
        self.run(move |connection| read(connection, &id)).await
    }

    async fn keys(
        &self,
        within: &KeyBounds,
        after: Option<&ApiKeyId>,
        limit: u16,
    ) -> Result<Vec<ApiKey>, Unavailable> {
        let after = after.map(ToString::to_string).unwrap_or_default();
        let within = within.clone();
        self.run(move |connection| {
            let values = params![
                after,
                limit.min(MAX_ROWS),
                array(within.channels.as_ref())?,
                within.rate_per_second,
                within.expires_at.map(millis::of),
            ];
            rows(connection, PAGE, values)
        })
        .await
    }

    async fn active_keys(&self, now: OffsetDateTime) -> Result<Vec<ApiKey>, Unavailable> {
        let now = millis::of(now);
        self.run(move |connection| rows(connection, ACTIVE, params![now, MAX_ACTIVE_KEYS]))
            .await
    }

    async fn revoke_key(
        &self,
        id: &ApiKeyId,
        now: OffsetDateTime,
    ) -> Result<Option<ApiKey>, Unavailable> {
        let id = *id;
        self.write(move |transaction| {
            transaction.execute(REVOKE, params![id.to_string(), millis::of(now)])?;
            read(transaction, &id)
        })
        .await
    }
}

fn array(channels: Option<&BTreeSet<ChannelId>>) -> rusqlite::Result<Option<String>> {
    let channels = channels.map(serde_json::to_string).transpose();
    channels.map_err(unwritable)
}

fn insert(transaction: &Transaction<'_>, key: &ApiKey) -> rusqlite::Result<()> {
    let values = params![
        key.key_id.to_string(),
        key.name,
        name(key.role),
        array(key.channels.as_ref())?,
        key.rate_per_second,
        millis::of(key.created_at),
        key.expires_at.map(millis::of),
        key.revoked_at.map(millis::of),
        key.ends_at().map(millis::of),
        key.made_under.map(|one| one.to_string()),
        key.hash.as_bytes(),
    ];
    transaction.execute(INSERT, values).map(drop)
}

fn read(connection: &Connection, id: &ApiKeyId) -> rusqlite::Result<Option<ApiKey>> {
    connection
        .prepare_cached("SELECT * FROM api_keys WHERE key_id = ?1")?
        .query_row([id.to_string()], key)
        .optional()
}

fn rows(
    connection: &Connection,
    sql: &str,
    values: impl rusqlite::Params,
) -> rusqlite::Result<Vec<ApiKey>> {
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_map(values, key)?.collect()
}

fn key(row: &Row<'_>) -> rusqlite::Result<ApiKey> {
    let columns = Columns(row);
    Ok(ApiKey {
        key_id: columns.parsed("key_id")?,
        name: columns.get("name")?,
        role: columns.named("role")?,
        channels: match row.get_ref("channels")? {
            rusqlite::types::ValueRef::Null => None,
            _ => Some(columns.json("channels")?),
        },
        rate_per_second: columns.get("rate_per_second")?,
        created_at: columns.time("created_at")?,
        expires_at: columns.optional_time("expires_at")?,
        revoked_at: columns.optional_time("revoked_at")?,
        made_under: columns.optional("made_under")?,
        hash: KeyHash::kept(columns.get("hash")?),
    })
}
