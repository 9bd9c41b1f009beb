//! Decides whether a call is allowed.
//!
//! Invariant: no handler runs before its call is allowed. A 401 is the same for a missing, a wrong,
//! an expired and an unknown key.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{FromRequestParts, RawPathParams, Request, State},
    http::{HeaderMap, HeaderValue, Uri, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use roundtrip_model::{Clock, KeyHash, PresentedKey};
use roundtrip_store::SharedStore;
use tokio::time::Instant;

use super::{
    access::Access,
    key_snapshot::{self, ApiKeySnapshot, Reading},
    loopback_only::LoopbackOnly,
    principal::Principal,
};
use crate::{
    config::Config,
    problem::{Kind, Problem},
};

/// A longer text cannot be a key and is not even hashed.
pub const MAX_KEY_BYTES: usize = 512;

const CHANNEL: &str = "channel_id";

#[derive(Debug, Clone, Default)]
pub struct KeySettings {
    /// Whether a call without a key is refused. A call with a wrong key always is.
    pub required: bool,
    pub operator: Option<KeyHash>,
    /// How long keys are used before they are read again.
    pub time_to_live: Duration,
}

pub(crate) struct Authenticator {
    required: bool,
    operator: Option<KeyHash>,
    key_snapshot: ApiKeySnapshot,
    clock: Arc<dyn Clock>,
    loopback_only: LoopbackOnly,
}

impl Authenticator {
    /// Starts to read keys. Must be called within a runtime.
    pub(crate) fn start(
        settings: &KeySettings,
        limits: &Config,
        store: SharedStore,
        clock: Arc<dyn Clock>,
        own_url: &str,
    ) -> Self {
        let reading = Reading {
            time_to_live: settings.time_to_live,
            max_age: limits.keys_max_age,
            default_rate: limits.rate_per_key,
        };
        Self {
            required: settings.required,
            operator: settings.operator,
            key_snapshot: ApiKeySnapshot::start(store, Arc::clone(&clock), reading),
            clock,
            loopback_only: LoopbackOnly::new(own_url),
        }
    }

    /// Reads the keys again, so that this process sees what it just wrote.
    pub(crate) async fn read_again(&self) {
        self.key_snapshot.read_again().await;
    }

    /// Why calls with a key from the store are refused now, if they are.
    pub(crate) fn unready(&self) -> Option<&'static str> {
        self.required.then(|| self.key_snapshot.unready()).flatten()
    }

    /// Allows a call without a key. Where keys are required, such a call is open to all. Where they
    /// are not, it must come from this machine.
    pub(crate) fn allow_keyless(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        if self.required {
            return Ok(());
        }
        self.loopback_only.allow(uri, headers)
    }

    async fn admit(&self, access: Access, head: &mut Parts) -> Result<Principal, Problem> {
        let principal = self.identify(head).await?;
        principal.take_rate(Instant::now())?;
        if !access.includes(principal.role()) {
            let needed = match access {
                Access::Roles(roles) | Access::SignedOr(roles) => roles,
                Access::Open | Access::AnyKey => &[],
            };
            return Err(Problem::other_role(needed, principal.role()));
        }
        // Checked here and not in each handler, so that a new path with a channel cannot forget it.
        if principal.channels().is_some()
            && let Ok(parameters) = RawPathParams::from_request_parts(head, &()).await
        {
            for (name, id) in &parameters {
                if name == CHANNEL {
                    principal.allow_named(id)?;
                }
            }
        }
        Ok(principal)
    }

    async fn identify(&self, head: &Parts) -> Result<Principal, Problem> {
        let mut presented = head.headers.get_all(header::AUTHORIZATION).iter();
        let Some(first) = presented.next() else {
            if self.required {
                return Err(self.refuse());
            }
            self.allow_keyless(&head.uri, &head.headers)?;
            return Ok(Principal::Anybody);
        };
        match (bearer(first), presented.next()) {
            (Some(text), None) => self.recognise(text).await,
            _ => Err(self.refuse()),
        }
    }

    async fn recognise(&self, text: &str) -> Result<Principal, Problem> {
        let presented = text.parse::<PresentedKey>();
        let hash = presented.map_or_else(|_no_key| KeyHash::of(text), |presented| presented.hash);
        if self.operator == Some(hash) {
            return Ok(Principal::Configured);
        }
        let Ok(PresentedKey { key_id, .. }) = presented else {
            return Err(self.refuse());
        };
        match self.key_snapshot.find(key_id).await {
            Ok(Some(cached))
                if cached.key.hash == hash && cached.key.is_active(self.clock.now()) =>
            {
                Ok(Principal::Key(cached))
            }
            Ok(_) => Err(self.refuse()),
            Err(key_snapshot::Unavailable) => Err(Problem::from(Kind::StoreUnavailable)),
        }
    }

    /// Whether a call that began some time ago could begin now: its key is neither revoked nor expired,
    /// as far as this process knows.
    pub(crate) fn still_admits(&self, principal: &Principal) -> bool {
        match principal {
            Principal::Anybody | Principal::Configured => true,
            Principal::Key(cached) => {
                cached.key.is_active(self.clock.now()) && self.key_snapshot.has(cached.key.key_id)
            }
        }
    }

    fn refuse(&self) -> Problem {
        self.key_snapshot.count_refusal();
        Problem::from(Kind::NoValidKey)
    }
}

pub(crate) fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
    let key = key.trim_start_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && (1..=MAX_KEY_BYTES).contains(&key.len()))
        .then_some(key)
}

pub(crate) async fn guard(
    State((authenticator, access)): State<(Arc<Authenticator>, Access)>,
    request: Request,
    next: Next,
) -> Response {
    let has_key = request.headers().contains_key(header::AUTHORIZATION);
    if access == Access::Open || (matches!(access, Access::SignedOr(_)) && !has_key) {
        return next.run(request).await;
    }
    let (mut head, body) = request.into_parts();
    match authenticator.admit(access, &mut head).await {
        Ok(principal) => {
            head.extensions.insert(principal);
            next.run(Request::from_parts(head, body)).await
        }
        Err(problem) => problem.into_response(),
    }
}

#[cfg(test)]
mod tests;
