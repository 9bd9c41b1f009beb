//! Reading a request's body: bounded in size and time, JSON, each wrong field named.

use axum::{
    body::{Body, HttpBody},
    extract::{FromRequest, OptionalFromRequest, Request},
    http::{HeaderMap, header},
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use roundtrip_model::channel::FieldError;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, IgnoredAny},
};
use serde_json::error::Category;

use crate::{Ingress, limits::Held, problem::Problem, scan, unique::Unique};

/// A JSON body, read into a `T`.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Ingress> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, ingress: &Ingress) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::unsupported_media_type());
        }
        let bytes = read(request, ingress, ingress.limits.max_body_bytes).await?;
        parse(&bytes, ingress.limits.max_json_depth).map(Self)
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
        parse(&bytes, ingress.limits.max_json_depth).map(|read| Some(Self(read)))
    }
}

/// A JSON body as [`Json`], in which no object has a name twice: for what is kept as it was sent.
pub(crate) struct UniqueJson<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Ingress> for UniqueJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, ingress: &Ingress) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::unsupported_media_type());
        }
        let bytes = read(request, ingress, ingress.limits.max_body_bytes).await?;
        let max_depth = ingress.limits.max_json_depth;
        parse::<Unique>(&bytes, max_depth)?;
        parse(&bytes, max_depth).map(Self)
    }
}

/// The whole body, which counts among those of all requests for as long as its request lasts.
pub(crate) async fn read(
    request: Request,
    ingress: &Ingress,
    limit: usize,
) -> Result<Bytes, Problem> {
    is_as_it_is(request.headers())?;
    let held = match request.extensions().get::<Held>() {
        Some(held) => held.clone(),
        None => Held::of(&ingress.bytes),
    };
    let read = collect(request.into_body(), limit, &held);
    tokio::time::timeout(ingress.limits.body_timeout, read)
        .await
        .map_err(|_elapsed| Problem::body_timeout())?
}

async fn collect(body: Body, limit: usize, held: &Held) -> Result<Bytes, Problem> {
    // What announces its length is refused before it is sent.
    if body.size_hint().lower() > limit as u64 {
        return Err(Problem::too_large(limit));
    }
    let mut pieces = body.into_data_stream();
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    while let Some(piece) = pieces.next().await {
        let piece =
            piece.map_err(|_| Problem::bad_request("the connection ended before the body did"))?;
        if first.len() + whole.len() + piece.len() > limit {
            return Err(Problem::too_large(limit));
        }
        held.take(piece.len())?;
        if first.is_empty() && whole.is_empty() {
            first = piece;
        } else {
            whole.extend_from_slice(&std::mem::take(&mut first));
            whole.extend_from_slice(&piece);
        }
    }
    // Most bodies come in one piece, which is not copied.
    Ok(if whole.is_empty() {
        first
    } else {
        whole.freeze()
    })
}

/// Refuses a body that is compressed, or in another character set than JSON's.
fn is_as_it_is(headers: &HeaderMap) -> Result<(), Problem> {
    let is_identity = |coding: &str| coding.trim().eq_ignore_ascii_case("identity");
    let codings = headers.get_all(header::CONTENT_ENCODING);
    if !codings.iter().all(|codings| {
        codings
            .to_str()
            .is_ok_and(|text| text.split(',').all(is_identity))
    }) {
        return Err(Problem::unsupported_coding());
    }
    let charset = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(charset);
    match charset {
        Some(name) if !name.eq_ignore_ascii_case("utf-8") && !name.eq_ignore_ascii_case("utf8") => {
            Err(Problem::unsupported_charset())
        }
        _ => Ok(()),
    }
}

/// The parameter `charset` of a media type.
fn charset(content_type: &str) -> Option<&str> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("charset")
            .then(|| value.trim().trim_matches('"'))
    })
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
    use axum::{body::to_bytes, http::HeaderValue, response::IntoResponse};
    use roundtrip_model::ChannelPatch;
    use serde_json::{Value, json, value::RawValue};

    use super::*;
    use crate::messages::SendMessage;

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

    #[test]
    fn a_body_is_neither_compressed_nor_in_another_character_set() {
        let with = |name: header::HeaderName, value: &'static str| {
            HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
        };
        for (name, value, taken) in [
            (header::CONTENT_ENCODING, "identity", true),
            (header::CONTENT_ENCODING, "gzip", false),
            (header::CONTENT_ENCODING, "identity, br", false),
            (header::CONTENT_TYPE, "application/json", true),
            (
                header::CONTENT_TYPE,
                "application/json; charset=UTF-8",
                true,
            ),
            (
                header::CONTENT_TYPE,
                "application/json;charset=\"utf-8\"",
                true,
            ),
            (
                header::CONTENT_TYPE,
                "application/json; v=1; charset=utf-16",
                false,
            ),
            (
                header::CONTENT_TYPE,
                "application/json; charset=iso-8859-1",
                false,
            ),
        ] {
            assert_eq!(is_as_it_is(&with(name, value)).is_ok(), taken, "{value}");
        }
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
