//! The table of all calls and who may make them.
//!
//! Invariant: every route comes from this table, and every row states its access.

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    handler::Handler,
    http::Method,
    middleware::{from_fn, from_fn_with_state},
    response::IntoResponse,
    routing::{MethodFilter, MethodRouter, on},
};
use roundtrip_model::KeyRole;
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    auth::{Access, api_keys, authenticator::guard},
    callback, channels, document,
    history::{self, dead_letters, replays, waiting},
    inbound,
    ingress::Ingress,
    limits::requests,
    messages::{self, batch},
    metrics,
    problem::{Kind, Problem},
    request_id,
};

const READS: Access = Access::Roles(&[KeyRole::Viewer]);
const SENDS: Access = Access::Roles(&[KeyRole::Producer]);
/// Reads one message, whose id its sender knows.
const FOLLOWS: Access = Access::Roles(&[KeyRole::Producer, KeyRole::Viewer]);
/// For operators only: [`Access::Roles`] always includes them.
const OPERATES: Access = Access::Roles(&[]);

fn table() -> Vec<Call> {
    vec![
        post("/channel", OPERATES, channels::create),
        get("/channel/{channel_id}", READS, channels::read),
        put("/channel/{channel_id}", OPERATES, channels::update),
        delete("/channel/{channel_id}", OPERATES, channels::delete),
        post("/channel/{channel_id}/pause", OPERATES, channels::pause),
        post("/channel/{channel_id}/resume", OPERATES, channels::resume),
        post("/channel/{channel_id}/retry", OPERATES, waiting::retry),
        get("/channel/{channel_id}/waiting", READS, waiting::summary),
        post(
            "/channel/{channel_id}/secret/rotate",
            OPERATES,
            channels::rotate,
        ),
        post(
            "/channel/{channel_id}/inbound",
            Access::SignedOr(&[KeyRole::Channel]),
            inbound::receive,
        ),
        post("/channels", READS, channels::query),
        post("/channel/message", SENDS, messages::send),
        post("/channel/messages", SENDS, batch::send),
        get(
            "/channel/message/{message_id}",
            FOLLOWS,
            history::messages::timeline,
        ),
        post(
            "/channel/message/{message_id}/retry",
            OPERATES,
            waiting::retry_one,
        ),
        post(
            "/channel/message/{message_id}/cancel",
            SENDS,
            waiting::cancel,
        ),
        get("/messages", READS, history::messages::list),
        get(
            "/sessions/{session_id}",
            READS,
            history::sessions::conversation,
        ),
        get(
            "/sessions/{session_id}/events",
            READS,
            history::events::follow,
        ),
        delete("/sessions/{session_id}", OPERATES, history::sessions::erase),
        post("/messages/replay", OPERATES, replays::messages),
        post("/answers/replay", OPERATES, replays::answers),
        get("/dead-letters", READS, dead_letters::list),
        delete("/dead-letters", OPERATES, dead_letters::purge),
        post("/dead-letters/replay", OPERATES, replays::dead_letters),
        get("/replays", READS, replays::list),
        get("/replays/{replay_id}", READS, replays::read),
        post("/replays/{replay_id}/cancel", OPERATES, replays::cancel),
        post("/api-keys", OPERATES, api_keys::create),
        get("/api-keys", OPERATES, api_keys::list),
        delete("/api-keys/{key_id}", OPERATES, api_keys::revoke),
        // A channel server presents the token in its response URL, and needs no API key.
        post("/webhook-response", Access::Open, callback::receive),
        // A browser cannot present a key, and these documents reveal nothing about this gateway.
        get("/openapi.json", Access::Open, document::json),
        get("/docs", Access::Open, document::docs),
        get("/docs/{file}", Access::Open, document::file),
    ]
}

pub fn calls() -> Vec<(Method, &'static str, Access)> {
    let calls = table().into_iter();
    calls
        .map(|call| (call.method, call.path, call.access))
        .collect()
}

impl Ingress {
    /// The API's routes, and those of `more` for development. The latter need any key, or none
    /// where keys are not required. Every limit applies to both.
    pub fn router(self, more: Router) -> Router {
        let max_body_bytes = self.limits.max_body_bytes;
        metrics::know(table().into_iter().map(|call| (call.method, call.path)));
        table_router(&self)
            .merge(opened_by_any_key(&self, more))
            // For the routes of `more`; the API's own handlers bound their bodies themselves.
            .layer(DefaultBodyLimit::max(max_body_bytes))
            .layer(from_fn_with_state(self, requests::enforce))
            .layer(CatchPanicLayer::custom(|_panic| {
                Problem::from(Kind::Internal).into_response()
            }))
            // Around all that responds: every response has an id, and every problem names it.
            .layer(from_fn(request_id::name))
            .layer(from_fn(metrics::measure))
    }
}

/// The router of the table. An unknown path needs a key too, so that strangers cannot probe for
/// paths.
fn table_router(ingress: &Ingress) -> Router {
    let guarded = |access| from_fn_with_state((Arc::clone(&ingress.authenticator), access), guard);
    let unknown_path = async || Problem::from(Kind::UnknownPath);
    let method_not_allowed = async || Problem::from(Kind::MethodNotAllowed);
    let mut router = Router::new();
    for call in table() {
        router = router.route(call.path, call.handler.route_layer(guarded(call.access)));
    }
    router
        .method_not_allowed_fallback(method_not_allowed.layer(guarded(Access::AnyKey)))
        .fallback(unknown_path.layer(guarded(Access::AnyKey)))
        .with_state(ingress.clone())
}

/// Further routes, for any key. They are not in the table because they are not part of the API.
fn opened_by_any_key(ingress: &Ingress, routes: Router) -> Router {
    let state = (Arc::clone(&ingress.authenticator), Access::AnyKey);
    routes.layer(from_fn_with_state(state, guard))
}

struct Call {
    method: Method,
    path: &'static str,
    access: Access,
    handler: MethodRouter<Ingress>,
}

impl Call {
    fn new<H, T>(method: Method, path: &'static str, access: Access, handler: H) -> Self
    where
        H: Handler<T, Ingress>,
        T: 'static,
    {
        // The table uses only methods that axum knows.
        let filter = MethodFilter::try_from(method.clone()).unwrap_or(MethodFilter::TRACE);
        Self {
            method,
            path,
            access,
            handler: on(filter, handler),
        }
    }
}

/// Declares a constructor of rows for each method.
macro_rules! methods {
    ($($name:ident $method:ident),+) => {
        $(
            fn $name<H, T>(path: &'static str, access: Access, handler: H) -> Call
            where
                H: Handler<T, Ingress>,
                T: 'static,
            {
                Call::new(Method::$method, path, access, handler)
            }
        )+
    };
}

methods! { get GET, post POST, put PUT, delete DELETE }
