//! Searches a store's files, or its collections, for a text.

use std::path::Path;

use bson::Document;
use futures::TryStreamExt;
use mongodb::Client;

/// Whether one of the embedded store's files holds the text: also the parts of it that are free, and
/// the WAL file.
pub fn files_hold(folder: &Path, text: &str) -> std::io::Result<bool> {
    for file in std::fs::read_dir(folder)? {
        let path = file?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("store.db") && holds(&std::fs::read(&path)?, text) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a document of this database holds the text.
pub async fn database_holds(url: &str, database: &str, text: &str) -> anyhow::Result<bool> {
    let database = Client::with_uri_str(url).await?.database(database);
    for collection in database.list_collection_names().await? {
        let collection = database.collection::<Document>(&collection);
        let mut found = collection.find(Document::new()).await?;
        while let Some(document) = found.try_next().await? {
            if holds(&bson::serialize_to_vec(&document)?, text) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|part| part == text.as_bytes())
}
