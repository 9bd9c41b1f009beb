//! What is told of the errors of the store and the broker.
//!
//! Invariant: who is told that they are away learns nothing of why; the log does, and no more often
//! than an operator can read it.

use axum::http::StatusCode;
use roundtrip_broker::PublishError;
use roundtrip_store::{FilterError, MAX_KEYS_UNDER_ONE, StoreError};

use super::Problem;
use crate::seldom::Seldom;

/// Each is met by every request while it lasts.
static STORE_AWAY: Seldom = Seldom::new();
static NOT_ENQUEUED: Seldom = Seldom::new();

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
            // Written by another client of the database, and not by whoever asks now.
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
                "as many are active as there can be; revoke some",
            ),
            StoreError::TooManyUnderOne => Self::new(
                StatusCode::CONFLICT,
                "too-many-keys-made",
                "This key has made too many",
                format!(
                    "of the keys that one which is limited to channels has made, and those that \
                     these have made, {MAX_KEYS_UNDER_ONE} can be active; revoke some"
                ),
            ),
            StoreError::Away(source) => {
                if let Some(unsaid) = STORE_AWAY.due() {
                    tracing::warn!(error = %source, unsaid, "the store did not answer");
                }
                Self::unavailable("store-away", "The store is away", "try again in a moment")
            }
        }
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        if let Some(unsaid) = NOT_ENQUEUED.due() {
            tracing::warn!(%error, unsaid, "not enqueued");
        }
        match error {
            PublishError::Away(_) => {
                Self::unavailable("broker-away", "The broker is away", "nothing was enqueued")
            }
            PublishError::Refused(_) => Self::unavailable(
                "broker-refuses",
                "The broker takes nothing at the moment",
                "nothing was enqueued",
            ),
            PublishError::Unconfirmed => Self {
                may_be_enqueued: true,
                ..Self::unavailable(
                    "broker-unconfirmed",
                    "The broker did not confirm in time",
                    "it may or may not have been enqueued; sending it again may double it",
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
