//! Errors of authentication and authorization.
//!
//! Invariant: a 401 never says what is wrong with a key or a token. A 403 goes only to a principal
//! with a valid key, or to anybody where no key is required.

use std::time::Duration;

use roundtrip_model::{KeyRole, key::ScopeViolation};

use super::{Kind, Problem, Quota};

impl Problem {
    pub(crate) fn other_role(needed: &[KeyRole], role: KeyRole) -> Self {
        let needed: Vec<&str> = std::iter::once(&KeyRole::Operator)
            .chain(needed)
            .map(|role| role.as_str())
            .collect();
        let needed = needed.join(" or ");
        let detail =
            format!("this call needs a key with the role {needed}; this key has the role {role}");
        Self::new(Kind::RoleNotAllowed, detail)
    }

    pub(crate) fn other_channel(id: &str) -> Self {
        let detail = format!("this key may not use the channel '{id}'");
        Self::new(Kind::ChannelNotAllowed, detail)
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
        Self::of_field(Kind::WiderKey, field, problem)
    }

    pub(crate) fn answer_rate_limited(per_second: u32, wait: Duration) -> Self {
        let quota = Quota::per_second("answers-per-channel", per_second);
        Self::over_quota(quota, wait, Kind::AnswersRateLimited)
    }

    /// Another answer to the same delivery is being published.
    pub(crate) fn answers_queue(wait: Duration) -> Self {
        let quota = Quota::concurrent("answers-per-delivery", 1);
        Self::over_quota(quota, wait, Kind::AnswersRateLimited)
    }

    pub(crate) fn rate_limited(per_second: u32, wait: Duration) -> Self {
        let quota = Quota::per_second("requests-per-key", per_second);
        Self::over_quota(quota, wait, Kind::RateLimited)
    }
}
