//! `GET /openapi.json` and `GET /docs`: the API for programs and for people.
//!
//! The document is written by hand, in `openapi/`, one file a topic. Swagger UI shows it; its files
//! are in `openapi/docs-ui`, and `openapi/docs-ui/update` recreates them. Invariants: the document
//! has exactly the router's paths and methods, and states the code's bounds. The page loads only
//! files of this gateway. The tests beside it check both.

use std::sync::LazyLock;

use axum::{
    http::{HeaderValue, header},
    response::IntoResponse,
};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::{
    parameters::PathId,
    problem::{Kind, Problem},
};

/// The files of the document, each with its own paths and components.
const PARTS: [&str; 6] = [
    include_str!("../openapi/api.json"),
    include_str!("../openapi/channels.json"),
    include_str!("../openapi/messages.json"),
    include_str!("../openapi/dead_letters.json"),
    include_str!("../openapi/api_keys.json"),
    include_str!("../openapi/webhooks.json"),
];

/// The page loads only from this gateway, runs no inline script and cannot be framed. The style
/// sheet holds its images.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

const PAGE: &str = include_str!("../openapi/docs-ui/index.html");

/// The files that the page loads: name, media type, content.
const FILES: [(&str, &str, &str); 3] = [
    (
        "start.js",
        "text/javascript; charset=utf-8",
        include_str!("../openapi/docs-ui/start.js"),
    ),
    (
        "swagger-ui-bundle.js",
        "text/javascript; charset=utf-8",
        include_str!("../openapi/docs-ui/swagger-ui/swagger-ui-bundle.js"),
    ),
    (
        "swagger-ui.css",
        "text/css; charset=utf-8",
        include_str!("../openapi/docs-ui/swagger-ui/swagger-ui.css"),
    ),
];

/// How long a browser keeps these files, in seconds.
const KEEP: &str = "max-age=3600";

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

pub(crate) async fn json() -> impl IntoResponse {
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], JSON.clone())
}

pub(crate) async fn docs() -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, PAGE)
}

pub(crate) async fn file(PathId(name): PathId) -> Result<impl IntoResponse, Problem> {
    let found = FILES.into_iter().find(|(known, ..)| *known == name);
    let (_, media_type, content) = found.ok_or(Kind::UnknownPath)?;
    let headers = [
        (header::CONTENT_TYPE, media_type),
        (header::CACHE_CONTROL, KEEP),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, content))
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

/// Adds `x-request-id` to every response: all have it, and the files would repeat it.
fn name_requests(document: &mut Value) {
    let id = json!({"$ref": "#/components/headers/RequestId"});
    let add_id = |responses: Option<&mut Value>| {
        for response in responses.into_iter().flat_map(members) {
            if response.get("$ref").is_none() {
                response["headers"]["x-request-id"] = id.clone();
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
