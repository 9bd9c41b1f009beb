//! Parses untrusted JSON and names the field that is wrong.
//!
//! Invariant: a refusal names a path such as `channel_tags[1]`, not a line and a column. What
//! passes is readable by every receiver.

pub(crate) mod body;
mod check;
pub(crate) mod times;
pub(crate) mod words;

use std::fmt::Display;

use roundtrip_model::channel::FieldError;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _},
};
use serde_json::{Value, error::Category, value::RawValue};
use serde_path_to_error::{Path, Segment, Track};

use crate::problem::{Kind, Problem};

pub(crate) use check::Rules;

/// The field's name in a problem if it cannot be shown.
pub(crate) const BODY: &str = "body";

const MAX_SHOWN_BYTES: usize = 64;

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// JSON without a leading byte order mark, which a reader may ignore (RFC 8259, 8.1).
pub(crate) fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)
}

/// Parses JSON: 400 if it is not JSON, 422 with the field's path if a field is wrong.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8], rules: Rules) -> Result<T, Problem> {
    let bytes = without_mark(bytes);
    // Validates UTF-8 once for both passes.
    let Ok(text) = str::from_utf8(bytes) else {
        return Err(refusal(bytes, rules));
    };
    let mut reader = serde_json::Deserializer::from_str(text);
    if rules
        .check(text, &mut reader)
        .and_then(|()| reader.end())
        .is_err()
    {
        return Err(refusal(bytes, rules));
    }
    // serde would accept an array as a struct, field by field.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(Problem::invalid_field(BODY, "must be a JSON object"));
    }
    // A second pass finds the path of the error. Tracking it in the first pass would cost every
    // valid body.
    serde_json::from_str(text).or_else(|_error| {
        let mut reader = serde_json::Deserializer::from_str(text);
        serde_path_to_error::deserialize(&mut reader)
            .map_err(|error| Problem::invalid([field_error(error.path(), error.inner())]))
    })
}

fn refusal(bytes: &[u8], rules: Rules) -> Problem {
    // Checks the syntax alone, at any depth, to separate what is not JSON from what is forbidden.
    if let Err(error) = serde_json::from_slice::<&RawValue>(bytes) {
        return Problem::new(Kind::MalformedJson, words::of_malformed(bytes, &error));
    }
    // As JSON it is UTF-8.
    let text = str::from_utf8(bytes).unwrap_or_default();
    let mut track = Track::new();
    let mut reader = serde_json::Deserializer::from_str(text);
    let tracked = serde_path_to_error::Deserializer::new(&mut reader, &mut track);
    let checked = rules.check(text, tracked);
    let path = track.path();
    let Err(error) = checked else {
        // Unreachable: this pass differs from the first in the path only.
        return Problem::new(Kind::MalformedJson, "cannot be read");
    };
    Problem::invalid([match error.classify() {
        Category::Data => field_error(&path, &error),
        Category::Syntax | Category::Eof | Category::Io => {
            FieldError::new(shown(&path), words::of_unportable(&error))
        }
    }])
}

/// A whole number from 1 to `MOST`, in either JSON spelling: `50` and `50.0` are equal (JSON Schema,
/// 4.2.3).
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the double was found to be a whole number in the range of u32"
)]
pub(crate) fn whole_number<'de, const MOST: u32, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u32>, D::Error> {
    let Some(value) = Option::<Value>::deserialize(deserializer)? else {
        return Ok(None);
    };
    value
        .as_f64()
        .filter(|number| number.fract() == 0.0 && (1.0..=f64::from(MOST)).contains(number))
        .map(|number| Some(number as u32))
        .ok_or_else(|| D::Error::custom(not_within(MOST)))
}

pub(crate) fn not_within(most: impl Display) -> String {
    format!("must be a whole number from 1 to {most}")
}

fn field_error(path: &Path, error: &serde_json::Error) -> FieldError {
    let path = shown(path);
    if let Some(error) = named_by(&error.to_string(), &path, "field") {
        return error;
    }
    FieldError::new(path, words::of_value(error))
}

/// The error about a missing, duplicate or unknown name, which serde gives only in its message.
/// `kind` is what the call has under the name.
pub(crate) fn named_by(message: &str, path: &str, kind: &str) -> Option<FieldError> {
    let named = |prefix: &str| {
        let name = message.strip_prefix(prefix)?.split('`').next()?;
        Some(if name.len() > MAX_SHOWN_BYTES {
            path.to_owned()
        } else if path == BODY {
            name.to_owned()
        } else if path == name || path.ends_with(&format!(".{name}")) {
            path.to_owned()
        } else {
            format!("{path}.{name}")
        })
    };
    if let Some(field) = named("missing field `") {
        Some(FieldError::new(field, "is required"))
    } else if let Some(field) = named("duplicate field `") {
        Some(FieldError::new(field, "appears twice"))
    } else {
        let field = named("unknown field `")?;
        Some(FieldError::new(
            field,
            format!("is not a {kind} of this call"),
        ))
    }
}

