//! `GET /openapi.json` and `GET /docs`: what the API is, for programs and for people.
//!
//! The document is written by hand, in `openapi/`, a file for each topic. Invariant: it has the
//! router's paths and methods, no fewer and no more, and says the bounds that the code has; the
//! tests beside this hold it to both.

mod page;

use std::sync::LazyLock;

use axum::{
    http::{HeaderValue, header},
    response::IntoResponse,
};
use bytes::Bytes;
use serde_json::{Map, Value};

/// The parts of the document, each with paths and components of its own.
const PARTS: [&str; 5] = [
    include_str!("../openapi/api.json"),
    include_str!("../openapi/channels.json"),
    include_str!("../openapi/messages.json"),
    include_str!("../openapi/dead_letters.json"),
    include_str!("../openapi/api_keys.json"),
];

/// What the page may do: show itself. Nothing is loaded, nothing runs, nobody frames it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let mut document = Map::new();
    for part in PARTS {
        let part = serde_json::from_str(part).expect("each part is a JSON object: a test reads it");
        merge(&mut document, part);
    }
    Value::Object(document)
});

static JSON: LazyLock<Bytes> = LazyLock::new(|| DOCUMENT.to_string().into());

static PAGE: LazyLock<Bytes> = LazyLock::new(|| page::render(&DOCUMENT).into());

/// `GET /openapi.json`
pub(crate) async fn json() -> impl IntoResponse {
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], JSON.clone())
}

/// `GET /docs`
pub(crate) async fn docs() -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, PAGE.clone())
}

/// Puts a part's members beside those that are there, objects into objects.
fn merge(into: &mut Map<String, Value>, part: Map<String, Value>) {
    for (key, value) in part {
        match (into.get_mut(&key), value) {
            (Some(Value::Object(there)), Value::Object(more)) => merge(there, more),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests;
