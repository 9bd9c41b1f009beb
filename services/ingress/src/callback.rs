//! `POST /webhook-response`: an answer in.

use axum::{Json as JsonBody, extract::State, http::StatusCode, response::IntoResponse};
use roundtrip_broker::{Parcel, Route};
use roundtrip_model::{Callback, CallbackId, SessionId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Ingress, body::Json, messages::encode, problem::Problem};

/// The body of `POST /webhook-response`. Channel servers are other people's: what else they put
/// into it is passed over.
#[derive(Debug, Deserialize)]
pub(crate) struct Answer {
    session_id: SessionId,
    response_data: Box<RawValue>,
}

/// The answer to an answer that was taken.
#[derive(Debug, Serialize)]
struct Accepted {
    success: bool,
}

pub(crate) async fn receive(
    State(ingress): State<Ingress>,
    Json(answer): Json<Answer>,
) -> Result<impl IntoResponse, Problem> {
    let callback = Callback {
        callback_id: CallbackId::generate(),
        session_id: answer.session_id,
        message_id: None,
        channel_id: None,
        response_data: answer.response_data,
    };
    let parcel = Parcel {
        id: callback.callback_id.to_string(),
        tries: 0,
        round: 0,
        accepted_at: ingress.clock.now(),
        dead: None,
        body: encode(&callback)?,
    };
    ingress.broker.publish(Route::Callbacks, parcel).await?;
    Ok((StatusCode::ACCEPTED, JsonBody(Accepted { success: true })))
}
