//! Checks a body's JSON: its depth, its number of values, and that every receiver can read it. Of
//! JSON that is kept, names are unique and integers stay exact.
//!
//! `message` and `response_data` are relayed verbatim to unknown parsers. Strict parsers refuse
//! deep nesting, half a surrogate pair (`"\ud800"`) and numbers beyond a double (`1e400`); some
//! crash. Long and precise numbers pass.
//!
//! Invariant: the check builds no values and recurses no deeper than [`Rules::max_depth`].

use std::{borrow::Cow, cell::Cell, collections::HashSet, fmt};

use roundtrip_model::channel::INEXACT_INTEGER;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor},
};

/// The most values in a document that is kept. A value takes many times the memory of its text:
/// 340,000 empty strings are 1 MB of a body and 24 MB of a document.
pub(crate) const MAX_VALUES: usize = 10_000;

/// `serde_json` treats an object with this first name specially: it parses the text under the name
/// and uses the result, which bypasses this check.
const RAW_VALUE: &str = "$serde_json::private::RawValue";

#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// The body's own level counts.
    max_depth: usize,
    /// Whether it is parsed and kept, rather than relayed as text.
    is_kept: bool,
}

impl Rules {
    /// For JSON that is kept: names are unique and values are few. Of two members with one name a
    /// parser may keep either.
    pub(crate) const fn kept(max_depth: usize) -> Self {
        Self {
            max_depth,
            is_kept: true,
        }
    }

    /// For JSON that is relayed as text: names may repeat, as the receiver sees both.
    pub(crate) const fn relayed(max_depth: usize) -> Self {
        Self {
            max_depth,
            is_kept: false,
        }
    }

    /// Reads this JSON and fails if it breaks a rule.
    pub(super) fn check<'de, D: Deserializer<'de>>(
        self,
        json: &str,
        deserializer: D,
    ) -> Result<(), D::Error> {
        let (most, rounded) = if self.is_kept {
            (MAX_VALUES, first_rounded(json))
        } else {
            (usize::MAX, None)
        };
        let value = Checked {
            rules: self,
            depth: 0,
            left: &Cell::new(most),
            exact: &Cell::new(rounded.unwrap_or(usize::MAX)),
        };
        value.deserialize(deserializer)
    }
}

/// The place, among the numbers of this JSON, of the first integer that does not fit into an `i64`. The
/// parser silently turns it into a double, so only the text shows it.
fn first_rounded(json: &str) -> Option<usize> {
    let (mut rest, mut numbers) = (json, 0);
    while let Some(start) = rest.find(|c: char| matches!(c, '"' | '-' | '0'..='9')) {
        rest = &rest[start..];
        if rest.starts_with('"') {
            // Counts as escaped, so that the opening quotation mark does not end the string.
            let mut is_escaped = true;
            let end = rest.find(|c| {
                let is_end = c == '"' && !is_escaped;
                is_escaped = c == '\\' && !is_escaped;
                is_end
            });
            rest = &rest[end? + 1..];
            continue;
        }
        let is_part = |c: char| matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E');
        let (number, after) = rest.split_at(rest.find(|c| !is_part(c)).unwrap_or(rest.len()));
        if !number.contains(['.', 'e', 'E']) && number.parse::<i64>().is_err() {
            return Some(numbers);
        }
        numbers += 1;
        rest = after;
    }
    None
}

#[derive(Clone, Copy)]
struct Checked<'a> {
    rules: Rules,
    depth: usize,
    /// How many values may still follow.
    left: &'a Cell<usize>,
    /// How many numbers may still follow: the one after them would be rounded.
    exact: &'a Cell<usize>,
}

