//! `POST /channel/message`: a message in.

use axum::{Json as JsonBody, extract::State, http::StatusCode, response::IntoResponse};
use bytes::Bytes;
use roundtrip_broker::{Parcel, Route};
use roundtrip_model::{
    ChannelId, MessageId, OutboundMessage, SessionId, channel::http_url, message::is_empty_json,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Ingress, body::Json, problem::Problem};

/// The body of `POST /channel/message`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SendMessage {
    channel_id: ChannelId,
    session_id: SessionId,
    message: Box<RawValue>,
    response_url: Option<String>,
}

/// The answer to a message that was taken.
#[derive(Debug, Serialize)]
struct Accepted {
    success: bool,
    message_id: MessageId,
    session_id: SessionId,
    status: &'static str,
}

pub(crate) async fn send(
    State(ingress): State<Ingress>,
    Json(send): Json<SendMessage>,
) -> Result<impl IntoResponse, Problem> {
    let SendMessage {
        channel_id,
        session_id,
        message,
        response_url,
    } = send;
    if is_empty_json(&message) {
        return Err(Problem::invalid_field("message", "must say something"));
    }
    if let Some(url) = &response_url {
        http_url(url).map_err(|problem| Problem::invalid_field("response_url", problem))?;
    }
    let channel = ingress.known.get(&channel_id).await?;
    // A channel that another client stored may lack one; its messages could only die.
    channel
        .endpoint()
        .map_err(|error| Problem::invalid([error]))?;

    let message = OutboundMessage {
        message_id: MessageId::generate(),
        channel_id,
        session_id,
        message,
        response_url: response_url.unwrap_or_else(|| ingress.own_response_url.to_string()),
    };
    let parcel = Parcel {
        id: message.message_id.to_string(),
        tries: 0,
        round: 0,
        accepted_at: ingress.clock.now(),
        dead: None,
        body: encode(&message)?,
    };
    ingress
        .broker
        .publish(Route::Outbound(&message.channel_id), parcel)
        .await?;
    Ok((
        StatusCode::ACCEPTED,
        JsonBody(Accepted {
            success: true,
            message_id: message.message_id,
            session_id: message.session_id,
            status: "queued",
        }),
    ))
}

/// Writes what a queue carries.
pub(crate) fn encode(value: &impl Serialize) -> Result<Bytes, Problem> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| {
        tracing::error!(%error, "a message could not be encoded");
        Problem::internal()
    })
}
