//! What happened to messages: `GET /channel/message/{message_id}` and `GET /messages`.

use axum::{Json as JsonBody, extract::State};
use roundtrip_model::{ChannelId, Entry, MessageId, SessionId, State as MessageState};
use roundtrip_store::{Detail, MessageFilter, MessageRecord};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    Ingress,
    access::Caller,
    pages::{next, page_size},
    parameters::{Parameters, PathId},
    problem::Problem,
};

/// A message with everything that happened to it, the earliest first.
#[derive(Debug, Serialize)]
pub(crate) struct Timeline {
    #[serde(flatten)]
    message: MessageRecord,
    timeline: Vec<Entry>,
}

/// `GET /channel/message/{message_id}`
pub(crate) async fn timeline(
    State(ingress): State<Ingress>,
    caller: Caller,
    PathId(id): PathId,
) -> Result<JsonBody<Timeline>, Problem> {
    let id: MessageId = id.parse().map_err(|_error| Problem::unknown_message(&id))?;
    let found = ingress.store.message(&id).await?;
    // Another channel's is as if it were not there: even that it is there is not told.
    let found = found.filter(|(message, _)| caller.sees(Some(&message.channel_id)));
    let (message, timeline) = found.ok_or_else(|| Problem::unknown_message(&id.to_string()))?;
    Ok(JsonBody(Timeline { message, timeline }))
}

/// The query parameters of `GET /messages`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MessageParameters {
    session_id: Option<SessionId>,
    channel_id: Option<ChannelId>,
    state: Option<MessageState>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    since: Option<OffsetDateTime>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    until: Option<OffsetDateTime>,
    limit: Option<u16>,
    cursor: Option<MessageId>,
}

/// A page of messages, the latest first.
#[derive(Debug, Serialize)]
pub(crate) struct Messages {
    messages: Vec<MessageRecord>,
    next_cursor: Option<MessageId>,
}

/// `GET /messages`
pub(crate) async fn list(
    State(ingress): State<Ingress>,
    caller: Caller,
    Parameters(parameters): Parameters<MessageParameters>,
) -> Result<JsonBody<Messages>, Problem> {
    let limit = page_size(parameters.limit)?;
    let filter = MessageFilter {
        message_ids: None,
        session: parameters.session_id,
        channels: caller.among(parameters.channel_id.as_ref())?,
        channel: parameters.channel_id,
        state: parameters.state,
        since: parameters.since,
        until: parameters.until,
    };
    let messages = ingress
        .store
        .messages(&filter, parameters.cursor.as_ref(), limit, Detail::Outline)
        .await?;
    let next_cursor = next(&messages, limit, |message| message.message_id);
    Ok(JsonBody(Messages {
        messages,
        next_cursor,
    }))
}