impl Checked<'_> {
    fn within<E: Error>(mut self) -> Result<Self, E> {
        let max_depth = self.rules.max_depth;
        self.depth += 1;
        if self.depth > max_depth {
            return Err(E::custom(format_args!(
                "must not nest deeper than {max_depth} levels, the body's own included"
            )));
        }
        Ok(self)
    }

    fn number<E: Error>(self) -> Result<(), E> {
        let left = self.exact.get().checked_sub(1);
        let left = left.ok_or_else(|| E::custom(INEXACT_INTEGER))?;
        self.exact.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Checked<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let left = self.left.get().checked_sub(1).ok_or_else(|| {
            D::Error::custom(format_args!("must have at most {MAX_VALUES} values in all"))
        })?;
        self.left.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Checked<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let value = self.within()?;
        let mut names = HashSet::new();
        // Read even if it is relayed: it may be half a surrogate pair.
        while let Some(Name(name)) = map.next_key()? {
            if self.rules.is_kept {
                if name == RAW_VALUE {
                    return Err(A::Error::custom(format_args!(
                        "cannot have the name '{name}'"
                    )));
                }
                if names.contains(&name) {
                    // serde's wording for a struct.
                    return Err(A::Error::custom(format_args!("duplicate field `{name}`")));
                }
                names.insert(name);
            }
            map.next_value_seed(value)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let value = self.within()?;
        while seq.next_element_seed(value)?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.number()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.number()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.number()
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// A member's name, borrowed if it has no escape.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use axum::http::Method;
    use rstest::rstest;
    use serde_json::Value;

    use super::*;
    use crate::{json::parse, tests::Bench};

    fn refused_field(json: &str) -> Option<Value> {
        let problem = parse::<Value>(json.as_bytes(), Rules::kept(4)).err()?;
        let problem = serde_json::to_value(&problem).unwrap();
        Some(problem["errors"][0]["field"].clone())
    }

    #[rstest]
    #[case::greatest(r#"{"a":[9223372036854775807,-9223372036854775808]}"#)]
    #[case::doubles(r#"{"a":[1e300,12345678901234567890.5,1.2345678901234567890e19]}"#)]
    #[case::text(r#"{"a":"12345678901234567890 \" 12345678901234567890","b\\":1}"#)]
    #[case::name(r#"{"12345678901234567890":1}"#)]
    fn an_integer_that_stays_exact_is_accepted(#[case] json: &str) {
        assert_eq!(refused_field(json), None);
    }

    #[rstest]
    #[case::unsigned(r#"{"a":{"b":[1,12345678901234567890]}}"#, "a.b[1]")]
    #[case::negative(r#"{"a":-9223372036854775809}"#, "a")]
    #[case::beyond_all(r#"{"x":1e300,"a":123456789012345678901234567890}"#, "a")]
    #[case::behind_a_text(r#"{"t":"\\\"","a":9223372036854775808}"#, "a")]
    #[case::behind_an_equal_double(
        r#"{"x":1.2345678901234567890e19,"a":12345678901234567890}"#,
        "a"
    )]
    fn an_integer_that_would_be_rounded_is_refused_by_its_path(
        #[case] json: &str,
        #[case] path: &str,
    ) {
        assert_eq!(refused_field(json).unwrap(), path);
    }

    #[tokio::test]
    async fn an_integer_that_would_be_rounded_is_refused_by_every_call() {
        let bench = Bench::new().await;
        for integer in ["12345678901234567890", "-123456789012345678901234567890"] {
            let metadata = format!(r#"{{"endpoint_url":"http://h/","account":{integer}}}"#);
            let new = format!(r#"{{"channel_id":"d","channel_metadata":{metadata}}}"#);
            let patch = format!(r#"{{"channel_metadata":{metadata}}}"#);
            let filter = format!(r#"{{"channel_metadata.account":{{"$gt":{integer}}}}}"#);
            for (method, path, body, field) in [
                (Method::POST, "/channel", new, "channel_metadata.account"),
                (Method::PUT, "/channel/c", patch, "channel_metadata.account"),
                (
                    Method::POST,
                    "/channels",
                    filter,
                    "channel_metadata.account.$gt",
                ),
            ] {
                let answer = bench.request(method, path, &[], body).await;
                assert_eq!(answer.status, 422, "{path}: {}", answer.text);
                assert_eq!(answer.json()["errors"][0]["field"], field);
            }
        }
    }
}
