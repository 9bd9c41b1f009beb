//! Idempotency keys.
//!
//! Invariant: a key is taken by an insert, which succeeds for one request only. An expired lease is
//! taken over only if it is unchanged since it was read.

use std::time::Duration;

use async_trait::async_trait;
use bson::{DateTime, Document, doc};
use mongodb::Collection;
use roundtrip_model::MessageId;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    super::{MongoStore, is_duplicate_key},
    IDEMPOTENCY, document, later, row, stored,
};
use crate::{Idempotency, Reservation, Unavailable};

/// How often a reservation is tried while others take and release the key.
const RESERVE_ATTEMPTS: usize = 3;

#[async_trait]
impl Idempotency for MongoStore {
    async fn reserve(
        &self,
        key: &str,
        fingerprint: &str,
        message_id: &MessageId,
        now: OffsetDateTime,
        lease: Duration,
    ) -> Result<Reservation, Unavailable> {
        let now = stored(now);
        let wanted = KeyRow {
            key: key.to_owned(),
            fingerprint: fingerprint.to_owned(),
            message_id: *message_id,
            done: false,
            taken_at: now,
            lease_until: later(now, lease),
        };
        self.on(IDEMPOTENCY, move |keys| async move {
            reserve(&keys, &wanted).await
        })
        .await
    }

    async fn complete(&self, key: &str, message_id: &MessageId) -> Result<(), Unavailable> {
        let which = doc! { "_id": key, "message_id": message_id.to_string() };
        self.on(IDEMPOTENCY, move |keys| async move {
            let change = doc! { "$set": { "done": true } };
            keys.update_one(which, change).await.map(drop)
        })
        .await
    }

    async fn release(&self, key: &str, message_id: &MessageId) -> Result<(), Unavailable> {
        let which = doc! { "_id": key, "message_id": message_id.to_string(), "done": false };
        self.on(IDEMPOTENCY, move |keys| async move {
            keys.delete_one(which).await.map(drop)
        })
        .await
    }
}

async fn reserve(keys: &Collection<Document>, wanted: &KeyRow) -> Result<Reservation, Unavailable> {
    for _ in 0..RESERVE_ATTEMPTS {
        match keys.insert_one(document(wanted)?).await {
            Ok(_) => return Ok(Reservation::Taken(wanted.message_id)),
            Err(error) if is_duplicate_key(&error) => {}
            Err(error) => return Err(error.into()),
        }
        let named = doc! { "_id": wanted.key.as_str() };
        let Some(found) = keys.find_one(named).await? else {
            continue;
        };
        let found: KeyRow = row(found)?;
        if found.fingerprint != wanted.fingerprint {
            return Ok(Reservation::Mismatch);
        }
        if found.done {
            return Ok(Reservation::Done(found.message_id));
        }
        if found.lease_until > wanted.taken_at {
            return Ok(Reservation::UnderWay);
        }
        let taken_over = keys
            .find_one_and_update(
                found.unchanged(),
                doc! { "$set": { "lease_until": wanted.lease_until } },
            )
            .await?;
        if taken_over.is_some() {
            return Ok(Reservation::Taken(found.message_id));
        }
    }
    // Another request was faster each time.
    Ok(Reservation::UnderWay)
}

#[derive(Serialize, Deserialize)]
struct KeyRow {
    #[serde(rename = "_id")]
    key: String,
    fingerprint: String,
    message_id: MessageId,
    done: bool,
    taken_at: DateTime,
    lease_until: DateTime,
}

impl KeyRow {
    /// Finds the key only if it is unchanged since it was read.
    fn unchanged(&self) -> Document {
        doc! {
            "_id": self.key.as_str(),
            "message_id": self.message_id.to_string(),
            "done": self.done,
            "lease_until": self.lease_until,
        }
    }
}
