//! Reading a request's body: bounded in size and time, JSON, each wrong field named.

use axum::{
    extract::{FromRequest, OptionalFromRequest, Request, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header},
};
use bytes::Bytes;
use roundtrip_model::channel::FieldError;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::error::Category;

use crate::{Ingress, problem::Problem};

/// A JSON body, read into a `T`.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Ingress> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, ingress: &Ingress) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::unsupported_media_type());
        }
        let bytes = read(request, ingress, ingress.limits.max_body_bytes).await?;
        parse(&bytes).map(Self)
    }
}

impl<T: DeserializeOwned> OptionalFromRequest<Ingress> for Json<T> {
    type Rejection = Problem;

    /// None where the body is empty, whatever its type is said to be.
    async fn from_request(request: Request, ingress: &Ingress) -> Result<Option<Self>, Problem> {
        let is_json = is_json(request.headers());
        let bytes = read(request, ingress, ingress.limits.max_body_bytes).await?;
        if bytes.is_empty() {
            return Ok(None);
        }
        if !is_json {
            return Err(Problem::unsupported_media_type());
        }
        parse(&bytes).map(|read| Some(Self(read)))
    }
}

/// The whole body. `limit` is for the answer where it is too long: what bounds it is the route's
/// `DefaultBodyLimit`.
pub(crate) async fn read(
    request: Request,
    ingress: &Ingress,
    limit: usize,
) -> Result<Bytes, Problem> {
    let read = Bytes::from_request(request, ingress);
    tokio::time::timeout(ingress.limits.body_timeout, read)
        .await
        .map_err(|_elapsed| Problem::body_timeout())?
        .map_err(|rejection| unreadable(&rejection, limit))
}

/// The body's media type, without its parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> Option<String> {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(|value| {
            value
                .split(';')
                .next()
                .unwrap_or_default()
                .trim()
                .to_ascii_lowercase()
        })
}

/// `application/json`, or a type whose suffix says JSON.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|kind| {
        kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
    })
}

fn unreadable(rejection: &BytesRejection, limit: usize) -> Problem {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        Problem::too_large(limit)
    } else {
        Problem::bad_request("the connection ended before the body did")
    }
}

/// Reads JSON: 400 where it is none, 422 and the field's path where it is not as it must be.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
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
    } else if let Some(field) = named("unknown field `") {
        FieldError::new(field, "is not a field that this call knows")
    } else {
        FieldError::new(if path == "." { "body".to_owned() } else { path }, message)
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::to_bytes, http::HeaderValue, response::IntoResponse};
    use roundtrip_model::ChannelPatch;
    use serde_json::{Value, json, value::RawValue};

    use super::*;
    use crate::messages::SendMessage;

    async fn refused<T: DeserializeOwned>(body: &str) -> Value {
        let Err(problem) = parse::<T>(body.as_bytes()) else {
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

    #[test]
    fn a_raw_value_keeps_its_text() {
        let value: Box<RawValue> = parse(b" {\"n\": 1.0} ").map_err(|_problem| ()).unwrap();
        assert_eq!(value.get(), "{\"n\": 1.0}");
    }

    #[test]
    fn only_json_types_are_json() {
        let with = |kind: &'static str| {
            HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))])
        };
        assert!(is_json(&with("application/json")));
        assert!(is_json(&with("Application/JSON; charset=utf-8")));
        assert!(is_json(&with("application/cloudevents+json")));
        assert!(!is_json(&with("text/plain")));
        assert!(!is_json(&with("application/x-www-form-urlencoded")));
        assert!(!is_json(&HeaderMap::new()));
    }
}
