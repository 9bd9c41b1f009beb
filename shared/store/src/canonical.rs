//! The one form in which both engines keep a channel's JSON.
//!
//! Invariant: what is written through this form reads back the same from either engine. BSON
//! has no unsigned integers, no NUL in a key, and a bounded depth and size, so neither has SQLite
//! here.

use roundtrip_model::{Channel, ChannelPatch, channel::FieldError};
use serde_json::{Map, Number, Value};

use crate::StoreError;

/// How deep `channel_metadata` may nest. MongoDB's documents end at 100 levels.
pub(crate) const MAX_METADATA_DEPTH: usize = 64;
/// The longest `channel_metadata`, as JSON. An array of small values is up to six times as long in
/// BSON, and MongoDB's documents end at 16 MiB.
pub(crate) const MAX_METADATA_BYTES: usize = 2 * 1024 * 1024;

/// The channel as it is stored.
///
/// # Errors
/// [`StoreError::Unstorable`].
pub(crate) fn channel(channel: &Channel) -> Result<Channel, StoreError> {
    let mut channel = channel.clone();
    channel.channel_metadata = metadata(channel.channel_metadata)?;
    Ok(channel)
}

/// The fields that a patch sets, as they are stored; never the id.
///
/// # Errors
/// [`StoreError::Unstorable`].
pub(crate) fn patch(patch: &ChannelPatch) -> Result<Map<String, Value>, StoreError> {
    let ChannelPatch {
        channel_id: _,
        channel_name,
        channel_description,
        channel_metadata,
        channel_tags,
    } = patch.clone();
    let mut fields = Map::new();
    if let Some(name) = channel_name {
        fields.insert("channel_name".to_owned(), name.into());
    }
    if let Some(description) = channel_description {
        fields.insert("channel_description".to_owned(), description.into());
    }
    if let Some(new) = channel_metadata {
        fields.insert("channel_metadata".to_owned(), metadata(new)?.into());
    }
    if let Some(tags) = channel_tags {
        fields.insert("channel_tags".to_owned(), tags.into());
    }
    Ok(fields)
}

fn metadata(metadata: Map<String, Value>) -> Result<Map<String, Value>, StoreError> {
    let unstorable =
        |problem: String| StoreError::Unstorable(FieldError::new("channel_metadata", problem));
    check(metadata.iter(), 1).map_err(unstorable)?;
    let bytes = serde_json::to_vec(&metadata)
        .map_err(|error| unstorable(error.to_string()))?
        .len();
    if bytes > MAX_METADATA_BYTES {
        return Err(unstorable(format!(
            "must be at most {MAX_METADATA_BYTES} bytes"
        )));
    }
    Ok(object(metadata))
}

fn check<'a>(
    mut fields: impl Iterator<Item = (&'a String, &'a Value)>,
    depth: usize,
) -> Result<(), String> {
    fields.try_for_each(|(key, value)| {
        if key.contains('\0') {
            return Err("must not have a NUL character in a key".to_owned());
        }
        check_value(value, depth)
    })
}

fn check_value(value: &Value, depth: usize) -> Result<(), String> {
    if !matches!(value, Value::Array(_) | Value::Object(_)) {
        return Ok(());
    }
    if depth >= MAX_METADATA_DEPTH {
        return Err(format!("must nest at most {MAX_METADATA_DEPTH} deep"));
    }
    match value {
        Value::Object(object) => check(object.iter(), depth + 1),
        Value::Array(array) => array
            .iter()
            .try_for_each(|value| check_value(value, depth + 1)),
        _ => Ok(()),
    }
}

fn object(object: Map<String, Value>) -> Map<String, Value> {
    object
        .into_iter()
        .map(|(key, inner)| (key, value(inner)))
        .collect()
}

/// The value with every integer beyond the range of `i64` as a double.
pub(crate) fn value(json: Value) -> Value {
    match json {
        Value::Number(number) if number.as_i64().is_none() => number
            .as_f64()
            .and_then(Number::from_f64)
            .map_or(Value::Null, Value::Number),
        Value::Array(array) => array.into_iter().map(value).collect(),
        Value::Object(fields) => Value::Object(object(fields)),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn channel_with(metadata: &Value) -> Channel {
        serde_json::from_value(json!({"channel_id": "c", "channel_metadata": metadata})).unwrap()
    }

    #[test]
    fn an_integer_that_bson_has_not_becomes_a_double() {
        let stored = channel(&channel_with(&json!({"n": [u64::MAX, i64::MAX, 1.0]}))).unwrap();
        assert_eq!(
            serde_json::to_string(&stored.channel_metadata).unwrap(),
            r#"{"n":[1.8446744073709552e+19,9223372036854775807,1.0]}"#
        );
    }

    #[test]
    fn what_cannot_be_stored_is_named() {
        let mut deep = json!({});
        for _ in 0..MAX_METADATA_DEPTH {
            deep = json!({ "d": deep });
        }
        let long = "x".repeat(MAX_METADATA_BYTES);
        for metadata in [json!({"a": [{"b\0": 1}]}), deep, json!({ "long": long })] {
            let refused = channel(&channel_with(&metadata));
            assert!(
                matches!(&refused, Err(StoreError::Unstorable(error)) if error.field == "channel_metadata"),
                "{refused:?}"
            );
        }
    }
}
