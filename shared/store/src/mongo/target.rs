//! The fields of a channel's document that a delivery needs.

use bson::{Bson, Document, doc};
use mongodb::Collection;
use roundtrip_model::{ChannelId, ChannelUid, channel::ENDPOINT_URL, settings::DELIVERY};
use serde_json::{Map, Value};

use super::named;
use crate::{ChannelError, DeliveryTarget, document::METADATA, version::digest};

pub(super) async fn read(
    channels: &Collection<Document>,
    id: &ChannelId,
) -> Result<DeliveryTarget, ChannelError> {
    let needed = doc! {
        format!("{METADATA}.{ENDPOINT_URL}"): 1,
        format!("{METADATA}.{DELIVERY}"): 1,
    };
    let found = channels.find_one(named(id)).projection(needed).await?;
    let found = found.ok_or_else(|| ChannelError::NotFound(id.clone()))?;
    let uid = uid(&found);
    let metadata = match found.get(METADATA) {
        Some(Bson::Document(metadata)) => needed_of(metadata),
        _ => Map::new(),
    };
    Ok(DeliveryTarget::new(uid, &metadata))
}

/// The uid of a channel: the document's `_id`. It never changes, and MongoDB generates one for each
/// document without it.
pub(super) fn uid(document: &Document) -> ChannelUid {
    let text = match document.get("_id") {
        Some(Bson::ObjectId(id)) => id.to_hex(),
        // Another type, of any length: its digest identifies it as well.
        other => {
            let json = other
                .cloned()
                .unwrap_or(Bson::Null)
                .into_canonical_extjson();
            digest(json.to_string().as_bytes())
        }
    };
    text.into()
}

pub(super) fn needed_of(metadata: &Document) -> Map<String, Value> {
    [ENDPOINT_URL, DELIVERY]
        .into_iter()
        .filter_map(|key| {
            let value = metadata.get(key)?.clone();
            Some((key.to_owned(), value.into_relaxed_extjson()))
        })
        .collect()
}
