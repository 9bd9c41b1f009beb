//! API keys.
//!
//! Invariant: a key is revoked only once, because the write's filter requires one that is not
//! revoked.

use std::collections::BTreeSet;

use async_trait::async_trait;
use bson::{Binary, DateTime, Document, doc};
use roundtrip_model::{ApiKey, ApiKeyId, ChannelId, KeyBounds, KeyHash, KeyRole};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    super::MongoStore, API_KEYS, Unreadable, binary, document, named, read_time, row, rows, stored,
    unless_there, updated,
};
use crate::{
    ApiKeys, KeyError, MAX_ACTIVE_KEYS, MAX_KEYS_UNDER_ONE, Unavailable, ledger::MAX_ROWS,
};

#[async_trait]
impl ApiKeys for MongoStore {
    async fn create_key(&self, key: &ApiKey) -> Result<(), KeyError> {
        let row = document(&KeyRow::of(key))?;
        let active = active(key.created_at);
        let under_one = key.made_under.map(|one| {
            let mut under_one = active.clone();
            under_one.insert("made_under", one.to_string());
            under_one
        });
        self.on(API_KEYS, move |keys| async move {
            if let Some(under_one) = under_one {
                let count = keys.count_documents(under_one).await?;
                if count >= u64::from(MAX_KEYS_UNDER_ONE) {
                    return Err(KeyError::TooManyUnderOne);
                }
            }
            let count = keys.count_documents(active).await?;
            if count >= u64::from(MAX_ACTIVE_KEYS) {
                return Err(KeyError::TooMany);
            }
            Ok(unless_there(keys.insert_one(row).await)?)
        })
        .await
    }

    async fn key(&self, id: &ApiKeyId) -> Result<Option<ApiKey>, Unavailable> {
        let which = named(id);
        self.on(API_KEYS, move |keys| async move {
            read(keys.find_one(which).await?)
        })
        .await
    }

    async fn keys(
        &self,
        within: &KeyBounds,
        after: Option<&ApiKeyId>,
        limit: u16,
    ) -> Result<Vec<ApiKey>, Unavailable> {
        // MongoDB reads 0 as no limit.
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut filter = bounded(within);
        if let Some(after) = after {
            filter.insert("_id", doc! { "$gt": after.to_string() });
        }
        self.page(filter, limit.min(MAX_ROWS)).await
    }

    async fn active_keys(&self, now: OffsetDateTime) -> Result<Vec<ApiKey>, Unavailable> {
        self.page(active(now), MAX_ACTIVE_KEYS).await
    }

    async fn revoke_key(
        &self,
        id: &ApiKeyId,
        now: OffsetDateTime,
    ) -> Result<Option<ApiKey>, Unavailable> {
        let which = named(id);
        let mut active = which.clone();
        // `null` also matches a missing field.
        active.insert("revoked_at", bson::Bson::Null);
        let now = stored(now);
        // `$min` sets a missing field.
        let change = doc! { "$set": { "revoked_at": now }, "$min": { "ends_at": now } };
        self.on(API_KEYS, move |keys| async move {
            let key = match updated(&keys, active, change).await? {
                None => keys.find_one(which).await?,
                revoked => revoked,
            };
            read(key)
        })
        .await
    }
}

impl MongoStore {
    async fn page(&self, filter: Document, limit: u16) -> Result<Vec<ApiKey>, Unavailable> {
        self.on(API_KEYS, move |keys| async move {
            let found = keys
                .find(filter)
                .sort(doc! { "_id": 1 })
                .limit(i64::from(limit))
                .await?;
            rows(found, KeyRow::key).await
        })
        .await
    }
}

/// The filter form of [`KeyBounds::exceeded_by`]. A key without a field is outside the bounds: a
/// comparison never matches a missing field.
fn bounded(within: &KeyBounds) -> Document {
    let mut filter = Document::new();
    if let Some(channels) = &within.channels {
        let own: Vec<&str> = channels.iter().map(ChannelId::as_str).collect();
        let others = doc! { "$elemMatch": { "$nin": own } };
        filter.insert("channels", doc! { "$exists": true, "$not": others });
    }
    if let Some(rate) = within.rate_per_second {
        filter.insert("rate_per_second", doc! { "$lte": i64::from(rate) });
    }
    if let Some(end) = within.expires_at {
        filter.insert("expires_at", doc! { "$lte": stored(end) });
    }
    filter
}

fn active(now: OffsetDateTime) -> Document {
    doc! { "$or": [
        { "ends_at": { "$exists": false } },
        { "ends_at": { "$gt": stored(now) } },
    ] }
}

fn read(found: Option<Document>) -> Result<Option<ApiKey>, Unavailable> {
    let key = found.map(|found| row::<KeyRow>(found)?.key());
    Ok(key.transpose()?)
}

#[derive(Serialize, Deserialize)]
struct KeyRow {
    #[serde(rename = "_id")]
    key_id: ApiKeyId,
    name: String,
    role: KeyRole,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    channels: Option<BTreeSet<ChannelId>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate_per_second: Option<u32>,
    created_at: DateTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<DateTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoked_at: Option<DateTime>,
    /// The earlier of `expires_at` and `revoked_at`. The retention counts from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ends_at: Option<DateTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made_under: Option<ApiKeyId>,
    hash: Binary,
}

impl KeyRow {
    fn of(key: &ApiKey) -> Self {
        Self {
            key_id: key.key_id,
            name: key.name.clone(),
            role: key.role,
            channels: key.channels.clone(),
            rate_per_second: key.rate_per_second,
            created_at: stored(key.created_at),
            expires_at: key.expires_at.map(stored),
            revoked_at: key.revoked_at.map(stored),
            ends_at: key.ends_at().map(stored),
            made_under: key.made_under,
            hash: binary(key.hash.as_bytes()),
        }
    }

    fn key(self) -> Result<ApiKey, Unreadable> {
        let hash: [u8; 32] = self
            .hash
            .bytes
            .try_into()
            .map_err(|_| Unreadable("a hash of another length".into()))?;
        Ok(ApiKey {
            key_id: self.key_id,
            name: self.name,
            role: self.role,
            channels: self.channels,
            rate_per_second: self.rate_per_second,
            created_at: read_time(self.created_at)?,
            expires_at: self.expires_at.map(read_time).transpose()?,
            revoked_at: self.revoked_at.map(read_time).transpose()?,
            made_under: self.made_under,
            hash: KeyHash::kept(hash),
        })
    }
}
