//! `POST /webhook-response`: an answer in.
//!
//! Invariant: a token that is worth nothing is refused, whatever else is asked for, and before the
//! body is looked at; what it takes to refuse one is a MAC. Why it was refused is counted
//! ([`Refusals`](crate::refusals::Refusals)) and told to nobody.

use std::borrow::Cow;

use axum::{
    Json as JsonBody,
    extract::{FromRequest, RawQuery, Request, State},
    http::StatusCode,
    response::IntoResponse,
};
use roundtrip_broker::{Parcel, Route};
use roundtrip_model::{
    Callback, CallbackId, Entry, EntryId, Event, SessionId,
    token::{Proven, QUERY, Refusal},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use url::form_urlencoded;

use crate::{CallbackAuth, Ingress, body::RelayedJson, messages::encode, problem::Problem};

/// The body of `POST /webhook-response`. Channel servers are other people's: what else they put
/// into it is passed over.
#[derive(Debug, Deserialize)]
pub(crate) struct Answer {
    session_id: SessionId,
    pub(crate) response_data: Box<RawValue>,
}

/// The answer to an answer that was taken.
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
    if proven.is_none() {
        ingress
            .doorkeeper
            .allow_keyless(request.uri(), request.headers())?;
    }
    let RelayedJson(answer) = RelayedJson::<Answer>::from_request(request, &ingress).await?;
    let accepted_at = ingress.clock.now();
    let Answer {
        session_id,
        response_data,
    } = answer;
    let (callback_id, claims) = match &proven {
        Some(proven) => {
            let claims = proven.claims(&session_id);
            let claims = claims.map_err(|refusal| ingress.worthless(refusal))?;
            (proven.callback_id(response_data.get()), Some(claims))
        }
        None => (CallbackId::generate(), None),
    };
    let callback = Callback {
        callback_id,
        session_id,
        message_id: claims.map(|claims| claims.message_id),
        channel_id: claims.map(|claims| claims.channel_id.clone()),
        response_data,
    };
    let parcel = Parcel {
        id: callback.callback_id.to_string(),
        tries: 0,
        // The message's: what is told of its answer belongs to that round.
        round: claims.map_or(0, |claims| claims.round),
        accepted_at,
        dead: None,
        body: encode(&callback)?,
    };
    ingress.broker.publish(Route::Callbacks, parcel).await?;
    if let Some(claims) = claims {
        let entry = Entry {
            entry_id: EntryId::generate(),
            message_id: claims.message_id,
            channel_id: claims.channel_id.clone(),
            session_id: callback.session_id,
            round: claims.round,
            at: accepted_at,
            event: Event::Answered {
                callback_id: callback.callback_id,
            },
        };
        ingress.tell(entry).await;
    }
    Ok((StatusCode::ACCEPTED, JsonBody(Accepted { success: true })))
}

impl Ingress {
    /// The token in the query, where there is one: it must be good, also where none is needed.
    fn proven(&self, query: Option<&str>) -> Result<Option<Proven<'_>>, Problem> {
        match (token(query), self.callback_auth) {
            (Some(token), _) => {
                let proven = self.tokens.check(&token, self.clock.now());
                proven.map(Some).map_err(|refusal| self.worthless(refusal))
            }
            (None, CallbackAuth::Open) => Ok(None),
            (None, CallbackAuth::Signed) => {
                self.refusals.missing();
                Err(Problem::answer_refused())
            }
        }
    }

    fn worthless(&self, refusal: Refusal) -> Problem {
        self.refusals.worthless(refusal);
        Problem::answer_refused()
    }
}

/// The token in a query string: the last, for the gateway appended its own.
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
