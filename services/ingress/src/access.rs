//! Who may make which call: the key that a request presents, and what that key may do.
//!
//! Invariant: no handler runs before its call has been allowed. What is wrong with a key is told to
//! nobody: there is one answer for none, a wrong, an ended and an unknown one.

mod caller;
mod keyring;
mod near;

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{FromRequestParts, RawPathParams, Request, State},
    http::{HeaderMap, HeaderValue, Uri, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use roundtrip_model::{Clock, KeyHash, KeyRole, PresentedKey};
use roundtrip_store::SharedStore;
use tokio::time::Instant;

use crate::{Config, problem::Problem};
use keyring::{Keyring, Reading};
use near::Near;

pub(crate) use caller::Caller;
pub(crate) use near::authority;
pub use near::for_this_machine;

/// The longest text that can be a key; a longer one is not even hashed.
pub const MAX_KEY_BYTES: usize = 512;

/// The parameter of a path that names a channel.
const CHANNEL: &str = "channel_id";

/// Who may make a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Whoever comes. The call knows by other means whom it trusts, or tells nothing.
    Open,
    /// Whoever has a key.
    AnyKey,
    /// Keys of these roles, and operators.
    Roles(&'static [KeyRole]),
}

impl Access {
    fn includes(self, role: KeyRole) -> bool {
        match self {
            Self::Open | Self::AnyKey => true,
            Self::Roles(roles) => role == KeyRole::Operator || roles.contains(&role),
        }
    }
}

/// Whether keys are needed, and which there are.
#[derive(Debug, Clone, Default)]
pub struct KeySettings {
    /// Whether a call without a key is refused; one with a wrong key always is.
    pub required: bool,
    /// A key from the configuration, which is an operator's.
    pub operator: Option<KeyHash>,
    /// How long the keys that were read are used before they are read again.
    pub time_to_live: Duration,
}

/// Knows keys.
pub(crate) struct Doorkeeper {
    required: bool,
    operator: Option<KeyHash>,
    keyring: Keyring,
    clock: Arc<dyn Clock>,
    near: Near,
}

impl Doorkeeper {
    /// Begins to read keys. Must be called within a runtime.
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
            keyring: Keyring::start(store, Arc::clone(&clock), reading),
            clock,
            near: Near::new(own_url),
        }
    }

    /// Reads the keys anew, so that what was just written counts here from now on.
    pub(crate) async fn read_again(&self) {
        self.keyring.read_again().await;
    }

    /// Why no call with a key from the store is answered now; none where they are, or none is needed.
    pub(crate) fn unready(&self) -> Option<&'static str> {
        self.required.then(|| self.keyring.unready()).flatten()
    }

    /// Lets whoever comes without a key make a call that needs none. Where calls do, this is for
    /// what is open to all, and it is open; elsewhere it is for this machine.
    pub(crate) fn allow_keyless(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        if self.required {
            return Ok(());
        }
        self.near.allow(uri, headers)
    }

    /// Who makes this request, by what it presents.
    async fn identify(&self, head: &Parts) -> Result<Caller, Problem> {
        let mut presented = head.headers.get_all(header::AUTHORIZATION).iter();
        let Some(first) = presented.next() else {
            if self.required {
                return Err(self.refuse());
            }
            self.allow_keyless(&head.uri, &head.headers)?;
            return Ok(Caller::Anybody);
        };
        match (bearer(first), presented.next()) {
            (Some(text), None) => self.recognise(text).await,
            _ => Err(self.refuse()),
        }
    }

    async fn recognise(&self, text: &str) -> Result<Caller, Problem> {
        let presented = text.parse::<PresentedKey>();
        let hash = presented.map_or_else(|_no_key| KeyHash::of(text), |presented| presented.hash);
        if self.operator == Some(hash) {
            return Ok(Caller::Configured);
        }
        let Ok(PresentedKey { key_id, .. }) = presented else {
            return Err(self.refuse());
        };
        match self.keyring.find(key_id).await {
            Ok(Some(known)) if known.key.hash == hash && known.key.is_active(self.clock.now()) => {
                Ok(Caller::Key(known))
            }
            Ok(_) => Err(self.refuse()),
            Err(keyring::Away) => Err(Problem::keys_away()),
        }
    }

    fn refuse(&self) -> Problem {
        self.keyring.count_refusal();
        Problem::no_key()
    }
}

/// The key in the header `Authorization` (RFC 6750, 2.1).
pub(crate) fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
    let key = key.trim_start_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && (1..=MAX_KEY_BYTES).contains(&key.len()))
        .then_some(key)
}

/// Stands before a call, and lets in whom it may.
pub(crate) async fn guard(
    State((doorkeeper, access)): State<(Arc<Doorkeeper>, Access)>,
    request: Request,
    next: Next,
) -> Response {
    if access == Access::Open {
        return next.run(request).await;
    }
    let (mut head, body) = request.into_parts();
    match doorkeeper.admit(access, &mut head).await {
        Ok(caller) => {
            head.extensions.insert(caller);
            next.run(Request::from_parts(head, body)).await
        }
        Err(problem) => problem.into_response(),
    }
}

impl Doorkeeper {
    async fn admit(&self, access: Access, head: &mut Parts) -> Result<Caller, Problem> {
        let caller = self.identify(head).await?;
        if let Some(wait) = caller.blocked_for(Instant::now()) {
            return Err(Problem::rate_limited(wait));
        }
        if !access.includes(caller.role()) {
            let needed = match access {
                Access::Roles(roles) => roles,
                Access::Open | Access::AnyKey => &[],
            };
            return Err(Problem::other_role(needed, caller.role()));
        }
        // Here and not in each handler: a new path that names a channel must not be forgotten.
        if caller.channels().is_some()
            && let Ok(parameters) = RawPathParams::from_request_parts(head, &()).await
        {
            for (name, id) in &parameters {
                if name == CHANNEL {
                    caller.allow_named(id)?;
                }
            }
        }
        Ok(caller)
    }
}

#[cfg(test)]
mod tests;
