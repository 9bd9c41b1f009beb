//! Parses the query string and the id in the path; an error names the parameter.

use axum::{
    extract::{FromRequestParts, Path, Query},
    http::{Uri, request::Parts},
};
use roundtrip_model::{ChannelId, channel::FieldError};
use serde::de::DeserializeOwned;

use crate::{
    json::{BODY, named_by, words},
    problem::{Kind, Problem},
};

/// axum writes this before it names the parameter.
const PREFIX: &str = "Failed to deserialize query string: ";

pub(crate) struct Parameters<T>(pub(crate) T);

/// The id in the path. An id that is not UTF-8 names nothing.
pub(crate) struct PathId(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for PathId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Path::<String>::from_request_parts(parts, state)
            .await
            .map(|Path(id)| Self(id))
            .map_err(|_rejection| Problem::from(Kind::UnknownPath))
    }
}

/// The channel in the path. A malformed id names no channel, so it is 404.
pub(crate) struct ChannelPath(pub(crate) ChannelId);

impl<S: Send + Sync> FromRequestParts<S> for ChannelPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let PathId(id) = PathId::from_request_parts(parts, state).await?;
        let channel = id.parse().map_err(|_error| Problem::unknown_channel(&id));
        channel.map(Self)
    }
}

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        read(&parts.uri).map(Self)
    }
}

pub(crate) fn read<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    let Query(read) = Query::try_from_uri(uri).map_err(|rejection| {
        let text = rejection.body_text();
        let text = text.strip_prefix(PREFIX).unwrap_or(&text);
        let (path, message) = text.split_once(": ").unwrap_or((BODY, text));
        Problem::invalid([named_by(message, path, "parameter")
            .unwrap_or_else(|| FieldError::new(path, words::of_message(message)))])
    })?;
    Ok(read)
}
