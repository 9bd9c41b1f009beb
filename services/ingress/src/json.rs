//! Reading JSON that a stranger wrote: whether it is any, and which field is wrong.
//!
//! Invariant: what is refused is named by its place, `channel_tags[1]`, and not by a line and a
//! column; nothing is read that receivers could not read again.

use roundtrip_model::channel::FieldError;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, IgnoredAny},
};
use serde_json::error::Category;

use crate::{problem::Problem, scan};

/// Reads JSON: 400 where it is none, 422 and the field's path where it is not as it must be.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8], max_depth: usize) -> Result<T, Problem> {
    scan::check(bytes, max_depth).map_err(|error| Problem::invalid([error]))?;
    // serde would read an array as a struct, field by field.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(match serde_json::from_slice::<IgnoredAny>(bytes) {
            Ok(_) => Problem::invalid_field("body", "must be a JSON object"),
            Err(error) => Problem::malformed(error.to_string()),
        });
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        match inner.classify() {
            Category::Data => Problem::invalid([field_error(path, &inner)]),
            Category::Syntax | Category::Eof | Category::Io => {
                Problem::malformed(inner.to_string())
            }
        }
    })?;
    reader
        .end()
        .map_err(|error| Problem::malformed(error.to_string()))?;
    Ok(value)
}

/// A whole number, however JSON spells it: `50` and `50.0` are one (JSON Schema, 4.2.3).
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the double was found to be a whole number in the range of u32"
)]
pub(crate) fn whole_number<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u32>, D::Error> {
    let Some(number) = Option::<f64>::deserialize(deserializer)? else {
        return Ok(None);
    };
    if number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number) {
        Ok(Some(number as u32))
    } else {
        Err(D::Error::custom("must be a whole number, 1 or greater"))
    }
}

/// What serde says, without the position that it puts after it.
pub(crate) fn said(error: &serde_json::Error) -> String {
    let message = error.to_string();
    message
        .rsplit_once(" at line ")
        .map_or(message.as_str(), |(said, _)| said)
        .to_owned()
}

/// serde names a missing or unknown field in its message only.
fn field_error(path: String, error: &serde_json::Error) -> FieldError {
    let message = said(error);
    let named = |said: &str| {
        let name = message.strip_prefix(said)?.split('`').next()?;
        Some(
            if path == "." || path == name || path.ends_with(&format!(".{name}")) {
                if path == "." {
                    name.to_owned()
                } else {
                    path.clone()
                }
            } else {
                format!("{path}.{name}")
            },
        )
    };
    if let Some(field) = named("missing field `") {
        FieldError::new(field, "is required")
    } else if let Some(field) = named("duplicate field `") {
        FieldError::new(field, "is there twice")
    } else if let Some(field) = named("unknown field `") {
        FieldError::new(field, "is not a field that this call knows")
    } else {
        FieldError::new(if path == "." { "body".to_owned() } else { path }, message)
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::to_bytes, response::IntoResponse};
    use roundtrip_model::ChannelPatch;
    use serde_json::{Value, json, value::RawValue};

    use super::*;
    use crate::{messages::SendMessage, unique::Unique};

    const DEPTH: usize = 64;

    async fn refused<T: DeserializeOwned>(body: &str) -> Value {
        let Err(problem) = parse::<T>(body.as_bytes(), DEPTH) else {
            panic!("{body} was taken")
        };
        let bytes = to_bytes(problem.into_response().into_body(), 10_000)
            .await
            .unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn what_is_no_json_is_400() {
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
    async fn a_name_that_is_there_twice_is_named_by_its_path() {
        for (body, field) in [
            (r#"{"a":1,"b":2,"a":3}"#, "a"),
            (r#"{"a":{"x":[{"y":1,"y":1}]}}"#, "a.x[0].y"),
            (r#"{"a":1,"\u0061":1}"#, "a"),
        ] {
            let problem = refused::<Unique>(body).await;
            assert_eq!(
                problem["errors"],
                json!([{"field": field, "detail": "is there twice"}]),
                "{body}"
            );
        }
        let body = r#"{"a":{"x":1},"b":{"x":[1.5,-1,"x",null,true]}}"#;
        assert!(parse::<Unique>(body.as_bytes(), DEPTH).is_ok());
        let problem = refused::<SendMessage>(r#"{"session_id":"s","session_id":"s"}"#).await;
        assert_eq!(problem["errors"][0]["field"], "session_id");
    }

    #[test]
    fn a_raw_value_keeps_its_text() {
        let value: Box<RawValue> = parse(b" {\"n\": 1.0} ", DEPTH)
            .map_err(|_problem| ())
            .unwrap();
        assert_eq!(value.get(), "{\"n\": 1.0}");
    }

    #[tokio::test]
    async fn a_message_that_receivers_could_not_read_is_refused_by_its_field() {
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        for message in [deep.as_str(), r#""\ud800""#, "1e400"] {
            let body = format!(r#"{{"channel_id":"c","session_id":"s","message":{message}}}"#);
            let problem = refused::<SendMessage>(&body).await;
            assert_eq!(problem["status"], 422);
            assert_eq!(problem["errors"][0]["field"], "message");
        }
    }
}
