//! Errors of authentication and authorization.
//!
//! Invariant: a 401 never says what is wrong with a key or a token. A 403 goes only to a principal
//! with a valid key, or where none is required.

use std::time::Duration;

use axum::http::StatusCode;
use roundtrip_model::{KeyRole, key::ScopeViolation};

use super::{Problem, Quota};

impl Problem {
    /// No valid key; the answer is the same whatever is wrong.
    pub(crate) fn no_key() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "no-valid-key",
            "A valid API key is needed",
            "send one with the header 'Authorization: Bearer rt_…'",
        )
    }

    /// No valid token; the answer is the same whatever is wrong.
    pub(crate) fn answer_refused() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "answer-refused",
            "The answer is not accepted",
            "post it to the 'response_url' of the delivery, with the delivery's session_id, \
             before its token expires",
        )
    }

    /// The keys cannot be read.
    pub(crate) fn keys_unavailable() -> Self {
        Self::unavailable(
            "store-away",
            "The store is unavailable",
            "try again in a moment",
        )
    }

    /// Without keys: the request comes from a web page or names another host.
    pub(crate) fn not_this_machine() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "not-this-machine",
            "Without an API key only programs on this machine may call this",
            "in development a request without an API key needs a 'Host' that is localhost, a \
             loopback address or the host of 'public_url'; an 'Origin' must be one too, and \
             'Sec-Fetch-Site' must not be cross-site; send an API key, or set 'public_url'",
        )
    }

    /// The key's role does not allow the call.
    pub(crate) fn other_role(needed: &[KeyRole], role: KeyRole) -> Self {
        let needed: Vec<&str> = std::iter::once(&KeyRole::Operator)
            .chain(needed)
            .map(|role| role.as_str())
            .collect();
        Self::new(
            StatusCode::FORBIDDEN,
            "role-not-allowed",
            "The key's role does not allow this",
            format!(
                "this call needs a key with the role {}; this key has the role {role}",
                needed.join(" or ")
            ),
        )
    }

    /// The key is limited to other channels.
    pub(crate) fn other_channel(id: &str) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "channel-not-allowed",
            "The key is limited to other channels",
            format!("this key may not use the channel '{id}'"),
        )
    }

    /// The new key would have wider limits than the key that makes it.
    pub(crate) fn wider_key(beyond: ScopeViolation) -> Self {
        let (field, problem) = match beyond {
            ScopeViolation::Channels => ("channels", "must be among this key's own channels"),
            ScopeViolation::Rate => (
                "rate_per_second",
                "must be set, and not higher than this key's own",
            ),
            ScopeViolation::End => ("expires_at", "must not be later than this key's own"),
        };
        Self {
            kind: "wider-key",
            title: "A key cannot create a key with more rights",
            status: StatusCode::FORBIDDEN.as_u16(),
            ..Self::invalid_field(field, problem)
        }
    }

    /// The channel exceeds its rate of answers.
    pub(crate) fn answer_rate_limited(per_second: u32, wait: Duration) -> Self {
        Self::too_many_answers_now(Quota::per_second("answers-per-channel", per_second), wait)
    }

    /// Another answer to the same delivery is being published.
    pub(crate) fn answers_queue(wait: Duration) -> Self {
        Self::too_many_answers_now(Quota::concurrent("answers-per-delivery", 1), wait)
    }

    fn too_many_answers_now(quota: Quota, wait: Duration) -> Self {
        Self::over_quota(
            quota,
            wait,
            "answers-rate-limited",
            "Too many answers from this channel",
            "the header 'Retry-After' says when to post it again",
        )
    }

    /// The delivery already has the most answers it may have.
    pub(crate) fn too_many_answers(detail: String) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "too-many-answers",
            "The delivery has the maximum number of answers",
            detail,
        )
    }

    /// The key exceeds its rate.
    pub(crate) fn rate_limited(per_second: u32, wait: Duration) -> Self {
        Self::over_quota(
            Quota::per_second("requests-per-key", per_second),
            wait,
            "rate-limited",
            "Too many requests with this key",
            "the header 'Retry-After' says when to try again",
        )
    }
}
