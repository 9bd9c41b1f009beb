//! Conversion between JSON and BSON.
//!
//! Invariant: JSON reads back as it was written, including the order of keys and the difference
//! between `1` and `1.0`. It has no special forms: `{"$oid": …}` is a document, and not an id.

use bson::{Bson, Document};
use serde_json::{Map, Value};

use crate::document::FIELDS;

pub(super) fn to_document(json: &Map<String, Value>) -> Document {
    json.iter()
        .map(|(key, value)| (key.clone(), to_bson(value)))
        .collect()
}

pub(super) fn to_bson(json: &Value) -> Bson {
    match json {
        Value::Null => Bson::Null,
        Value::Bool(value) => Bson::Boolean(*value),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => i32::try_from(integer).map_or(Bson::Int64(integer), Bson::Int32),
            (None, Some(double)) => Bson::Double(double),
            (None, None) => Bson::Null,
        },
        Value::String(text) => Bson::String(text.clone()),
        Value::Array(values) => Bson::Array(values.iter().map(to_bson).collect()),
        Value::Object(fields) => Bson::Document(to_document(fields)),
    }
}

/// The BSON of a value that replaces a stored one. An equal value keeps the type that another
/// client gave it, so that sending a document back with one change alters no other types.
pub(super) fn in_place_of(stored: Option<&Bson>, json: &Value) -> Bson {
    match (stored, json) {
        (Some(Bson::Document(stored)), Value::Object(fields)) => fields
            .iter()
            .map(|(key, value)| (key.clone(), in_place_of(stored.get(key), value)))
            .collect::<Document>()
            .into(),
        (Some(Bson::Array(stored)), Value::Array(values)) => values
            .iter()
            .enumerate()
            .map(|(at, value)| in_place_of(stored.get(at), value))
            .collect::<Vec<_>>()
            .into(),
        (None | Some(Bson::Document(_) | Bson::Array(_)), json) => to_bson(json),
        (Some(stored), json) if stored.clone().into_relaxed_extjson() == *json => stored.clone(),
        (Some(_), json) => to_bson(json),
    }
}

/// The five fields of a stored document as JSON. Types that JSON lacks (dates, object ids, …)
/// become relaxed extended JSON.
pub(super) fn to_json(mut document: Document) -> Map<String, Value> {
    FIELDS
        .iter()
        .filter_map(|field| {
            let value = document.remove(field)?;
            Some(((*field).to_owned(), value.into_relaxed_extjson()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use bson::{doc, oid::ObjectId};
    use serde_json::json;

    use super::*;

    #[test]
    fn json_reads_back_to_the_letter() {
        let text = concat!(
            r#"{"channel_metadata":{"z":1,"a":1.0,"m":[null,true,"é",-0.0,2147483648,"#,
            r#"9223372036854775807,1e+300],"$oid":"x","":{}}}"#
        );
        let document = to_document(&serde_json::from_str(text).unwrap());
        assert_eq!(serde_json::to_string(&to_json(document)).unwrap(), text);
    }

    #[test]
    fn an_equal_value_keeps_its_bson_type() {
        let id = Bson::ObjectId(ObjectId::from_bytes([7; 12]));
        let at = bson::DateTime::from_millis(0);
        let stored = doc! {"id": id.clone(), "in": [{"at": at, "n": 5_i64}], "one": 1_i64};
        let shown = Bson::Document(stored.clone()).into_relaxed_extjson();
        assert_eq!(
            in_place_of(Some(&stored.clone().into()), &shown),
            stored.into()
        );

        let stored = doc! {"id": id.clone(), "in": [{"at": at, "n": 5_i64}], "one": 1_i64};
        let changed = json!({
            "in": [{"n": 6, "at": {"$date": "1970-01-01T00:00:00Z"}}], "new": {}, "one": 1,
            "id": {"$oid": "other"},
        });
        let expected = doc! {
            "in": [{"n": 6, "at": at}], "new": {}, "one": 1_i64, "id": {"$oid": "other"},
        };
        assert_eq!(in_place_of(Some(&stored.into()), &changed), expected.into());
    }

    #[test]
    fn a_bson_type_without_json_is_rendered() {
        let document = doc! {"channel_metadata": {
            "id": ObjectId::from_bytes([7; 12]),
            "at": bson::DateTime::from_millis(0),
            "nan": f64::NAN,
        }};
        assert_eq!(
            Value::Object(to_json(document)),
            json!({"channel_metadata": {
                "id": {"$oid": "070707070707070707070707"},
                "at": {"$date": "1970-01-01T00:00:00Z"},
                "nan": {"$numberDouble": "NaN"},
            }})
        );
    }
}
