//! Between a stored document and a channel.
//!
//! Invariant: both engines read a document by these rules. It may have been written by another
//! client: fields that are missing or null are empty, fields that Roundtrip does not know are
//! passed over, and what is no channel is named, never guessed at.

use roundtrip_model::Channel;
use serde_json::{Map, Value};
use tracing::warn;

use crate::{StoreError, Version, Versioned};

/// A channel's five fields, in the seed's order.
pub(crate) const FIELDS: [&str; 5] = [
    "channel_id",
    "channel_name",
    "channel_description",
    "channel_metadata",
    "channel_tags",
];

/// The document of a channel.
pub(crate) fn of(channel: &Channel) -> Map<String, Value> {
    let Channel {
        channel_id,
        channel_name,
        channel_description,
        channel_metadata,
        channel_tags,
    } = channel;
    let values: [Value; 5] = [
        channel_id.as_str().into(),
        channel_name.as_str().into(),
        channel_description.as_str().into(),
        channel_metadata.clone().into(),
        channel_tags.clone().into(),
    ];
    FIELDS.map(str::to_owned).into_iter().zip(values).collect()
}

/// The text in a field of the document; none where it is missing or no text.
pub(crate) fn text<'a>(document: &'a Map<String, Value>, field: &str) -> &'a str {
    document.get(field).and_then(Value::as_str).unwrap_or("")
}

/// The channel in a document.
///
/// # Errors
/// [`StoreError::Unreadable`].
pub(crate) fn channel(document: &Map<String, Value>) -> Result<Channel, StoreError> {
    let known: Map<String, Value> = FIELDS
        .iter()
        .filter_map(|field| document.get_key_value(*field))
        .filter(|(_, value)| !value.is_null())
        .map(|(field, value)| (field.clone(), value.clone()))
        .collect();
    serde_json::from_value(Value::Object(known)).map_err(|error| StoreError::Unreadable {
        id: text(document, "channel_id").to_owned(),
        problem: error.to_string(),
    })
}

/// The channel in a document, and its version.
///
/// # Errors
/// [`StoreError::Unreadable`].
pub(crate) fn versioned(document: &Map<String, Value>) -> Result<Versioned, StoreError> {
    let channel = channel(document)?;
    Ok(Versioned {
        version: Version::of(&channel),
        channel,
    })
}

/// What was read, for a query: a foreign document that is no channel is passed over, and said so.
pub(crate) fn readable<T>(read: Result<T, StoreError>) -> Option<T> {
    read.inspect_err(|error| warn!(%error, "a query passes over a stored document"))
        .ok()
}
