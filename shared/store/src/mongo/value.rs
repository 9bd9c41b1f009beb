//! Between JSON and BSON.
//!
//! Invariant: JSON that is written reads back the same, its key order and the difference between
//! `1` and `1.0` included. It is written as it stands: `{"$oid": …}` is a document, and no id.

use bson::{Bson, Document};
use serde_json::{Map, Value};

use crate::document::FIELDS;

/// The BSON of a document.
pub(super) fn to_document(json: &Map<String, Value>) -> Document {
    json.iter()
        .map(|(key, value)| (key.clone(), to_bson(value)))
        .collect()
}

/// The BSON of a value in its canonical form.
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

/// The five fields of a stored document as JSON. What other clients wrote and JSON has not (dates,
/// object ids, …) becomes relaxed extended JSON.
pub(super) fn to_json(document: &Document) -> Map<String, Value> {
    FIELDS
        .iter()
        .filter_map(|field| {
            let value = document.get(field)?.clone();
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
        assert_eq!(serde_json::to_string(&to_json(&document)).unwrap(), text);
    }

    #[test]
    fn what_json_has_not_is_rendered() {
        let document = doc! {"channel_metadata": {
            "id": ObjectId::from_bytes([7; 12]),
            "at": bson::DateTime::from_millis(0),
            "nan": f64::NAN,
        }};
        assert_eq!(
            Value::Object(to_json(&document)),
            json!({"channel_metadata": {
                "id": {"$oid": "070707070707070707070707"},
                "at": {"$date": "1970-01-01T00:00:00Z"},
                "nan": {"$numberDouble": "NaN"},
            }})
        );
    }
}
