//! Objects that have no name twice, and none that the parser keeps for itself.
//!
//! Of two the parser would keep the last and drop the first without a word, and another parser the
//! other way round. What is carried as text (`message`, `response_data`) is not looked at: whoever
//! reads it reads both.

use std::{collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};

/// An object whose first name is this is none to `serde_json`: it reads the text in it as JSON and
/// puts that in its place, past every check of what came.
const RAW_VALUE: &str = "$serde_json::private::RawValue";

/// Any JSON in which no object has a name twice; what it says is not kept.
pub(crate) struct Unique;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Unique;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if names.contains(&name) {
                // As serde says it of a struct.
                return Err(A::Error::custom(format_args!("duplicate field `{name}`")));
            }
            if name == RAW_VALUE {
                return Err(A::Error::custom(format_args!(
                    "cannot have the name '{name}'"
                )));
            }
            names.insert(name);
            map.next_value::<Unique>()?;
        }
        Ok(Unique)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Unique, A::Error> {
        while seq.next_element::<Unique>()?.is_some() {}
        Ok(Unique)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_str<E>(self, _: &str) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_unit<E>(self) -> Result<Unique, E> {
        Ok(Unique)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_text_in_an_object_is_not_read_as_json() {
        let trap = r#"{"a":[{"$serde_json::private::RawValue":"{\"b\":1,\"b\":2}"}]}"#;
        // That it would be is why it is refused; the name is the parser's own secret.
        let read: Value = serde_json::from_str(trap).unwrap();
        assert_eq!(read, json!({"a": [{"b": 2}]}));
        for trap in [trap, &trap.replace('$', "\\u0024")] {
            let refused = serde_json::from_str::<Unique>(trap)
                .map(|_| ())
                .unwrap_err();
            let said = refused.to_string();
            assert!(
                said.starts_with("cannot have the name '$serde_json"),
                "{said}"
            );
        }
    }
}
