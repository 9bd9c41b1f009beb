//! The HTTP API: channels, messages in, answers in.
//!
//! Invariant: a 202 is sent only after the broker has confirmed the message. After any other answer
//! nothing was enqueued, unless the answer says that it may have been.

mod access;
mod api_keys;
mod batch;
mod body;
mod callback;
mod channels;
mod config;
mod dead_letters;
mod document;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod history;
mod idempotency;
mod json;
mod limits;
mod messages;
mod pages;
mod parameters;
mod problem;
mod queries;
mod refusals;
mod replays;
mod request_id;
mod response_budget;
mod routes;
mod times;

#[cfg(test)]
mod testing;

use std::{ops::Deref, sync::Arc};

use axum::{Router, extract::DefaultBodyLimit, middleware, response::IntoResponse};
use roundtrip_broker::SharedBroker;
use roundtrip_egress::Guard;
use roundtrip_journal::Journal;
use roundtrip_model::{Clock, SealingKeys, TokenKeys};
use roundtrip_store::{CachedChannels, SharedStore};
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;

pub use access::{Access, KeySettings, MAX_KEY_BYTES, for_this_machine};
pub use config::{CallbackAuth, Config, ConfigError, Tls};
pub use routes::calls;

use crate::{
    access::Authenticator,
    callback::limits::AnswerLimits,
    problem::{Kind, Problem},
    queries::Queries,
    refusals::Refusals,
    response_budget::ResponseBudget,
};

/// The state of the handlers. It is cloned several times a request, which only increments a
/// counter.
#[derive(Clone)]
pub struct Ingress(Arc<IngressState>);

impl Deref for Ingress {
    type Target = IngressState;

    fn deref(&self) -> &IngressState {
        &self.0
    }
}

pub struct IngressState {
    broker: SharedBroker,
    store: SharedStore,
    known: Arc<CachedChannels>,
    journal: Journal,
    /// Checks the tokens of answers.
    tokens: TokenKeys,
    callback_auth: CallbackAuth,
    refusals: Arc<Refusals>,
    answer_limits: AnswerLimits,
    /// Seals the secrets of channels.
    sealing: SealingKeys,
    clock: Arc<dyn Clock>,
    authenticator: Arc<Authenticator>,
    /// The `response_url` of messages that name none.
    own_response_url: Arc<str>,
    guard: Arc<Guard>,
    limits: Config,
    under_way: Semaphore,
    /// The free part of the byte budget of all bodies.
    bytes: Arc<Semaphore>,
    /// The budget of answers within it.
    response_budget: ResponseBudget,
    batches: Arc<Semaphore>,
    queries: Arc<Queries>,
}

/// What an ingress is built from.
pub struct Parts {
    /// Queues messages and answers.
    pub broker: SharedBroker,
    /// Holds the channels and the history of messages.
    pub store: SharedStore,
    /// The channel cache; other roles of the process may share it.
    pub known: Arc<CachedChannels>,
    /// Records what happens here.
    pub journal: Journal,
    /// The keys of the tokens that the dispatcher makes.
    pub tokens: TokenKeys,
    /// Whether an answer needs a token.
    pub callback_auth: CallbackAuth,
    /// The keys that seal the secrets of channels.
    pub sealing: SealingKeys,
    /// The gateway's own `/webhook-response`, as channels reach it.
    pub own_response_url: Arc<str>,
    /// Which API keys are accepted.
    pub keys: KeySettings,
    /// The rules for endpoints.
    pub guard: Arc<Guard>,
    pub clock: Arc<dyn Clock>,
}

impl Ingress {
    /// An ingress of these parts, with these limits. Must be called within a runtime.
    #[must_use]
    pub fn new(limits: Config, parts: Parts) -> Self {
        let Parts {
            broker,
            store,
            known,
            journal,
            tokens,
            callback_auth,
            sealing,
            own_response_url,
            keys,
            guard,
            clock,
        } = parts;
        let authenticator = Authenticator::start(
            &keys,
            &limits,
            Arc::clone(&store),
            Arc::clone(&clock),
            &own_response_url,
        );
        let bytes = Arc::new(Semaphore::new(limits.max_bytes_in_flight));
        Self(Arc::new(IngressState {
            authenticator: Arc::new(authenticator),
            broker,
            store,
            known,
            journal,
            tokens,
            callback_auth,
            refusals: Arc::default(),
            answer_limits: AnswerLimits::new(&limits),
            sealing,
            clock,
            own_response_url,
            guard,
            under_way: Semaphore::new(limits.max_requests_in_flight),
            response_budget: ResponseBudget::of(&bytes, limits.max_bytes_in_flight),
            queries: Arc::new(Queries::new()),
            bytes,
            batches: Arc::new(Semaphore::new(batch::MAX_AT_ONCE)),
            limits,
        }))
    }

    /// Why sends with a key from the store are refused now, if they are. For probes.
    #[must_use]
    pub fn unready(&self) -> Option<&'static str> {
        self.authenticator.unready()
    }

    /// The API's routes, and those of `more` for development. The latter need any key, or none
    /// where keys are not required. Every limit applies to both.
    pub fn router(self, more: Router) -> Router {
        let max_body_bytes = self.limits.max_body_bytes;
        routes::router(&self)
            .merge(routes::opened_by_any_key(&self, more))
            // For the routes of `more`; the API's own handlers bound their bodies themselves.
            .layer(DefaultBodyLimit::max(max_body_bytes))
            .layer(middleware::from_fn_with_state(self, limits::enforce))
            .layer(CatchPanicLayer::custom(|_panic| {
                Problem::from(Kind::Internal).into_response()
            }))
            // The outermost: every answer has an id, and every problem names it.
            .layer(middleware::from_fn(request_id::name))
    }
}
