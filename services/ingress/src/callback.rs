//! `POST /webhook-response`: a channel's answer.
//!
//! Invariant: a bad token is refused before the body is read, and the check costs one MAC. The
//! reason is counted ([`Refusals`](refusals::Refusals)). The response gives it only if the channel of
//! a good token was deleted. [`AnswerLimits`](crate::limits::AnswerLimits) limit a good token.

pub(crate) mod refusals;

use std::{borrow::Cow, time::Instant};

use axum::{
    Json as JsonBody,
    extract::{FromRequest, RawQuery, Request, State},
    http::StatusCode,
    response::IntoResponse,
};
use roundtrip_broker::{Message, Route};
use roundtrip_model::{
    Callback, CallbackId, Entry, EntryId, Event, MessageKind, SessionId,
    journal::KeptAnswer,
    token::{Claims, Proven, QUERY, Refusal},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracing::Instrument;
use url::form_urlencoded;

use crate::{
    config::CallbackAuth,
    ingress::Ingress,
    json::body::RelayedJson,
    limits::BodyBudget,
    messages::accept::encode,
    metrics::{self, ACCEPT_DURATION, ACCEPT_TO_ANSWER, ACCEPTED},
    problem::{Kind, Problem},
};

/// The body of `POST /webhook-response`. Other people write channel servers, so unknown fields are
/// ignored.
#[derive(Debug, Deserialize)]
pub(crate) struct Answer {
    session_id: SessionId,
    pub(crate) response_data: Box<RawValue>,
}

#[derive(Debug, Serialize)]
struct Accepted {
    success: bool,
}

pub(crate) async fn receive(
    State(ingress): State<Ingress>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<impl IntoResponse, Problem> {
    let proven = ingress.proven(query.as_deref())?;
    let channel = proven.as_ref().map(Proven::channel_id);
    match &proven {
        Some(proven) => {
            let limits = &ingress.answer_limits;
            if !limits.has_channel(proven, &ingress.channel_cache).await {
                return Err(ingress.refuse(Refusal::UnknownChannel));
            }
        }
        None => ingress
            .authenticator
            .allow_keyless(request.uri(), request.headers())?,
    }
    ingress.answer_limits.take_rate(channel).await?;
    let budget = request.extensions().get::<BodyBudget>().cloned();
    let RelayedJson(answer) = RelayedJson::<Answer>::from_request(request, &ingress).await?;
    let Answer {
        session_id,
        response_data,
    } = answer;
    let (callback_id, claims) = match &proven {
        Some(proven) => {
            let claims = proven.claims(&session_id);
            let claims = claims.map_err(|refusal| ingress.refuse(refusal))?;
            (
                proven.callback_id(response_data.get()),
                Some(claims.clone()),
            )
        }
        None => (CallbackId::generate(), None),
    };
    let callback = Callback {
        callback_id: Some(callback_id),
        session_id,
        message_id: claims.as_ref().map(|claims| claims.message_id),
        channel_id: claims.as_ref().map(|claims| claims.channel_id.clone()),
        response_data,
    };
    let publish = {
        let ingress = ingress.clone();
        async move {
            // The body counts against the byte budget until it is published.
            let _held = budget;
            ingress.publish_answer(callback_id, callback, claims).await
        }
    };
    // A task of its own: if the client disconnects, the published answer must still be counted.
    tokio::spawn(publish.in_current_span())
        .await
        .map_err(|error| {
            tracing::error!(%error, "an answer was not published");
            Problem::from(Kind::Internal)
        })??;
    Ok((StatusCode::ACCEPTED, JsonBody(Accepted { success: true })))
}

impl Ingress {
    /// Publishes an answer, unless it was published before.
    async fn publish_answer(
        &self,
        callback_id: CallbackId,
        callback: Callback,
        claims: Option<Claims>,
    ) -> Result<(), Problem> {
        let began = Instant::now();
        let body = encode(&callback)?;
        let turn = match &claims {
            Some(claims) => {
                let turn = self
                    .answer_limits
                    .turn(claims.delivered(), callback_id, body.len());
                let Some(turn) = turn.await? else {
                    return Ok(());
                };
                Some(turn)
            }
            None => None,
        };
        let accepted_at = self.clock.now();
        // The replay count of the answered delivery, under which the journal records the answer.
        let replay_count = claims.map_or(0, |claims| claims.replay_count);
        let message = Message {
            replay_count,
            ..Message::new(callback_id.to_string(), accepted_at, body)
        };
        self.broker.publish(Route::Callbacks, message).await?;
        ACCEPTED.inc(metrics::Accepted::Answer);
        if let (Some(message_id), 0) = (callback.message_id, replay_count) {
            // Another machine's clock may be ahead.
            let age = (accepted_at - message_id.made_at()).try_into();
            ACCEPT_TO_ANSWER.observe((), age.unwrap_or_default());
        }
        if let Some(turn) = turn {
            turn.published();
        }
        let content = KeptAnswer::of(&callback.response_data, self.limits.max_kept_answer_bytes);
        let entry = Entry {
            entry_id: EntryId::generate(),
            message_id: callback.message_id,
            channel_id: callback.channel_id,
            session_id: callback.session_id,
            kind: MessageKind::Outbound,
            replay_count,
            at: accepted_at,
            event: Event::Answered {
                callback_id,
                content: Some(content),
            },
        };
        self.waiters.answered(&entry);
        self.record(entry).await;
        ACCEPT_DURATION.observe_since(metrics::Accepted::Answer, began);
        Ok(())
    }

    /// The token in the query, if any. It must be valid even where no token is required.
    fn proven(&self, query: Option<&str>) -> Result<Option<Proven<'_>>, Problem> {
        match (token(query), self.callback_auth) {
            (Some(token), _) => {
                let proven = self.tokens.check(&token, self.clock.now());
                proven.map(Some).map_err(|refusal| self.refuse(refusal))
            }
            (None, CallbackAuth::Open) => Ok(None),
            (None, CallbackAuth::Signed) => {
                self.refusals.missing();
                Err(Problem::from(Kind::AnswerRefused))
            }
        }
    }

    fn refuse(&self, refusal: Refusal) -> Problem {
        self.refusals.bad_token(refusal);
        match refusal {
            // Only the holder of a good token learns it.
            Refusal::UnknownChannel => Problem::new(
                Kind::AnswerRefused,
                "the channel of this delivery was deleted, and with it the delivery's token",
            ),
            _ => Problem::from(Kind::AnswerRefused),
        }
    }
}

/// The token in a query string: the last one, as the gateway appends its own.
pub(crate) fn token(query: Option<&str>) -> Option<Cow<'_, str>> {
    form_urlencoded::parse(query?.as_bytes())
        .filter(|(name, _)| name == QUERY)
        .last()
        .map(|(_, token)| token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_token_counts_and_nothing_else_does() {
        for (query, expected) in [
            (None, None),
            (Some(""), None),
            (Some("tokens=a"), None),
            (Some("token"), Some("")),
            (Some("a=1&token=v2.x.y-_"), Some("v2.x.y-_")),
            (Some("token=the+producers&token=v2.z"), Some("v2.z")),
        ] {
            assert_eq!(token(query).as_deref(), expected, "{query:?}");
        }
    }
}
