//! `GET /openapi.json` and `GET /docs`: the API for programs and for people.
//!
//! The document is written by hand, in `openapi/`, one file a topic. Invariant: it has exactly the
//! router's paths and methods, and states the code's bounds. The tests beside it check both.

mod page;

use std::sync::LazyLock;

use axum::{
    http::{HeaderValue, header},
    response::IntoResponse,
};
use bytes::Bytes;
use serde_json::{Map, Value, json};

/// The files of the document, each with its own paths and components.
const PARTS: [&str; 5] = [
    include_str!("../openapi/api.json"),
    include_str!("../openapi/channels.json"),
    include_str!("../openapi/messages.json"),
    include_str!("../openapi/dead_letters.json"),
    include_str!("../openapi/api_keys.json"),
];

/// The page loads nothing, runs no script and cannot be framed.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let mut document = Map::new();
    for part in PARTS {
        let part = serde_json::from_str(part).expect("each part is a JSON object: a test reads it");
        merge(&mut document, part);
    }
    let mut document = Value::Object(document);
    name_requests(&mut document);
    document
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

/// Merges a file's members into the document, objects recursively.
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

/// Adds `x-request-id` to every answer: all have it, and the files would repeat it.
fn name_requests(document: &mut Value) {
    let id = json!({"$ref": "#/components/headers/RequestId"});
    let add_id = |answers: Option<&mut Value>| {
        for answer in answers.into_iter().flat_map(members) {
            if answer.get("$ref").is_none() {
                answer["headers"]["x-request-id"] = id.clone();
            }
        }
    };
    add_id(document.pointer_mut("/components/responses"));
    for operation in members(&mut document["paths"]).flat_map(members) {
        add_id(operation.get_mut("responses"));
    }
}

fn members(value: &mut Value) -> impl Iterator<Item = &mut Value> {
    let members = value.as_object_mut().into_iter();
    members.flat_map(|members| members.values_mut())
}

#[cfg(test)]
mod tests;
