//! What happened to messages: `GET /channel/message/{message_id}` and `GET /messages`.

use axum::{Json as JsonBody, extract::State};
use roundtrip_model::{ChannelId, Entry, MessageId, SessionId, State as MessageState};
use roundtrip_store::{Detail, MAX_PAGE, MessageFilter, MessageRecord};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    Ingress,
    access::Caller,
    parameters::{Parameters, PathId},
    problem::Problem,
};

/// How many, where the request does not say.
pub(crate) const DEFAULT_PAGE: u16 = 100;

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

/// A page's size within its bounds.
pub(crate) fn page_size(limit: Option<u16>) -> Result<u16, Problem> {
    let limit = limit.unwrap_or(DEFAULT_PAGE);
    if (1..=MAX_PAGE).contains(&limit) {
        Ok(limit)
    } else {
        Err(Problem::invalid_field(
            "limit",
            format!("must be 1 to {MAX_PAGE}"),
        ))
    }
}

/// Where the next page begins; a page that is not full is the last.
pub(crate) fn next<T, C>(page: &[T], limit: u16, cursor: impl Fn(&T) -> C) -> Option<C> {
    (page.len() == usize::from(limit))
        .then(|| page.last().map(cursor))
        .flatten()
}
