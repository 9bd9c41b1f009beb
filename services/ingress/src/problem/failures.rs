//! Errors of the store and the broker.
//!
//! Invariant: the client learns only that they are unavailable. The log has the reason, throttled
//! to what an operator can read.

use std::{error::Error, time::Instant};

use roundtrip_broker::PublishError;
use roundtrip_model::LogThrottle;
use roundtrip_store::{
    ChannelError, FilterError, KeyError, MAX_KEYS_UNDER_ONE, MAX_RUNNING_REPLAYS, QueryError,
    ReplayError, Unavailable,
};

use super::{Kind, Problem, Quota, RETRY_AFTER};

/// Each is logged by every request while it lasts.
static STORE_AWAY: LogThrottle = LogThrottle::new();
static TOO_COSTLY: LogThrottle = LogThrottle::new();
static TOO_BUSY: LogThrottle = LogThrottle::new();
static NOT_ENQUEUED: LogThrottle = LogThrottle::new();

impl From<ChannelError> for Problem {
    fn from(error: ChannelError) -> Self {
        match error {
            ChannelError::Exists(id) => Self::new(
                Kind::ChannelExists,
                format!("a channel with the id '{id}' exists"),
            ),
            ChannelError::NotFound(id) => Self::unknown_channel(id.as_str()),
            ChannelError::Changed(id) => Self::new(
                Kind::ChannelChanged,
                format!("the channel '{id}' is no longer of the version that If-Match names"),
            ),
            // Written by another client of the database, so not an error of this request.
            ChannelError::Unreadable { id, problem } => Self::new(
                Kind::UnreadableChannel,
                format!("the stored document of '{id}' is no channel: {problem}"),
            ),
            ChannelError::Unstorable(error) => Self::invalid([error]),
            ChannelError::Unavailable(error) => error.into(),
        }
    }
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::TooCostly => {
                if let Some(suppressed) = TOO_COSTLY.due(Instant::now()) {
                    tracing::warn!(suppressed, "a query needed too much work and was cancelled");
                }
                Self::from(Kind::QueryTooCostly)
            }
            QueryError::TooBusy => {
                if let Some(suppressed) = TOO_BUSY.due(Instant::now()) {
                    tracing::warn!(
                        suppressed,
                        "a query was refused: too many others are running"
                    );
                }
                Self::from(Kind::QueriesOverloaded)
            }
            QueryError::Unavailable(error) => error.into(),
        }
    }
}

impl From<ReplayError> for Problem {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::TooMany => {
                let quota = Quota::concurrent("replays-per-key", MAX_RUNNING_REPLAYS.into());
                let detail = format!(
                    "{MAX_RUNNING_REPLAYS} can run at once; wait until one is done, or cancel one: \
                     GET /replays?status=running lists them"
                );
                let problem = Self::new(Kind::TooManyReplays, detail);
                Self::over_quota(quota, RETRY_AFTER, problem)
            }
            ReplayError::Unavailable(error) => error.into(),
        }
    }
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::TooMany => Self::from(Kind::TooManyKeys),
            KeyError::TooManyUnderOne => Self::new(
                Kind::TooManyKeysMade,
                format!(
                    "at most {MAX_KEYS_UNDER_ONE} active keys can be created under a channel-limited key, \
                     by it or by its keys; revoke some"
                ),
            ),
            KeyError::Unavailable(error) => error.into(),
        }
    }
}

impl From<Unavailable> for Problem {
    fn from(error: Unavailable) -> Self {
        if let Some(suppressed) = STORE_AWAY.due(Instant::now()) {
            let cause = error.source().map(tracing::field::display);
            tracing::warn!(error = cause, suppressed, "the store did not answer");
        }
        Self::from(Kind::StoreUnavailable)
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        if let Some(suppressed) = NOT_ENQUEUED.due(Instant::now()) {
            tracing::warn!(%error, suppressed, "not enqueued");
        }
        match error {
            PublishError::Unavailable(_) => Self::from(Kind::BrokerUnavailable),
            PublishError::Refused(_) => Self::from(Kind::BrokerRefuses),
            PublishError::TooLarge => Self::from(Kind::MessageTooLarge),
            PublishError::Unconfirmed => Self::from(Kind::BrokerUnconfirmed),
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
        assert_eq!(problem.status(), 413);
        assert!(problem.retry_after.is_none() && !problem.may_be_enqueued());
    }
}
