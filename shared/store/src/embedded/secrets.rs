//! The encrypted signing secrets of channels.

use async_trait::async_trait;
use roundtrip_model::ChannelId;
use rusqlite::{Connection, OptionalExtension};

use super::{SqliteStore, unavailable};
use crate::{SealedSecret, Secrets, StoreError, secrets::newest};

const SELECT: &str = "SELECT secrets FROM channel_secrets WHERE channel_id = ?1";
const REPLACE: &str =
    "INSERT OR REPLACE INTO channel_secrets (channel_id, secrets) VALUES (?1, ?2)";
const DELETE: &str = "DELETE FROM channel_secrets WHERE channel_id = ?1";

#[async_trait]
impl Secrets for SqliteStore {
    async fn secrets(&self, id: &ChannelId) -> Result<Vec<SealedSecret>, StoreError> {
        let id = id.clone();
        self.file
            .run(move |connection, _| read(connection, &id))
            .await
    }

    async fn replace_secrets(
        &self,
        id: &ChannelId,
        seen: &[SealedSecret],
        new: &[SealedSecret],
    ) -> Result<(), StoreError> {
        let (id, seen) = (id.clone(), newest(seen).map(str::to_owned));
        let new =
            serde_json::to_string(new).map_err(|error| StoreError::Unavailable(error.into()))?;
        self.file
            .write(move |transaction| {
                if newest(&read(transaction, &id)?) != seen.as_deref() {
                    return Err(StoreError::Changed(id));
                }
                transaction
                    .execute(REPLACE, (id.as_str(), new))
                    .map(drop)
                    .map_err(unavailable)
            })
            .await
    }
}

fn read(connection: &Connection, id: &ChannelId) -> Result<Vec<SealedSecret>, StoreError> {
    let text: Option<String> = connection
        .prepare_cached(SELECT)
        .and_then(|mut select| select.query_row([id.as_str()], |row| row.get(0)).optional())
        .map_err(unavailable)?;
    text.map_or_else(
        || Ok(Vec::new()),
        |text| serde_json::from_str(&text).map_err(|error| StoreError::Unavailable(error.into())),
    )
}

/// Removes the secrets of a deleted channel.
pub(super) fn delete(connection: &Connection, id: &ChannelId) -> Result<(), StoreError> {
    connection
        .execute(DELETE, [id.as_str()])
        .map(drop)
        .map_err(unavailable)
}
