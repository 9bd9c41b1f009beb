//! Converts between stored documents and channels.
//!
//! Invariant: both engines read a document by these rules, because another client may have written
//! it. Missing and null fields are empty, unknown fields are ignored, and a field of another type
//! is shown as it is. Only the id must be valid.

use std::time::{Duration, Instant};

use roundtrip_model::{
    DeliverySettings, LogThrottle, StoredChannel, channel::FieldError, settings,
};
use serde_json::{Map, Value};
use tracing::warn;

use crate::{ChannelError, Version, Versioned};

pub(crate) const FIELDS: [&str; 5] = [
    "channel_id",
    "channel_name",
    "channel_description",
    "channel_metadata",
    "channel_tags",
];

/// The field that holds `endpoint_url` and any other keys of the owner.
pub(crate) const METADATA: &str = "channel_metadata";

pub(crate) fn of(channel: StoredChannel) -> Map<String, Value> {
    let StoredChannel {
        channel_id,
        channel_name,
        channel_description,
        channel_metadata,
        channel_tags,
    } = channel;
    let values = [
        channel_id.as_str().into(),
        channel_name,
        channel_description,
        channel_metadata,
        channel_tags,
    ];
    FIELDS.map(str::to_owned).into_iter().zip(values).collect()
}

/// The text in a field of the document; `""` if it is missing or not text.
pub(crate) fn text<'a>(document: &'a Map<String, Value>, field: &str) -> &'a str {
    document.get(field).and_then(Value::as_str).unwrap_or("")
}

pub(crate) fn channel(mut document: Map<String, Value>) -> Result<StoredChannel, ChannelError> {
    let id = text(&document, "channel_id");
    let channel_id =
        id.parse().map_err(
            |error: roundtrip_model::ids::IdError| ChannelError::Unreadable {
                id: id.to_owned(),
                problem: format!("channel_id: {error}"),
            },
        )?;
    let mut field = |name: &str, empty: Value| match document.get_mut(name).map(Value::take) {
        None | Some(Value::Null) => empty,
        Some(value) => value,
    };
    let (text, object, list) = (String::new(), Map::new(), Vec::<Value>::new());
    Ok(StoredChannel {
        channel_id,
        channel_name: field("channel_name", text.clone().into()),
        channel_description: field("channel_description", text.into()),
        channel_metadata: field(METADATA, object.into()),
        channel_tags: field("channel_tags", list.into()),
    })
}

pub(crate) fn versioned(document: Map<String, Value>) -> Result<Versioned, ChannelError> {
    let channel = channel(document)?;
    Ok(Versioned {
        version: Version::of(&channel),
        channel,
    })
}

/// Pauses or resumes the channel in a document. `false` if it already was.
pub(crate) fn set_paused(
    document: &mut Map<String, Value>,
    paused: bool,
) -> Result<bool, ChannelError> {
    let metadata = document.entry(METADATA).or_insert(Value::Null);
    if metadata.is_null() {
        *metadata = Map::new().into();
    }
    match metadata {
        Value::Object(metadata) if DeliverySettings::of(metadata).paused != paused => {
            settings::set_paused(metadata, paused);
            Ok(true)
        }
        Value::Object(_) => Ok(false),
        // It belongs to another client, and is not replaced.
        _ if paused => {
            let error = FieldError::new(METADATA, "must be an object for a channel to be paused");
            Err(ChannelError::Unstorable(error))
        }
        _ => Ok(false),
    }
}

/// For a query: skips and logs a foreign document that is not a channel.
pub(crate) fn readable<T>(read: Result<T, ChannelError>) -> Option<T> {
    if let Err(error) = &read {
        say_passed_over(error);
    }
    read.ok()
}

/// Limited, because every query over the document logs it.
static PASSED_OVER: LogThrottle = LogThrottle::every(Duration::from_mins(1));

pub(crate) fn say_passed_over(error: &dyn std::fmt::Display) {
    if let Some(suppressed) = PASSED_OVER.due(Instant::now()) {
        warn!(%error, suppressed, "a query skips a stored document");
    }
}
