//! The HTTP API: channels, messages in, answers in.
//!
//! Invariant: a 202 is sent only after the broker has taken the message for good; a request that
//! gets any other answer has enqueued nothing, or is told that it may have.

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
mod messages;
mod parameters;
mod problem;
mod replays;

#[cfg(test)]
mod testing;

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use roundtrip_broker::SharedBroker;
use roundtrip_egress::Guard;
use roundtrip_journal::Journal;
use roundtrip_model::{Clock, TokenKey};
use roundtrip_store::{CachedChannels, SharedStore};
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;

pub use config::Config;

use crate::problem::Problem;

/// What the handlers share.
#[derive(Clone)]
pub struct Ingress {
    broker: SharedBroker,
    store: SharedStore,
    known: Arc<CachedChannels>,
    journal: Journal,
    /// Knows the tokens that answers bring.
    tokens: TokenKey,
    clock: Arc<dyn Clock>,
    /// Where channels answer to, for messages that name no `response_url`.
    own_response_url: Arc<str>,
    guard: Arc<Guard>,
    limits: Config,
    under_way: Arc<Semaphore>,
    batches: Arc<Semaphore>,
}

/// What an ingress works with.
pub struct Parts {
    /// Takes messages and answers.
    pub broker: SharedBroker,
    /// Has the channels, and what happened to messages.
    pub store: SharedStore,
    /// The channels as they are known; may be shared with other roles of the process.
    pub known: Arc<CachedChannels>,
    /// Takes what happens here.
    pub journal: Journal,
    /// The key of the tokens that the dispatcher hands out.
    pub tokens: TokenKey,
    /// The gateway's own `/webhook-response`, as channels reach it.
    pub own_response_url: Arc<str>,
    /// Says which endpoints a channel may have.
    pub guard: Arc<Guard>,
    /// Tells the time of day.
    pub clock: Arc<dyn Clock>,
}

impl Ingress {
    /// An ingress that is made of these, and takes no more than this.
    #[must_use]
    pub fn new(limits: Config, parts: Parts) -> Self {
        let Parts {
            broker,
            store,
            known,
            journal,
            tokens,
            own_response_url,
            guard,
            clock,
        } = parts;
        Self {
            broker,
            store,
            known,
            journal,
            tokens,
            clock,
            own_response_url,
            guard,
            under_way: Arc::new(Semaphore::new(limits.max_requests_in_flight)),
            batches: Arc::new(Semaphore::new(batch::MAX_AT_ONCE)),
            limits,
        }
    }

    /// The API's routes, and beside them those of `more`; every limit applies to both.
    pub fn router(self, more: Router) -> Router {
        let limits = self.limits.clone();
        Router::new()
            .route("/channel", post(channels::create))
            .route(
                "/channel/{channel_id}",
                get(channels::read)
                    .put(channels::update)
                    .delete(channels::delete),
            )
            .route("/channel/{channel_id}/pause", post(channels::pause))
            .route("/channel/{channel_id}/resume", post(channels::resume))
            .route("/channels", post(channels::query))
            .route("/channel/message", post(messages::send))
            .route(
                "/channel/messages",
                post(batch::send).layer(DefaultBodyLimit::max(batch::MAX_BYTES)),
            )
            .route("/channel/message/{message_id}", get(history::timeline))
            .route("/messages", get(history::list))
            .route("/messages/replay", post(replays::messages))
            .route(
                "/dead-letters",
                get(dead_letters::list).delete(dead_letters::purge),
            )
            .route("/dead-letters/replay", post(replays::dead_letters))
            .route(
                "/replays/{replay_id}",
                get(replays::read).delete(replays::cancel),
            )
            .route("/webhook-response", post(callback::receive))
            .route("/openapi.json", get(document::json))
            .route("/docs", get(document::docs))
            .method_not_allowed_fallback(async || Problem::method_not_allowed())
            .fallback(async || Problem::unknown_path())
            .with_state(self.clone())
            .merge(more)
            .layer(DefaultBodyLimit::max(limits.max_body_bytes))
            .layer(middleware::from_fn_with_state(self, shed_load))
            .layer(CatchPanicLayer::custom(|_panic| {
                Problem::internal().into_response()
            }))
    }
}

/// Refuses a request beyond the limit at once: a queue of requests would be memory without bound.
async fn shed_load(State(ingress): State<Ingress>, request: Request, next: Next) -> Response {
    match ingress.under_way.try_acquire() {
        Ok(_permit) => next.run(request).await,
        Err(_none_left) => Problem::overloaded().into_response(),
    }
}
