//! Errors of the store and the broker.
//!
//! Invariant: the client learns only that they are unavailable. The log has the reason, throttled
//! to what an operator can read.

use std::time::Instant;

use axum::http::StatusCode;
use roundtrip_broker::PublishError;
use roundtrip_model::LogThrottle;
use roundtrip_store::{FilterError, MAX_KEYS_UNDER_ONE, MAX_RUNNING_REPLAYS, StoreError};

use super::{Problem, Quota, RETRY_AFTER};
use crate::queries::MAX_PER_PRINCIPAL;

/// Each is logged by every request while it lasts.
static STORE_AWAY: LogThrottle = LogThrottle::new();
static TOO_COSTLY: LogThrottle = LogThrottle::new();
static TOO_BUSY: LogThrottle = LogThrottle::new();
static NOT_ENQUEUED: LogThrottle = LogThrottle::new();

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Exists(id) => Self::new(
                StatusCode::CONFLICT,
                "channel-exists",
                "The channel exists",
                format!("a channel with the id '{id}' exists"),
            ),
            StoreError::NotFound(id) => Self::unknown_channel(id.as_str()),
            StoreError::Changed(id) => Self::new(
                StatusCode::PRECONDITION_FAILED,
                "channel-changed",
                "The channel has changed",
                format!("the channel '{id}' is no longer of the version that If-Match names"),
            ),
            // Written by another client of the database, so not an error of this request.
            StoreError::Unreadable { id, problem } => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "unreadable-channel",
                "The stored channel cannot be read",
                format!("the stored document of '{id}' is no channel: {problem}"),
            ),
            StoreError::Unstorable(error) => Self::invalid([error]),
            StoreError::TooMany => Self::new(
                StatusCode::CONFLICT,
                "too-many-keys",
                "There are too many API keys",
                "the maximum number of keys is active; revoke some",
            ),
            StoreError::TooManyReplays => Self::over_quota(
                Quota::concurrent("replays-per-key", MAX_RUNNING_REPLAYS.into()),
                RETRY_AFTER,
                "too-many-replays",
                "Too many replays of this key are running",
                format!(
                    "{MAX_RUNNING_REPLAYS} can run at once; wait until one is done, or cancel one: \
                     GET /replays?status=running lists them"
                ),
            ),
            StoreError::TooCostly => {
                if let Some(suppressed) = TOO_COSTLY.due(Instant::now()) {
                    tracing::warn!(suppressed, "a query needed too much work and was cancelled");
                }
                Self::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "query-too-costly",
                    "The query needs too much work",
                    "it was cancelled; use a narrower filter",
                )
            }
            StoreError::TooBusy => {
                if let Some(suppressed) = TOO_BUSY.due(Instant::now()) {
                    tracing::warn!(
                        suppressed,
                        "a query was refused: too many others are running"
                    );
                }
                Self::unavailable(
                    "too-many-queries",
                    "Too many queries are running",
                    "try again in a moment",
                )
            }
            StoreError::TooManyUnderOne => Self::new(
                StatusCode::CONFLICT,
                "too-many-keys-made",
                "Too many API keys were created under this key",
                format!(
                    "at most {MAX_KEYS_UNDER_ONE} active keys can be created under a \
                     channel-limited key, by it or by its keys; revoke some"
                ),
            ),
            StoreError::Unavailable(source) => {
                if let Some(suppressed) = STORE_AWAY.due(Instant::now()) {
                    tracing::warn!(error = %source, suppressed, "the store did not answer");
                }
                Self::unavailable(
                    "store-away",
                    "The store is unavailable",
                    "try again in a moment",
                )
            }
        }
    }
}

impl Problem {
    /// The principal has too many queries in progress, unread answers included.
    pub(crate) fn too_many_queries() -> Self {
        Self::over_quota(
            Quota::concurrent("queries-per-key", MAX_PER_PRINCIPAL.into()),
            RETRY_AFTER,
            "too-many-queries",
            "Too many queries with this key are running",
            "read their responses, then try again",
        )
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        if let Some(suppressed) = NOT_ENQUEUED.due(Instant::now()) {
            tracing::warn!(%error, suppressed, "not enqueued");
        }
        match error {
            PublishError::Unavailable(_) => Self::unavailable(
                "broker-away",
                "The broker is unavailable",
                "nothing was enqueued",
            ),
            PublishError::Refused(_) => Self::unavailable(
                "broker-refuses",
                "The broker refuses messages at the moment",
                "nothing was enqueued",
            ),
            PublishError::TooLarge => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "message-too-large",
                "The message is too large for the broker",
                "nothing was enqueued; the broker accepts no message of this size",
            ),
            PublishError::Unconfirmed => Self {
                may_be_enqueued: true,
                ..Self::unavailable(
                    "broker-unconfirmed",
                    "The broker did not confirm in time",
                    "the message may have been enqueued; sending it again may duplicate it",
                )
            },
        }
    }
}

impl From<FilterError> for Problem {
    fn from(error: FilterError) -> Self {
        Self::invalid_field(error.path, error.problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_larger_than_the_broker_accepts_is_413_without_retry_after() {
        let problem = Problem::from(PublishError::TooLarge);
        assert_eq!(problem.status, 413);
        assert!(problem.retry_after.is_none() && !problem.may_be_enqueued);
    }
}
