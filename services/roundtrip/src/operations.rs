//! The operations port: liveness, readiness and metrics.
//!
//! Readiness follows the broker. An ingress stays ready while the store is unavailable, because it
//! serves known channels and keys. One that started without the store knows none and is not ready.
//! The response gives the reason, and which answers the forwarder holds back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use roundtrip_broker::{SharedBroker, Status};
use roundtrip_delivery::{Admission, OpenBreakers};
use roundtrip_ingress::{Ingress, for_this_machine};
use roundtrip_metrics::CONTENT_TYPE;
use roundtrip_store::{CachedChannels, SharedChannels};
use serde_json::json;
use url::Url;

use crate::{listener::Limits, metrics::Metrics};

/// The connection limits of this port, which serves probes and scrapers.
pub(crate) const LIMITS: Limits = Limits {
    connections: 256,
    header_bytes: 16 << 10,
    header_timeout: Duration::from_secs(10),
    idle_timeout: Duration::from_secs(75),
};

#[derive(Clone)]
pub(crate) struct Operations {
    pub metrics: Arc<Metrics>,
    pub broker: SharedBroker,
    pub channels: SharedChannels,
    pub channel_cache: Arc<CachedChannels>,
    pub ingress: Option<Ingress>,
    /// Whether roles may make key files of their own. In production only a stranger would cause the
    /// warning about them.
    pub is_development: bool,
    pub answers: Option<Admission>,
    pub store_answered: Arc<AtomicBool>,
}

impl Operations {
    /// Why the ingress refuses every send, if it does.
    fn ingress_refuses(&self) -> Option<&'static str> {
        let ingress = self.ingress.as_ref()?;
        if !self.store_answered.load(Ordering::Relaxed) {
            return Some("no channel is known: the store has not answered since the start");
        }
        ingress.unready()
    }

    /// The port's routes; in development only for this machine, of which this is the gateway's URL.
    pub(crate) fn router(self, own_url: &Url) -> Router {
        let is_development = self.is_development;
        let router = Router::new()
            .route("/healthz", get(async || Json(json!({"status": "alive"}))))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self);
        if is_development {
            for_this_machine(router, own_url.as_str())
        } else {
            router
        }
    }
}

async fn metrics(State(operations): State<Operations>) -> impl IntoResponse {
    let text = operations.metrics.text().await;
    let text = text.map_err(|_error| StatusCode::INTERNAL_SERVER_ERROR);
    text.map(|text| ([(header::CONTENT_TYPE, CONTENT_TYPE)], text))
}

async fn readyz(State(operations): State<Operations>) -> impl IntoResponse {
    let broker = operations.broker.status();
    let mut warnings = operations.broker.warnings();
    let store = match operations.channels.ping().await {
        Ok(()) => {
            operations.store_answered.store(true, Ordering::Relaxed);
            "ready".to_owned()
        }
        Err(error) => error.to_string(),
    };
    let refuses = operations.ingress_refuses();
    let (status, word) = if broker == Status::Ready && refuses.is_none() {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready")
    };
    let broker = match broker {
        Status::Ready => "ready".to_owned(),
        Status::Blocked(why) => format!("blocked: {why}"),
        Status::Unavailable(why) => format!("unavailable: {why}"),
    };
    let unreadable = operations.channel_cache.unreadable_secrets();
    if unreadable > 0 {
        warnings.push(format!(
            "the signing secrets of {unreadable} channels cannot be decrypted with the \
             ENCRYPTION_KEYS of this process; their messages wait"
        ));
    }
    let foreign = operations.ingress.as_ref();
    let foreign = foreign.map_or(0, Ingress::answers_of_unknown_keys);
    if operations.is_development && foreign > 0 {
        warnings.push(format!(
            "{foreign} answers were refused: their tokens were made with another CALLBACK_SECRET or \
             callback.key; set the same CALLBACK_SECRET for the ingress and the dispatcher"
        ));
    }
    let mut body = json!({
        "status": word, "broker": broker, "store": store, "warnings": warnings,
    });
    if let Some(why) = refuses {
        body["ingress"] = why.into();
    }
    if let Some(answers) = &operations.answers {
        let OpenBreakers { server, keys } = answers.open_breakers();
        body["sessions_server"] = match server {
            None => "ready".into(),
            Some(wait) => {
                let seconds = wait.as_secs_f64().ceil();
                format!("fails: answers wait, the next attempt is in {seconds} s").into()
            }
        };
        body["channels_with_held_answers"] = keys.into();
    }
    (status, Json(body))
}
