//! `If-Match` (RFC 9110, 13.1.1): an update applies only to the version that its sender saw.

use axum::{
    Json as JsonBody,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use roundtrip_model::ChannelId;
use roundtrip_store::{ChannelError, Channels, Version, Versioned};

use crate::problem::{Kind, Problem};

/// The version that the stored channel must have, if the request names one.
pub(crate) async fn expected(
    headers: &HeaderMap,
    id: &ChannelId,
    channels: &dyn Channels,
) -> Result<Option<Version>, Problem> {
    let mut named = Vec::new();
    for value in headers.get_all(header::IF_MATCH) {
        let Ok(value) = value.to_str() else {
            return Err(Problem::new(
                Kind::BadRequest,
                "the header 'If-Match' is not ASCII",
            ));
        };
        named.extend(value.split(',').map(str::trim).map(str::to_owned));
    }
    match named.as_slice() {
        [] => Ok(None),
        // Any version matches. A channel that does not exist gets 404 in any case.
        [any] if any == "*" => Ok(None),
        [one] => Ok(Some(version(one))),
        several => {
            let stored = channels.get(id).await?.version;
            if several.iter().any(|one| version(one) == stored) {
                Ok(Some(stored))
            } else {
                Err(ChannelError::Changed(id.clone()).into())
            }
        }
    }
}

pub(crate) fn of(version: &Version) -> String {
    format!("\"{version}\"")
}

pub(crate) fn versioned(stored: Versioned) -> Response {
    (
        [(header::ETAG, of(&stored.version))],
        JsonBody(stored.channel),
    )
        .into_response()
}

/// The version of a strong tag. A weak one (`W/"…"`) matches none, as the RFC requires for
/// `If-Match`.
fn version(tag: &str) -> Version {
    Version::named(
        tag.strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'))
            .unwrap_or_default(),
    )
}
