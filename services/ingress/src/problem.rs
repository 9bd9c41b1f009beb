//! Errors of the API: RFC 9457 problem details.
//!
//! Invariant: every answer of 400 and above is one of these, and reveals only what the client may
//! know. Details for the operator are logged where the error is handled. No problem contains a
//! secret, even one from the request itself.

mod access;
mod failures;
mod quota;
mod secrets;

use std::time::Duration;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use roundtrip_model::{channel::FieldError, key, redacted};
use serde::{Serialize, Serializer};

use crate::{idempotency::HEADER, request_id};

pub(crate) use quota::Quota;

/// The `Retry-After` while the broker or the store is unavailable.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// A problem, as RFC 9457 has it: `type`, `title`, `status`, `detail`, and `errors` by field.
#[derive(Debug, Serialize)]
pub(crate) struct Problem {
    #[serde(rename = "type", serialize_with = "as_urn")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    #[serde(serialize_with = "without_secrets")]
    detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldProblem>,
    #[serde(skip)]
    retry_after: Option<Duration>,
    /// The quota that a 429 reports.
    #[serde(skip)]
    quota: Option<Box<Quota>>,
    /// It is unknown whether the message was enqueued.
    #[serde(skip)]
    may_be_enqueued: bool,
}

#[derive(Debug, Serialize)]
struct FieldProblem {
    #[serde(serialize_with = "without_secrets")]
    field: String,
    #[serde(serialize_with = "without_secrets")]
    detail: String,
}

fn as_urn<S: Serializer>(kind: &&'static str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("urn:roundtrip:problem:{kind}"))
}

/// Removes secrets: a problem quotes input, which may be a key in the wrong field. Answers end up
/// in logs and browser histories, where a key must not be.
fn without_secrets<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&redacted(text))
}

impl Problem {
    fn new(
        status: StatusCode,
        kind: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            title,
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: None,
            quota: None,
            may_be_enqueued: false,
        }
    }

    #[cfg(test)]
    pub(crate) const fn status(&self) -> u16 {
        self.status
    }

    /// Whether the message may be in the queue despite this answer.
    pub(crate) const fn may_be_enqueued(&self) -> bool {
        self.may_be_enqueued
    }

    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "malformed-json",
            "The body is not JSON",
            detail,
        )
    }

    /// The request cannot be read, for a reason other than its content.
    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "bad-request",
            "The request cannot be read",
            detail,
        )
    }

    /// Fields that are invalid.
    pub(crate) fn invalid(errors: impl IntoIterator<Item = FieldError>) -> Self {
        let errors: Vec<_> = errors
            .into_iter()
            .map(|error| FieldProblem {
                field: error.field,
                detail: error.problem,
            })
            .collect();
        let detail = errors
            .iter()
            .map(|error| format!("{}: {}", error.field, error.detail))
            .collect::<Vec<_>>()
            .join("; ");
        Self {
            errors,
            ..Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid-field",
                "A field is missing or invalid",
                detail,
            )
        }
    }

    /// One field that is invalid.
    pub(crate) fn invalid_field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::invalid([FieldError::new(field, problem)])
    }

    pub(crate) fn unsupported_media_type() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported-media-type",
            "The body's media type is not supported",
            "send JSON, with the header 'Content-Type: application/json'",
        )
    }

    pub(crate) fn unsupported_coding() -> Self {
        Self {
            detail: "send the body as it is, without 'Content-Encoding'".to_owned(),
            ..Self::unsupported_media_type()
        }
    }

    pub(crate) fn unsupported_charset() -> Self {
        Self {
            detail: "send JSON in UTF-8".to_owned(),
            ..Self::unsupported_media_type()
        }
    }

    pub(crate) fn uri_too_long(part: &str, limit: usize) -> Self {
        Self::new(
            StatusCode::URI_TOO_LONG,
            "uri-too-long",
            "The URL is too long",
            format!("its {part} may have at most {limit} bytes"),
        )
    }

    pub(crate) fn headers_too_large(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "headers-too-large",
            "The headers are too large",
            detail,
        )
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            "The body is too large",
            format!("a body may have at most {limit} bytes"),
        )
    }

    pub(crate) fn body_timeout() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "body-timeout",
            "The body did not arrive in time",
            "send the whole body without pausing",
        )
    }

    pub(crate) fn unknown_path() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "unknown-path",
            "Not found",
            "the gateway has no such path",
        )
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            "The method is not allowed",
            "the 'Allow' header lists the methods of this path",
        )
    }

    pub(crate) fn unknown_key(id: &str) -> Self {
        let detail = if id.starts_with(key::MARK) {
            format!("'{id}' is a whole key; {}", key::ID_IN_KEY)
        } else {
            format!("there is no API key with the id '{id}'")
        };
        Self::new(
            StatusCode::NOT_FOUND,
            "unknown-key",
            "The API key does not exist",
            detail,
        )
    }

    pub(crate) fn unknown_channel(id: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "unknown-channel",
            "The channel does not exist",
            format!("there is no channel with the id '{id}'"),
        )
    }

    /// The id in the path names no message, or the journal does not have it yet.
    pub(crate) fn unknown_message(id: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "unknown-message",
            "The message does not exist",
            format!(
                "there is no message with the id '{id}'; a message that was just accepted is \
                 listed after a moment"
            ),
        )
    }

    pub(crate) fn unknown_replay(id: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "unknown-replay",
            "The replay does not exist",
            format!("there is no replay with the id '{id}'"),
        )
    }

    /// The ids of a replay match nothing that can be replayed.
    pub(crate) fn unknown_ids() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "unknown-ids",
            "None of the ids exists",
            "nothing with one of the 'ids' matches the other fields; a new message or dead letter \
             is listed after a moment",
        )
    }

    /// The idempotency key was used for another message.
    pub(crate) fn key_of_another_message() -> Self {
        Self {
            kind: "idempotency-key-reused",
            title: "The idempotency key was used before",
            ..Self::invalid_field(HEADER, "was used for another message")
        }
    }

    /// Another request holds this idempotency key.
    pub(crate) fn key_under_way() -> Self {
        Self {
            retry_after: Some(RETRY_AFTER),
            ..Self::new(
                StatusCode::CONFLICT,
                "idempotency-key-in-use",
                "A request with this idempotency key is under way",
                "the first request has not ended, or its result is unknown; try again in a \
                 moment; the message keeps its id",
            )
        }
    }

    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "The gateway failed",
            "this is a defect of the gateway; its log has the cause",
        )
    }

    /// Too many requests are in progress.
    pub(crate) fn overloaded() -> Self {
        Self::unavailable(
            "overloaded",
            "The gateway is overloaded",
            "too many requests, or too many bytes of them, at once",
        )
    }

    fn unavailable(kind: &'static str, title: &'static str, detail: &'static str) -> Self {
        Self {
            retry_after: Some(RETRY_AFTER),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, kind, title, detail)
        }
    }
}

/// The body of an answer. A problem within a batch's answer has no id of its own.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    problem: &'a Problem,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let document = Document {
            problem: &self,
            request_id: request_id::current(),
        };
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = (
            status,
            [(header::CONTENT_TYPE, "application/problem+json")],
            body,
        )
            .into_response();
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs()));
            if let Some(quota) = self.quota {
                quota.write(wait, headers);
            }
        }
        response
    }
}
