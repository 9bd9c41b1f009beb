//! `POST /channel/message`: a message in, and its answer if the producer waits for it.

use axum::{
    Extension, Json as JsonBody,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use roundtrip_model::MessageId;
use roundtrip_store::AnswerRecord;
use tokio::time::Instant;

use super::{
    accept::SendMessage,
    idempotency::{Key, REPLAYED, accept_one},
    prefer,
};
use crate::{
    auth::Principal,
    ingress::Ingress,
    json::body::RelayedJson,
    limits::BodyBudget,
    problem::Problem,
    waiters::{Waited, Waiter},
};

pub(crate) async fn send(
    State(ingress): State<Ingress>,
    principal: Principal,
    headers: HeaderMap,
    Extension(budget): Extension<BodyBudget>,
    key: Option<Key>,
    RelayedJson(send): RelayedJson<SendMessage>,
) -> Result<Response, Problem> {
    let wait = prefer::wait(&headers, ingress.limits.max_wait)?;
    let deadline = wait.map(|wait| Instant::now() + wait);
    let message_id = MessageId::generate();
    // Before the message is published, because its answer may come at once.
    let waiter = deadline
        .map(|_| ingress.waiters.begin(message_id))
        .transpose()?;
    let mut accepted = accept_one(&ingress, &principal, key.as_ref(), message_id, send).await?;
    budget.release();
    let (id, was_accepted_before) = (accepted.message_id, accepted.message_id != message_id);
    let answer = match (deadline, waiter) {
        (Some(deadline), Some(_)) if was_accepted_before => {
            let waiter = ingress.waiters.begin(id).ok();
            match (first_answer(&ingress, &id).await, waiter) {
                (None, Some(waiter)) => answer(&ingress, waiter, deadline).await,
                (found, _) => found,
            }
        }
        (Some(deadline), Some(waiter)) => answer(&ingress, waiter, deadline).await,
        _ => None,
    };
    // The same bytes as the first response; only the header differs.
    let again = std::mem::take(&mut accepted.again);
    let location = [(header::LOCATION, format!("/channel/message/{id}"))];
    let mut response = match answer {
        Some(answer) => {
            let body = JsonBody(accepted.with_answer(answer));
            (StatusCode::OK, location, [prefer::applied()], body).into_response()
        }
        None => (StatusCode::ACCEPTED, location, JsonBody(accepted)).into_response(),
    };
    if again {
        let headers = response.headers_mut();
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// Waits for an answer. `None` if none comes in time.
async fn answer(ingress: &Ingress, mut waiter: Waiter, deadline: Instant) -> Option<AnswerRecord> {
    match waiter.wait(deadline).await {
        Waited::Answer(answer) => Some((*answer).clone()),
        Waited::Ended => first_answer(ingress, &waiter.message_id()).await,
        Waited::InVain => None,
    }
}

/// The message's first answer in the store. `None` also while the store is unavailable, because the
/// message was accepted and the response must say so.
async fn first_answer(ingress: &Ingress, id: &MessageId) -> Option<AnswerRecord> {
    let stored = ingress.store.answers(id).await.ok()?;
    stored.answers.into_iter().next()
}