/// A path as a problem shows it. A long one is cut to its first field, if that is short enough.
fn shown(path: &Path) -> String {
    let first = path.iter().next().and_then(|segment| match segment {
        Segment::Map { key } => Some(key.clone()),
        Segment::Seq { .. } | Segment::Enum { .. } | Segment::Unknown => None,
    });
    let whole = path.to_string();
    // A name that cannot be read appears as a question mark.
    let whole = whole.trim_end_matches(".?").to_owned();
    [first.as_ref().map(|_| whole), first]
        .into_iter()
        .flatten()
        .find(|shown| (1..=MAX_SHOWN_BYTES).contains(&shown.len()))
        .unwrap_or_else(|| BODY.to_owned())
}

#[cfg(test)]
mod tests {
    use axum::{body::to_bytes, response::IntoResponse};
    use roundtrip_model::ChannelPatch;
    use rstest::rstest;
    use serde_json::json;

    use super::{check::MAX_VALUES, *};
    use crate::messages::accept::SendMessage;

    const KEPT: Rules = Rules::kept(4);
    const RELAYED: Rules = Rules::relayed(4);

    async fn refused<T: DeserializeOwned>(body: &str) -> Value {
        let Err(problem) = parse::<T>(body.as_bytes(), KEPT) else {
            panic!("{body} was taken")
        };
        let bytes = to_bytes(problem.into_response().into_body(), 10_000)
            .await
            .unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn invalid_json_is_400() {
        for body in ["", "{", "{\"session_id\": \"a\",}", "{} x", "\u{0}"] {
            assert_eq!(refused::<Value>(body).await["status"], 400, "{body}");
        }
    }

    #[tokio::test]
    async fn a_missing_field_is_named() {
        let problem = refused::<SendMessage>(r#"{"channel_id":"c","message":"m"}"#).await;
        assert_eq!(
            problem["errors"],
            json!([{"field": "session_id", "detail": "is required"}])
        );
    }

    #[tokio::test]
    async fn a_field_of_the_wrong_type_is_named() {
        let body = r#"{"channel_id":"c","session_id":5,"message":"m"}"#;
        assert_eq!(
            refused::<SendMessage>(body).await["errors"][0]["field"],
            "session_id"
        );
    }

    #[tokio::test]
    async fn an_unknown_field_is_named() {
        let problem = refused::<ChannelPatch>(r#"{"channel_descriptin":"x"}"#).await;
        assert_eq!(problem["errors"][0]["field"], "channel_descriptin");
    }

    #[tokio::test]
    async fn an_element_is_named_by_its_path() {
        let problem = refused::<ChannelPatch>(r#"{"channel_tags":["a",5]}"#).await;
        assert_eq!(problem["errors"][0]["field"], "channel_tags[1]");
    }

    #[tokio::test]
    async fn a_body_of_another_type_is_named_as_the_body() {
        for body in [r#"["c", "s", "m", null]"#, "5", "null"] {
            let problem = refused::<SendMessage>(body).await;
            assert_eq!(problem["status"], 422, "{body}");
            assert_eq!(problem["errors"][0]["field"], "body", "{body}");
        }
    }

    #[tokio::test]
    async fn a_name_that_appears_twice_is_named_by_its_path() {
        for (body, field) in [
            (r#"{"a":1,"b":2,"a":3}"#, "a"),
            (r#"{"a":{"x":[{"y":1,"y":1}]}}"#, "a.x[0].y"),
            (r#"{"a":1,"\u0061":1}"#, "a"),
        ] {
            let problem = refused::<Value>(body).await;
            assert_eq!(
                problem["errors"],
                json!([{"field": field, "detail": "appears twice"}]),
                "{body}"
            );
            assert!(parse::<Value>(body.as_bytes(), RELAYED).is_ok());
        }
        let body = r#"{"a":{"x":1},"b":{"x":[1.5,-1,"x",null,true]}}"#;
        assert!(parse::<Value>(body.as_bytes(), KEPT).is_ok());
        let problem = refused::<SendMessage>(r#"{"session_id":"s","session_id":"s"}"#).await;
        assert_eq!(problem["errors"][0]["field"], "session_id");
    }

    #[test]
    fn a_raw_value_keeps_its_text() {
        let value: Box<RawValue> = parse(b" {\"n\": 1.0} ", RELAYED)
            .map_err(|_problem| ())
            .unwrap();
        assert_eq!(value.get(), "{\"n\": 1.0}");
    }

    #[tokio::test]
    async fn a_text_in_an_object_is_not_read_as_json() {
        let trap = r#"{"a":[{"$serde_json::private::RawValue":"{\"b\":1,\"b\":2}"}]}"#;
        // Without the check: the parser reads the text under its private name as JSON.
        let read: Value = serde_json::from_str(trap).unwrap();
        assert_eq!(read, json!({"a": [{"b": 2}]}));
        for trap in [trap, &trap.replace('$', "\\u0024")] {
            let detail = refused::<Value>(trap).await["detail"].to_string();
            assert!(
                detail.contains("cannot have the name '$serde_json"),
                "{detail}"
            );
        }
    }

    #[rstest]
    #[case::plain(r#"{"message": {"n": [1, -2.5e3, true, null, "x"]}}"#)]
    #[case::as_deep_as_may_be(r#"{"m": [[[1]]]}"#)]
    #[case::wide_and_not_deep(r#"{"a": [[[]], [[]]], "b": {"a": {}}}"#)]
    #[case::brackets_in_a_text(r#"{"m": "[[[[[[{{{{{{"}"#)]
    #[case::quote_in_a_text(r#"{"m": "\"[[[[[[\\"}"#)]
    #[case::pair(r#"{"m": "\ud83d\ude00"}"#)]
    #[case::escaped_backslash_before_a_u(r#"{"m": "\\ud800"}"#)]
    #[case::greatest_double(r#"{"m": 1.7976931348623157e308}"#)]
    #[case::more_precise_than_a_double(r#"{"m": 12345678901234567890.10}"#)]
    #[case::nearly_nothing(r#"{"m": 1e-400}"#)]
    #[case::byte_order_mark("\u{feff}{\"m\": 1}")]
    fn json_that_every_parser_reads_is_accepted(#[case] json: &str) {
        for rules in [KEPT, RELAYED] {
            assert!(parse::<Value>(json.as_bytes(), rules).is_ok(), "{json}");
        }
    }

    #[rstest]
    #[case::too_deep(r#"{"message": [[[[1]]]]}"#, "message[0][0][0]")]
    #[case::deep_objects(r#"{"a": 1, "message": {"a": {"b": {"c": {}}}}}"#, "message.a.b.c")]
    #[case::not_within_a_field("[[[[[]]]]]", "body")]
    #[case::first_half(r#"{"a": "b", "m": {"t": "\ud800"}}"#, "m.t")]
    #[case::first_half_and_text(r#"{"m": "\ud800x"}"#, "m")]
    #[case::two_first_halves(r#"{"m": "\uD800\uD800"}"#, "m")]
    #[case::second_half(r#"{"m": "\udc00"}"#, "m")]
    #[case::in_a_name(r#"{"m": {"\udc00": 1}}"#, "m")]
    #[case::beyond_a_double(r#"{"m": [1e400]}"#, "m[0]")]
    #[case::beyond_below(r#"{"m": -1E+400}"#, "m")]
    #[case::long_number(&format!(r#"{{"m": {}}}"#, "9".repeat(400)), "m")]
    #[case::long_path(&format!(r#"{{"m": {{"{}": 1e400}}}}"#, "x".repeat(100)), "m")]
    #[case::long_name(&format!(r#"{{"{}": 1e400}}"#, "x".repeat(100)), "body")]
    #[tokio::test]
    async fn json_that_some_parsers_reject_is_refused_by_its_field(
        #[case] json: &str,
        #[case] field: &str,
    ) {
        for rules in [KEPT, RELAYED] {
            let Err(problem) = parse::<Value>(json.as_bytes(), rules) else {
                panic!("{json} was taken")
            };
            let problem = serde_json::to_value(&problem).unwrap();
            assert_eq!(problem["status"], 422, "{problem}");
            assert_eq!(problem["errors"][0]["field"], field, "{problem}");
        }
    }

    #[tokio::test]
    async fn a_document_of_too_many_values_is_refused_and_a_relayed_one_is_not() {
        let with = |values: usize| format!(r#"{{"a":[{}""]}}"#, "\"\",".repeat(values - 3));
        assert!(parse::<Value>(with(MAX_VALUES).as_bytes(), KEPT).is_ok());
        let many = with(MAX_VALUES + 1);
        assert_eq!(
            refused::<Value>(&many).await["errors"][0]["field"],
            "a[9998]"
        );
        assert!(parse::<Box<RawValue>>(many.as_bytes(), RELAYED).is_ok());
    }

    #[tokio::test]
    async fn nesting_without_bound_is_refused_by_its_field() {
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        let body = format!(r#"{{"channel_id":"c","session_id":"s","message":{deep}}}"#);
        let Err(problem) = parse::<SendMessage>(body.as_bytes(), Rules::relayed(64)) else {
            panic!("taken")
        };
        let problem = serde_json::to_value(&problem).unwrap();
        assert_eq!(problem["status"], 422);
        assert_eq!(problem["errors"][0]["field"], "message");
    }
}
