//! The HTTP API: channels, messages in, answers in.
//!
//! Invariant: a 202 is sent only after the broker has taken the message for good; a request that
//! gets any other answer has enqueued nothing, or is told that it may have.

mod body;
mod callback;
mod channels;
mod config;
mod messages;
mod problem;

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use roundtrip_broker::SharedBroker;
use roundtrip_model::Clock;
use roundtrip_store::{CachedChannels, SharedChannels};
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;

pub use config::Config;

use crate::problem::Problem;

/// What the handlers share.
#[derive(Clone)]
pub struct Ingress {
    broker: SharedBroker,
    channels: SharedChannels,
    known: Arc<CachedChannels>,
    clock: Arc<dyn Clock>,
    /// Where channels answer to, for messages that name no `response_url`.
    own_response_url: Arc<str>,
    limits: Config,
    under_way: Arc<Semaphore>,
}

impl Ingress {
    /// An ingress before this broker and store. `known` may be shared with other roles of the
    /// process; `own_response_url` is the gateway's own `/webhook-response`, as channels reach it.
    #[must_use]
    pub fn new(
        limits: Config,
        broker: SharedBroker,
        channels: SharedChannels,
        known: Arc<CachedChannels>,
        own_response_url: &str,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            broker,
            channels,
            known,
            clock,
            own_response_url: own_response_url.into(),
            under_way: Arc::new(Semaphore::new(limits.max_requests_in_flight)),
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
            .route("/webhook-response", post(callback::receive))
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
