//! The encrypted signing secrets of channels.

use async_trait::async_trait;
use roundtrip_model::ChannelId;
use rusqlite::{Connection, OptionalExtension};

use super::SqliteStore;
use crate::{SealedSecret, Secrets, SecretsError, Unavailable, secrets::newest};

const SELECT: &str = "SELECT secrets FROM channel_secrets WHERE channel_id = ?1";
const REPLACE: &str =
    "INSERT OR REPLACE INTO channel_secrets (channel_id, secrets) VALUES (?1, ?2)";
const DELETE: &str = "DELETE FROM channel_secrets WHERE channel_id = ?1";

#[async_trait]
impl Secrets for SqliteStore {
    async fn secrets(&self, id: &ChannelId) -> Result<Vec<SealedSecret>, Unavailable> {
        let id = id.clone();
        self.run(move |connection| read(connection, &id)).await
    }

    async fn replace_secrets(
        &self,
        id: &ChannelId,
        seen: &[SealedSecret],
        new: &[SealedSecret],
    ) -> Result<(), SecretsError> {
        let (id, seen) = (id.clone(), newest(seen).map(str::to_owned));
        let new = serde_json::to_string(new).map_err(Unavailable::new)?;
        self.write(move |transaction| {
            if newest(&read(transaction, &id)?) != seen.as_deref() {
                return Err(SecretsError::Changed(id));
            }
            transaction.execute(REPLACE, (id.as_str(), new))?;
            Ok(())
        })
        .await
    }
}

fn read(connection: &Connection, id: &ChannelId) -> Result<Vec<SealedSecret>, Unavailable> {
    let mut select = connection.prepare_cached(SELECT)?;
    let text: Option<String> = select
        .query_row([id.as_str()], |row| row.get(0))
        .optional()?;
    text.map_or_else(
        || Ok(Vec::new()),
        |text| serde_json::from_str(&text).map_err(Unavailable::new),
    )
}

pub(super) fn delete(connection: &Connection, id: &ChannelId) -> rusqlite::Result<()> {
    connection.execute(DELETE, [id.as_str()]).map(drop)
}
