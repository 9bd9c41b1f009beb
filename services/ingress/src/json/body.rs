//! Reads a request's body, and parses JSON.
//!
//! Invariant: a body is held up to its size limit and its time limit, and counts against the byte
//! budget of all requests.

use axum::{
    body::{Body, HttpBody},
    extract::{FromRequest, OptionalFromRequest, Request},
    http::{HeaderMap, header},
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde::de::DeserializeOwned;

use super::{Rules, parse, without_mark};
use crate::{
    ingress::Ingress,
    limits::BodyBudget,
    problem::{Kind, Problem},
};

const UTF_8: [&str; 3] = ["utf-8", "utf8", "us-ascii"];

pub(crate) struct Json<T>(pub(crate) T);

/// A JSON body, parsed into a `T` that relays a part verbatim.
pub(crate) struct RelayedJson<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Ingress> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, ingress: &Ingress) -> Result<Self, Problem> {
        let bytes = read_json(request, ingress).await?;
        parse(&bytes, Rules::kept(ingress.limits.max_json_depth)).map(Self)
    }
}

impl<T: DeserializeOwned> OptionalFromRequest<Ingress> for Json<T> {
    type Rejection = Problem;

    /// `None` if the body is empty, whatever its media type.
    async fn from_request(request: Request, ingress: &Ingress) -> Result<Option<Self>, Problem> {
        let is_json = is_json(request.headers());
        let bytes = read(request, ingress, ingress.limits.max_body_bytes).await?;
        if without_mark(&bytes).trim_ascii().is_empty() {
            return Ok(None);
        }
        if !is_json {
            return Err(Problem::from(Kind::UnsupportedMediaType));
        }
        let rules = Rules::kept(ingress.limits.max_json_depth);
        parse(&bytes, rules).map(|read| Some(Self(read)))
    }
}

impl<T: DeserializeOwned> FromRequest<Ingress> for RelayedJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, ingress: &Ingress) -> Result<Self, Problem> {
        let bytes = read_json(request, ingress).await?;
        parse(&bytes, Rules::relayed(ingress.limits.max_json_depth)).map(Self)
    }
}

pub(crate) async fn read_json(request: Request, ingress: &Ingress) -> Result<Bytes, Problem> {
    if !is_json(request.headers()) {
        return Err(Problem::from(Kind::UnsupportedMediaType));
    }
    read(request, ingress, ingress.limits.max_body_bytes).await
}

pub(crate) async fn read(
    request: Request,
    ingress: &Ingress,
    limit: usize,
) -> Result<Bytes, Problem> {
    is_as_it_is(request.headers())?;
    let budget = match request.extensions().get::<BodyBudget>() {
        Some(budget) => budget.clone(),
        None => BodyBudget::of(&ingress.bytes),
    };
    let read = collect(request.into_body(), limit, &budget);
    tokio::time::timeout(ingress.limits.body_timeout, read)
        .await
        .map_err(|_elapsed| Kind::BodyTimeout)?
}

async fn collect(body: Body, limit: usize, budget: &BodyBudget) -> Result<Bytes, Problem> {
    // A body whose announced length is too great is refused before it is sent.
    if body.size_hint().lower() > limit as u64 {
        return Err(Problem::too_large(limit));
    }
    let mut pieces = body.into_data_stream();
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| {
            Problem::new(Kind::BadRequest, "the connection ended before the body did")
        })?;
        if first.len() + whole.len() + piece.len() > limit {
            return Err(Problem::too_large(limit));
        }
        budget.take(piece.len())?;
        if first.is_empty() && whole.is_empty() {
            first = piece;
        } else {
            whole.extend_from_slice(&std::mem::take(&mut first));
            whole.extend_from_slice(&piece);
        }
    }
    // Most bodies come in one chunk, which is not copied.
    Ok(if whole.is_empty() {
        first
    } else {
        whole.freeze()
    })
}

/// Refuses a compressed body, or a character set other than JSON's.
fn is_as_it_is(headers: &HeaderMap) -> Result<(), Problem> {
    let is_identity = |coding: &str| coding.trim().eq_ignore_ascii_case("identity");
    let codings = headers.get_all(header::CONTENT_ENCODING);
    if !codings.iter().all(|codings| {
        codings
            .to_str()
            .is_ok_and(|text| text.split(',').all(is_identity))
    }) {
        return Err(Problem::new(
            Kind::UnsupportedMediaType,
            "send the body as it is, without 'Content-Encoding'",
        ));
    }
    let charset = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(charset);
    let is_utf8 = |name: &str| UTF_8.iter().any(|known| name.eq_ignore_ascii_case(known));
    if charset.is_none_or(is_utf8) {
        Ok(())
    } else {
        Err(Problem::new(
            Kind::UnsupportedMediaType,
            "send JSON in UTF-8",
        ))
    }
}

fn charset(content_type: &str) -> Option<&str> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("charset")
            .then(|| value.trim().trim_matches('"'))
    })
}

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

/// `application/json`, or a type with the suffix `+json`.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|kind| {
        kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
    })
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, Method};

    use super::*;

    type Headers<'a> = &'a [(&'a str, &'a str)];
    use crate::tests::Bench;

    #[tokio::test]
    async fn a_byte_order_mark_before_json_is_ignored_by_every_call() {
        let bench = Bench::new().await;
        let message = r#"{"channel_id":"c","session_id":"s","message":"m"}"#;
        let channel = r#"{"channel_id":"d","channel_metadata":{"endpoint_url":"http://h/"}}"#;
        let array = format!("[{message}]");
        let answer = r#"{"session_id":"s","response_data":1}"#;
        let key = r#"{"name":"k","role":"viewer"}"#;
        let replay = r#"{"dry_run":true,"channel_id":"c"}"#;
        let nd = [("content-type", "application/x-ndjson")];
        let cases: [(&str, Headers<'_>, &str, u16); 11] = [
            ("/channel/message", &[], message, 202),
            ("/channel/messages", &[], &array, 200),
            ("/channel/messages", &nd, message, 200),
            ("/webhook-response", &[], answer, 202),
            ("/channel", &[], channel, 201),
            ("/channels", &[], "{}", 200),
            ("/channel/c/secret/rotate", &[], "{}", 200),
            ("/channel/c/secret/rotate", &[], "", 200),
            ("/api-keys", &[], key, 201),
            ("/dead-letters/replay", &[], replay, 200),
            ("/messages/replay", &[], replay, 200),
        ];
        for (path, headers, body, status) in cases {
            let answer = bench.post(path, headers, format!("\u{feff}{body}")).await;
            assert_eq!(answer.status, status, "{path}: {}", answer.text);
            assert!(!answer.text.contains(r#""rejected":1"#), "{}", answer.text);
        }
        let put = bench.request(Method::PUT, "/channel/c", &[], "\u{feff}{}");
        assert_eq!(put.await.status, 200);
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
                "application/json; charset=US-ASCII",
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
