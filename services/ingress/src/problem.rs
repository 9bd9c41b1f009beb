//! Errors of the API: RFC 9457 problem details.
//!
//! Invariant: every response of 400 and above is one of these, and reveals only what the client may
//! know. Details for the operator are logged where the error is handled. No problem contains a
//! secret, even one from the request itself.

mod access;
mod failures;
mod kind;
mod quota;

use std::time::Duration;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use roundtrip_model::{State, channel::FieldError, key, redacted};
use serde::{Serialize, Serializer};

use crate::request_id;

pub(crate) use self::{kind::Kind, quota::Quota};

pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Problem {
    kind: Kind,
    detail: String,
    errors: Vec<FieldProblem>,
    retry_after: Option<Duration>,
    quota: Option<Quota>,
}

#[derive(Debug, Serialize)]
struct FieldProblem {
    #[serde(serialize_with = "without_secrets")]
    field: String,
    #[serde(serialize_with = "without_secrets")]
    detail: String,
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    #[serde(serialize_with = "without_secrets")]
    detail: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldProblem],
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
}

/// Removes secrets: a problem quotes input, which may be a key in the wrong field. Responses end up
/// in logs and browser histories, where a key must not be.
fn without_secrets<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&redacted(text))
}

impl From<Kind> for Problem {
    fn from(kind: Kind) -> Self {
        Self::new(kind, kind.detail())
    }
}

impl Problem {
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let is_temporary = kind.status() == 503 || kind == Kind::IdempotencyKeyInUse;
        Self {
            kind,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: is_temporary.then_some(RETRY_AFTER),
            quota: None,
        }
    }

    pub(crate) const fn status(&self) -> u16 {
        self.kind.status()
    }

    /// Whether the message may be in the queue despite this response.
    pub(crate) fn may_be_enqueued(&self) -> bool {
        self.kind == Kind::BrokerUnconfirmed
    }

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
            ..Self::new(Kind::InvalidField, detail)
        }
    }

    pub(crate) fn unless_valid(errors: Vec<FieldError>) -> Result<(), Self> {
        if errors.is_empty() {
            return Ok(());
        }
        Err(Self::invalid(errors))
    }

    /// The body is empty where a filter is expected. `empty` says what a filter without fields does.
    pub(crate) fn no_filter(empty: &str) -> Self {
        let detail = format!("the body is empty; send the filter as a JSON object: {empty}");
        Self::new(Kind::MalformedJson, detail)
    }

    pub(crate) fn invalid_field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::invalid([FieldError::new(field, problem)])
    }

    pub(crate) fn uri_too_long(part: &str, limit: usize) -> Self {
        let detail = format!("its {part} may have at most {limit} bytes");
        Self::new(Kind::UriTooLong, detail)
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        let detail = format!("a body may have at most {limit} bytes");
        Self::new(Kind::BodyTooLarge, detail)
    }

    pub(crate) fn unknown_key(id: &str) -> Self {
        let detail = if id.starts_with(key::MARK) {
            format!("'{id}' is a whole key; {}", key::ID_IN_KEY)
        } else {
            format!("there is no API key with the id '{id}'")
        };
        Self::new(Kind::UnknownKey, detail)
    }

    pub(crate) fn unknown_channel(id: &str) -> Self {
        let detail = format!("there is no channel with the id '{id}'");
        Self::new(Kind::UnknownChannel, detail)
    }

    /// The id in the path names no message, or the journal does not have it yet.
    pub(crate) fn unknown_message(id: &str) -> Self {
        let detail = format!(
            "there is no message with the id '{id}'; a message that was just accepted is listed \
             after a moment"
        );
        Self::new(Kind::UnknownMessage, detail)
    }

    /// Only a message that waits in the store can be taken out of it.
    pub(crate) fn not_waiting(state: State) -> Self {
        let name = state.as_str();
        let later = if state.is_under_way() {
            "; it may wait there later"
        } else {
            ""
        };
        let detail = format!(
            "the message is in the state '{name}'; only one that waits in the store can be retried \
             or cancelled{later}"
        );
        Self::new(Kind::NotWaiting, detail)
    }

    pub(crate) fn unknown_replay(id: &str) -> Self {
        let detail = format!("there is no replay with the id '{id}'");
        Self::new(Kind::UnknownReplay, detail)
    }

    /// This kind of problem, with the field that causes it.
    pub(crate) fn of_field(kind: Kind, field: &str, problem: &str) -> Self {
        Self {
            kind,
            ..Self::invalid_field(field, problem)
        }
    }

    /// The quota is used up, for this time.
    pub(crate) fn over_quota(quota: Quota, wait: Duration, problem: impl Into<Self>) -> Self {
        Self {
            retry_after: Some(whole_seconds(wait)),
            quota: Some(quota),
            ..problem.into()
        }
    }

    fn document(&self, request_id: Option<String>) -> Document<'_> {
        Document {
            kind: self.kind.urn(),
            title: self.kind.title(),
            status: self.kind.status(),
            detail: &self.detail,
            errors: &self.errors,
            request_id,
        }
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.document(None).serialize(serializer)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.kind.status();
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let document = self.document(request_id::current());
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

/// For the headers: rounded up to whole seconds, and at least one.
fn whole_seconds(wait: Duration) -> Duration {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    Duration::from_secs(seconds.max(1))
}
