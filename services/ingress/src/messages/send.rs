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
    waiters::{Waited, Waiter, has_answer, recorded},
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
    let message_id = match wait {
        Some(_) => ingress.waiters.message_id(),
        None => MessageId::generate(),
    };
    // Before the message is published, because its answer may come at once.
    let waiting = match wait {
        Some(wait) => {
            let waiter = ingress.waiters.begin(&principal, message_id)?;
            Some((waiter, Instant::now() + wait))
        }
        None => None,
    };
    let mut accepted = accept_one(&ingress, &principal, key.as_ref(), message_id, send).await?;
    budget.release();
    let id = accepted.message_id;
    let again = std::mem::take(&mut accepted.again);
    let answer = match waiting {
        Some((waiter, deadline)) if id == message_id => answer(&ingress, waiter, deadline).await,
        Some((waiter, deadline)) => {
            // The message has the id of an earlier request. It takes over the place.
            drop(waiter);
            match ingress.waiters.begin(&principal, id) {
                Ok(waiter) => answer(&ingress, waiter, deadline).await,
                Err(_) => recorded(&ingress.store, &id, None, Instant::now()).await,
            }
        }
        None => None,
    };
    let location = [(header::LOCATION, format!("/channel/message/{id}"))];
    // The key may have been revoked meanwhile.
    let answer = answer.filter(|_| ingress.authenticator.still_admits(&principal));
    let with_answer = answer.map(|answer| accepted.with_answer(answer));
    // Without room for the answer the response is that of an unanswered message.
    let answered = with_answer.and_then(|body| ingress.response_budget.json(&body, ()).ok());
    let mut response = match answered {
        Some(answered) => (location, [prefer::applied()], answered).into_response(),
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
        Waited::Ended(state) => {
            // The entry of a forward can be in the store before the answer is.
            let until = if has_answer(state) {
                deadline
            } else {
                Instant::now()
            };
            recorded(&ingress.store, &waiter.message_id(), None, until).await
        }
        Waited::InVain => None,
    }
}
