//! The encrypted signing secrets of channels, one document for each channel.
//!
//! Invariant: a write or removal requires that the newest secret is unchanged since it was read. So
//! one of two concurrent writes fails.

use async_trait::async_trait;
use bson::{Document, doc};
use mongodb::{Collection, Database, error::Error};
use roundtrip_model::ChannelId;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{MongoStore, is_duplicate_key};
use crate::{SealedSecret, Secrets, SecretsError, Unavailable, secrets::newest};

const SECRETS: &str = "channel_secrets";

#[derive(Serialize, Deserialize)]
pub(super) struct SecretsRow {
    #[serde(rename = "_id")]
    channel_id: String,
    /// The first of `secrets`, for the write's filter.
    newest: String,
    secrets: Vec<SealedSecret>,
}

#[async_trait]
impl Secrets for MongoStore {
    async fn secrets(&self, id: &ChannelId) -> Result<Vec<SealedSecret>, Unavailable> {
        let id = id.clone();
        self.run(move |database| async move { read(&of(&database), &id).await })
            .await
    }

    async fn replace_secrets(
        &self,
        id: &ChannelId,
        seen: &[SealedSecret],
        new: &[SealedSecret],
    ) -> Result<(), SecretsError> {
        let (id, seen) = (id.clone(), newest(seen).map(str::to_owned));
        let row = SecretsRow {
            channel_id: id.to_string(),
            newest: newest(new).unwrap_or_default().to_owned(),
            secrets: new.to_vec(),
        };
        self.run(move |database| async move {
            let secrets = of(&database);
            let was_put = match seen {
                None => match secrets.insert_one(row).await {
                    Ok(_) => true,
                    Err(error) if is_duplicate_key(&error) => false,
                    Err(error) => return Err(error.into()),
                },
                Some(seen) => {
                    let replaced = secrets.replace_one(as_seen(&id, &seen), row).await?;
                    replaced.matched_count > 0
                }
            };
            if was_put {
                Ok(())
            } else {
                Err(SecretsError::Changed(id))
            }
        })
        .await
    }
}

pub(super) fn of(database: &Database) -> Collection<SecretsRow> {
    database.collection(SECRETS)
}

fn as_seen(id: &ChannelId, newest: &str) -> Document {
    doc! { "_id": id.as_str(), "newest": newest }
}

pub(super) async fn read(
    secrets: &Collection<SecretsRow>,
    id: &ChannelId,
) -> Result<Vec<SealedSecret>, Error> {
    let row = secrets.find_one(doc! { "_id": id.as_str() }).await?;
    Ok(row.map_or_else(Vec::new, |row| row.secrets))
}

/// Removes the secrets of a deleted channel. If this fails the leftovers are harmless: a new
/// channel under this id replaces them with its own.
pub(super) async fn delete(
    secrets: &Collection<SecretsRow>,
    id: &ChannelId,
    seen: &[SealedSecret],
) {
    let Some(newest) = newest(seen) else { return };
    if let Err(error) = secrets.delete_one(as_seen(id, newest)).await {
        warn!(%error, channel_id = %id, "a deleted channel's secrets are left over");
    }
}
