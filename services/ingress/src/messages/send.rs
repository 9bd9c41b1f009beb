//! `POST /channel/message`: a message in.

use axum::{
    Json as JsonBody,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{
    accept::SendMessage,
    idempotency::{Key, REPLAYED, accept_one},
};
use crate::{auth::Principal, ingress::Ingress, json::body::RelayedJson, problem::Problem};

pub(crate) async fn send(
    State(ingress): State<Ingress>,
    principal: Principal,
    key: Option<Key>,
    RelayedJson(send): RelayedJson<SendMessage>,
) -> Result<Response, Problem> {
    let mut accepted = accept_one(&ingress, &principal, key.as_ref(), send).await?;
    // The same bytes as the first response; only the header differs.
    let again = std::mem::take(&mut accepted.again);
    let location = [(
        header::LOCATION,
        format!("/channel/message/{}", accepted.message_id),
    )];
    let mut response = (StatusCode::ACCEPTED, location, JsonBody(accepted)).into_response();
    if again {
        let headers = response.headers_mut();
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}
