//! Idempotency keys.
//!
//! Invariant: a key is looked up and taken in one write transaction, so that only one of several
//! concurrent requests gets it.

use std::time::Duration;

use async_trait::async_trait;
use roundtrip_model::{MessageId, millis};
use rusqlite::{OptionalExtension, Transaction};
use time::OffsetDateTime;

use super::{SqliteStore, rows::Columns};
use crate::{Idempotency, Reservation, Unavailable};

const INSERT: &str = "
    INSERT INTO idempotency (key, fingerprint, message_id, done, taken_at, lease_until)
    VALUES (?1, ?2, ?3, 0, ?4, ?5)";
const TAKE_OVER: &str = "UPDATE idempotency SET lease_until = ?2 WHERE key = ?1";
const COMPLETE: &str = "UPDATE idempotency SET done = 1 WHERE key = ?1 AND message_id = ?2";
const RELEASE: &str = "DELETE FROM idempotency WHERE key = ?1 AND message_id = ?2 AND done = 0";

#[async_trait]
impl Idempotency for SqliteStore {
    async fn reserve(
        &self,
        key: &str,
        fingerprint: &str,
        message_id: &MessageId,
        now: OffsetDateTime,
        lease: Duration,
    ) -> Result<Reservation, Unavailable> {
        let (key, fingerprint, message_id) = (key.to_owned(), fingerprint.to_owned(), *message_id);
        let (now, lease_until) = (millis::of(now), millis::of(now + lease));
        self.write(move |transaction| -> rusqlite::Result<Reservation> {
            let Some(earlier) = earlier(transaction, &key)? else {
                let row = (key, fingerprint, message_id.to_string(), now, lease_until);
                transaction.prepare_cached(INSERT)?.execute(row)?;
                return Ok(Reservation::Taken(message_id));
            };
            if earlier.fingerprint != fingerprint {
                return Ok(Reservation::Mismatch);
            }
            if earlier.done {
                return Ok(Reservation::Done(earlier.message_id));
            }
            if earlier.lease_until > now {
                return Ok(Reservation::UnderWay);
            }
            transaction
                .prepare_cached(TAKE_OVER)?
                .execute((key, lease_until))?;
            Ok(Reservation::Taken(earlier.message_id))
        })
        .await
    }

    async fn complete(&self, key: &str, message_id: &MessageId) -> Result<(), Unavailable> {
        self.change(COMPLETE, key, message_id).await
    }

    async fn release(&self, key: &str, message_id: &MessageId) -> Result<(), Unavailable> {
        self.change(RELEASE, key, message_id).await
    }
}

impl SqliteStore {
    async fn change(
        &self,
        sql: &'static str,
        key: &str,
        message_id: &MessageId,
    ) -> Result<(), Unavailable> {
        let of = (key.to_owned(), message_id.to_string());
        self.write(move |transaction| transaction.prepare_cached(sql)?.execute(of).map(drop))
            .await
    }
}

struct Earlier {
    fingerprint: String,
    message_id: MessageId,
    done: bool,
    lease_until: i64,
}

fn earlier(transaction: &Transaction<'_>, key: &str) -> rusqlite::Result<Option<Earlier>> {
    transaction
        .prepare_cached("SELECT * FROM idempotency WHERE key = ?1")?
        .query_row([key], |row| {
            let columns = Columns(row);
            Ok(Earlier {
                fingerprint: columns.get("fingerprint")?,
                message_id: columns.parsed("message_id")?,
                done: columns.get("done")?,
                lease_until: columns.get("lease_until")?,
            })
        })
        .optional()
}
