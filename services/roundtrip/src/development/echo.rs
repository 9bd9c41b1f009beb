//! A channel server like the Flask example of the client's specification: takes a message and
//! answers to `response_url`.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use bytes::Bytes;
use roundtrip_delivery::{EgressPolicy, Webhook};
use roundtrip_egress::Egress;
use roundtrip_model::{CallbackId, Clock, Verdict, channel::http_url};
use serde::Deserialize;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;

#[derive(Deserialize)]
struct Incoming {
    session_id: String,
    message: Value,
    response_url: String,
}

#[derive(Clone)]
struct Echo {
    webhook: Webhook,
    clock: Arc<dyn Clock>,
}

pub(crate) fn router(clock: Arc<dyn Clock>, egress: Arc<Egress>) -> anyhow::Result<Router> {
    // The URL may be a producer's, so the egress rules apply.
    let egress_policy = EgressPolicy::Guarded(egress);
    let webhook = Webhook::new(&roundtrip_delivery::WebhookConfig::default(), egress_policy)?;
    Ok(Router::new()
        .route("/dev/echo/incoming", post(incoming))
        .with_state(Echo { webhook, clock }))
}

async fn incoming(State(echo): State<Echo>, Json(incoming): Json<Incoming>) -> Response {
    let url = match http_url(&incoming.response_url) {
        Ok(url) => url,
        Err(problem) => return failed(StatusCode::BAD_REQUEST, &format!("response_url {problem}")),
    };
    let text = match &incoming.message {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let now = echo.clock.now();
    let answer = json!({
        "session_id": incoming.session_id,
        "response_data": {
            "text": format!("Received message: '{text}'"),
            "platform": "Echo (development)",
            "timestamp": now.format(&Rfc3339).unwrap_or_default(),
        }
    });
    let id = CallbackId::generate().to_string();
    let outcome = echo
        .webhook
        .post(&url, &id, now, Bytes::from(answer.to_string()))
        .await;
    if outcome.verdict() == Verdict::Delivered {
        Json(json!({"success": true, "message": "Response sent"})).into_response()
    } else {
        failed(StatusCode::INTERNAL_SERVER_ERROR, &outcome.summary())
    }
}

fn failed(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({"success": false, "error": error}))).into_response()
}
