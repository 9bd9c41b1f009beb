//! The JSON of a channel that both engines can store.
//!
//! Invariant: a value that passes reads back the same from either engine. BSON has no integers
//! beyond signed 64 bits and no NUL in a key, and it bounds depth and size; SQLite gets the same
//! limits. Other values are refused by their path; nothing is rounded or left out.

use roundtrip_model::{
    Channel, ChannelPatch, StoredChannel,
    channel::{FieldError, INEXACT_INTEGER},
};
use serde_json::{Map, Number, Value};

use crate::{ChannelError, document::METADATA};

/// The deepest nesting of `channel_metadata`. MongoDB's documents end at 100 levels.
pub(crate) const MAX_METADATA_DEPTH: usize = 64;
/// The longest `channel_metadata`, as JSON. An array of small values is up to six times as long in
/// BSON, and MongoDB's documents end at 16 MiB.
pub(crate) const MAX_METADATA_BYTES: usize = 2 * 1024 * 1024;
/// The most values in `channel_metadata`. Each takes far more memory than its text.
pub(crate) const MAX_METADATA_VALUES: usize = 10_000;

const MAX_SHOWN_BYTES: usize = 256;

pub(crate) fn channel(channel: &Channel) -> Result<StoredChannel, ChannelError> {
    check(&channel.channel_metadata)?;
    Ok(channel.clone().into())
}

pub(crate) fn patch(patch: &ChannelPatch) -> Result<Map<String, Value>, ChannelError> {
    let patch = patch.clone();
    if let Some(metadata) = &patch.channel_metadata {
        check(metadata)?;
    }
    let fields = [
        ("channel_name", patch.channel_name.map(Value::from)),
        (
            "channel_description",
            patch.channel_description.map(Value::from),
        ),
        (METADATA, patch.channel_metadata.map(Value::from)),
        ("channel_tags", patch.channel_tags.map(Value::from)),
    ];
    let set = fields.into_iter();
    Ok(set
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect())
}

/// Whether both engines store this number exactly.
pub(crate) fn is_kept(number: &Number) -> bool {
    number.is_i64() || number.is_f64()
}

fn check(metadata: &Map<String, Value>) -> Result<(), ChannelError> {
    let mut check = Check {
        path: METADATA.to_owned(),
        depth: 0,
        values: 0,
    };
    check.object(metadata).map_err(|problem| {
        // A key may be as long as the whole document.
        let path = Some(check.path).filter(|path| path.len() <= MAX_SHOWN_BYTES);
        let path = path.unwrap_or_else(|| METADATA.to_owned());
        ChannelError::Unstorable(FieldError::new(path, problem))
    })?;
    let unstorable = |problem: String| ChannelError::Unstorable(FieldError::new(METADATA, problem));
    let bytes = serde_json::to_vec(metadata)
        .map_err(|error| unstorable(error.to_string()))?
        .len();
    if bytes > MAX_METADATA_BYTES {
        return Err(unstorable(format!(
            "must be at most {MAX_METADATA_BYTES} bytes"
        )));
    }
    Ok(())
}

struct Check {
    path: String,
    depth: usize,
    values: usize,
}

impl Check {
    fn value(&mut self, value: &Value) -> Result<(), String> {
        self.values += 1;
        if self.values > MAX_METADATA_VALUES {
            METADATA.clone_into(&mut self.path);
            return Err(format!("must have at most {MAX_METADATA_VALUES} values"));
        }
        match value {
            Value::Number(number) if !is_kept(number) => Err(INEXACT_INTEGER.to_owned()),
            Value::Object(fields) => self.object(fields),
            Value::Array(values) => self.within(|check| {
                values.iter().enumerate().try_for_each(|(at, value)| {
                    check.at(&format!("[{at}]"), |check| check.value(value))
                })
            }),
            _ => Ok(()),
        }
    }

    fn object(&mut self, fields: &Map<String, Value>) -> Result<(), String> {
        self.within(|check| {
            fields.iter().try_for_each(|(key, value)| {
                if key.contains('\0') {
                    return Err("must not have a NUL character in a key".to_owned());
                }
                check.at(&format!(".{key}"), |check| check.value(value))
            })
        })
    }

    fn within(&mut self, walk: impl FnOnce(&mut Self) -> Result<(), String>) -> Result<(), String> {
        if self.depth == MAX_METADATA_DEPTH {
            METADATA.clone_into(&mut self.path);
            return Err(format!("must nest at most {MAX_METADATA_DEPTH} deep"));
        }
        self.depth += 1;
        walk(self)?;
        self.depth -= 1;
        Ok(())
    }

    /// Appends a step to the path, and removes it again unless there is a problem.
    fn at(
        &mut self,
        step: &str,
        walk: impl FnOnce(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        let before = self.path.len();
        self.path.push_str(step);
        walk(self)?;
        self.path.truncate(before);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn deep() -> Value {
        let mut deep = json!({});
        for _ in 0..MAX_METADATA_DEPTH {
            deep = json!({ "d": deep });
        }
        deep
    }

    #[rstest]
    #[case::nul(json!({"a": [{"b\0": 1}]}), "channel_metadata.a[0]")]
    #[case::deep(deep(), "channel_metadata")]
    #[case::long(json!({"long": "x".repeat(MAX_METADATA_BYTES)}), "channel_metadata")]
    #[case::values(json!({"a": vec![""; MAX_METADATA_VALUES]}), "channel_metadata")]
    #[case::number(json!({"a": {"n": [i64::MAX, u64::MAX]}}), "channel_metadata.a.n[1]")]
    fn a_value_that_would_change_is_refused_by_its_path(
        #[case] metadata: Value,
        #[case] path: &str,
    ) {
        let document = json!({"channel_id": "c", "channel_metadata": metadata});
        let refused = channel(&serde_json::from_value(document).unwrap());
        assert!(
            matches!(&refused, Err(ChannelError::Unstorable(error)) if error.field == path),
            "{refused:?}"
        );
    }

    #[test]
    fn metadata_may_have_as_many_values_as_the_bound_says() {
        let metadata = json!({"a": vec![""; MAX_METADATA_VALUES - 1]});
        let document = json!({"channel_id": "c", "channel_metadata": metadata});
        assert!(channel(&serde_json::from_value(document).unwrap()).is_ok());
    }
}
