//! What is told to those who may not do what they asked for.
//!
//! Invariant: a 401 says nothing of what is wrong with a key or a token, and a 403 goes only to who
//! has shown a good key, or needs none.

use std::time::Duration;

use axum::http::StatusCode;
use roundtrip_model::{KeyRole, key::Beyond};

use super::{KIND, Problem};

impl Problem {
    /// No key, or none that is good; which of them is not told.
    pub(crate) fn no_key() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "no-valid-key",
            "A valid API key is needed",
            "send one with the header 'Authorization: Bearer rt_…'",
        )
    }

    /// An answer that brings no token, or one that is worth nothing; which of them is not told.
    pub(crate) fn answer_refused() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "answer-refused",
            "The answer cannot be taken",
            "post it to the 'response_url' as the delivery named it, in the delivery's session and \
             before its token ends",
        )
    }

    /// Keys cannot be looked up.
    pub(crate) fn keys_away() -> Self {
        Self::unavailable("store-away", "The store is away", "try again in a moment")
    }

    /// Where no key is needed: a web page's request, or one for another host.
    pub(crate) fn not_this_machine() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "not-this-machine",
            "Without a key this is for programs on this machine",
            "in development a request without an API key must have a 'Host' that is localhost, a \
             loopback address or the host of 'public_url', and so must be its 'Origin', where it \
             has one; without one it must not have 'Sec-Fetch-Site: cross-site'; send an API key, \
             or set 'public_url'",
        )
    }

    /// The key's role does not allow the call; operators' keys always do.
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
                "this call needs a key with the role {}; this one's is {role}",
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

    /// A key was asked for that may do more than the key that asks for it.
    pub(crate) fn wider_key(beyond: Beyond) -> Self {
        let (field, problem) = match beyond {
            Beyond::Channels => ("channels", "must be some of this key's own channels"),
            Beyond::Rate => (
                "rate_per_second",
                "must be there, and not higher than this key's own",
            ),
            Beyond::End => ("expires_at", "must not be later than this key's own"),
        };
        Self {
            kind: format!("{KIND}wider-key"),
            title: "A key cannot make one that may do more",
            status: StatusCode::FORBIDDEN.as_u16(),
            ..Self::invalid_field(field, problem)
        }
    }

    /// The channel has had its answers for now.
    pub(crate) fn too_many_answers_now(wait: Duration) -> Self {
        Self {
            retry_after: Some(whole_seconds(wait)),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "answers-rate-limited",
                "Too many answers of this channel",
                "the header 'Retry-After' says when to post it again",
            )
        }
    }

    /// The delivery has as many answers as it can have.
    pub(crate) fn too_many_answers(detail: String) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "too-many-answers",
            "The delivery has as many answers as it can have",
            detail,
        )
    }

    /// The key has had its requests for now.
    pub(crate) fn rate_limited(wait: Duration) -> Self {
        Self {
            retry_after: Some(whole_seconds(wait)),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "rate-limited",
                "Too many requests with this key",
                "the header 'Retry-After' says when to try again",
            )
        }
    }
}

/// A wait as the header `Retry-After` has it: in whole seconds, and never too short.
fn whole_seconds(wait: Duration) -> Duration {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    Duration::from_secs(seconds.max(1))
}
