//! `POST /webhook-response`: an answer in.

use std::borrow::Cow;

use axum::{
    Json as JsonBody,
    extract::{RawQuery, State},
    http::StatusCode,
    response::IntoResponse,
};
use roundtrip_broker::{Parcel, Route};
use roundtrip_model::{Callback, CallbackId, Entry, EntryId, Event, SessionId, token::QUERY};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use url::form_urlencoded;

use crate::{Ingress, body::Json, messages::encode, problem::Problem};

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
    Json(answer): Json<Answer>,
) -> Result<impl IntoResponse, Problem> {
    let claims =
        token(query.as_deref()).and_then(|token| ingress.tokens.verify(&token, &answer.session_id));
    let accepted_at = ingress.clock.now();
    let callback = Callback {
        callback_id: CallbackId::generate(),
        session_id: answer.session_id,
        message_id: claims.as_ref().map(|claims| claims.message_id),
        channel_id: claims.as_ref().map(|claims| claims.channel_id.clone()),
        response_data: answer.response_data,
    };
    let parcel = Parcel {
        id: callback.callback_id.to_string(),
        tries: 0,
        // The message's: what is told of its answer belongs to that round.
        round: claims.as_ref().map_or(0, |claims| claims.round),
        accepted_at,
        dead: None,
        body: encode(&callback)?,
    };
    ingress.broker.publish(Route::Callbacks, parcel).await?;
    if let Some(claims) = claims {
        let entry = Entry {
            entry_id: EntryId::generate(),
            message_id: claims.message_id,
            channel_id: claims.channel_id,
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
            (Some("a=1&token=v1.x.y-_"), Some("v1.x.y-_")),
            (Some("token=the+producers&token=v1.z"), Some("v1.z")),
        ] {
            assert_eq!(token(query).as_deref(), expected, "{query:?}");
        }
    }
}
