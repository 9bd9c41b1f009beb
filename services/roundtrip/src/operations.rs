//! The operations port: is the process alive, and is it of use.
//!
//! Readiness follows the broker alone: known channels are served through a store outage, so a
//! store that is away must not take the gateway out of its load balancer. The answer tells both, and
//! which answers the forwarder holds back.

use std::time::Duration;

use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use roundtrip_broker::{SharedBroker, Status};
use roundtrip_forwarder::AnsweredBy;
use roundtrip_isolation::admission::{Admission, Held};
use roundtrip_store::SharedChannels;
use serde_json::json;

use crate::listener::Limits;

/// What the connections of this port may take: those of probes and scrapers.
pub(crate) const LIMITS: Limits = Limits {
    connections: 256,
    header_bytes: 16 << 10,
    header_timeout: Duration::from_secs(10),
    idle_timeout: Duration::from_secs(75),
};

/// What readiness is asked of.
#[derive(Clone)]
pub(crate) struct Operations {
    pub broker: SharedBroker,
    pub channels: SharedChannels,
    /// Where the process forwards answers.
    pub answers: Option<Admission<AnsweredBy>>,
}

impl Operations {
    pub(crate) fn router(self) -> Router {
        Router::new()
            .route("/healthz", get(async || Json(json!({"status": "alive"}))))
            .route("/readyz", get(readyz))
            .with_state(self)
    }
}

async fn readyz(State(operations): State<Operations>) -> impl IntoResponse {
    let broker = operations.broker.status();
    let warnings = operations.broker.warnings();
    let (status, word) = if broker == Status::Ready {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready")
    };
    let broker = match broker {
        Status::Ready => "ready".to_owned(),
        Status::Blocked(why) => format!("blocked: {why}"),
        Status::Away(why) => format!("away: {why}"),
    };
    let store = match operations.channels.ping().await {
        Ok(()) => "ready".to_owned(),
        Err(error) => error.to_string(),
    };
    let mut body = json!({
        "status": word, "broker": broker, "store": store, "warnings": warnings,
    });
    if let Some(answers) = &operations.answers {
        let Held { server, keys } = answers.held();
        body["sessions_server"] = match server {
            None => "ready".into(),
            Some(wait) => {
                let seconds = wait.as_secs_f64().ceil();
                format!("fails: answers wait, the next try is in {seconds} s").into()
            }
        };
        body["channels_with_held_answers"] = keys.into();
    }
    (status, Json(body))
}
