//! `GET /sessions/{session_id}`: what was said in a session.

use std::str::FromStr;

use axum::{extract::State, response::Response};
use roundtrip_model::{ChannelId, MessageId, SessionId, State as MessageState};
use roundtrip_store::{MessageRecord, SessionAnswer, Turn, TurnCursor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use super::answers::ShownAnswer;
use crate::{
    auth::Principal,
    ingress::Ingress,
    pages::page_size,
    parameters::{Parameters, PathId},
    problem::Problem,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConversationParameters {
    limit: Option<String>,
    cursor: Option<TurnCursor>,
}

#[derive(Debug, Serialize)]
struct ShownConversation {
    session_id: SessionId,
    turns: Vec<ShownTurn>,
    next_cursor: Option<TurnCursor>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ShownTurn {
    Message(ShownMessage),
    Answer(ShownSessionAnswer),
}

#[derive(Debug, Serialize)]
struct ShownMessage {
    message_id: MessageId,
    channel_id: ChannelId,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    state: MessageState,
    /// `None` until the store has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Box<RawValue>>,
}

#[derive(Debug, Serialize)]
struct ShownSessionAnswer {
    message_id: MessageId,
    channel_id: ChannelId,
    #[serde(flatten)]
    answer: ShownAnswer,
}

impl From<Turn> for ShownTurn {
    fn from(turn: Turn) -> Self {
        let at = turn.at();
        match turn {
            Turn::Message(MessageRecord {
                message_id,
                channel_id,
                state,
                content,
                ..
            }) => Self::Message(ShownMessage {
                message_id,
                channel_id,
                at,
                state,
                message: content.map(|content| content.message),
            }),
            Turn::Answer(SessionAnswer {
                message_id,
                channel_id,
                answer,
            }) => Self::Answer(ShownSessionAnswer {
                message_id,
                channel_id,
                answer: answer.into(),
            }),
        }
    }
}

/// `GET /sessions/{session_id}`. A session is whatever its messages name, so an unknown one is
/// empty.
pub(crate) async fn conversation(
    State(ingress): State<Ingress>,
    principal: Principal,
    PathId(id): PathId,
    Parameters(parameters): Parameters<ConversationParameters>,
) -> Result<Response, Problem> {
    let session_id = SessionId::from_str(&id)
        .map_err(|error| Problem::invalid_field("session_id", error.to_string()))?;
    let limit = page_size(parameters.limit.as_deref())?;
    let channels = principal.visible_channels(None)?;
    let under_way = ingress.queries.begin(&principal)?;
    let page = ingress.store.conversation(
        &session_id,
        channels.as_deref(),
        parameters.cursor.as_ref(),
        limit,
    );
    let page = under_way.ask(page).await?;
    let last = page.turns.last().filter(|_| page.has_more);
    let next_cursor = last.map(Turn::cursor);
    let shown = ShownConversation {
        session_id,
        next_cursor,
        turns: page.turns.into_iter().map(ShownTurn::from).collect(),
    };
    ingress.response_budget.json(&shown, under_way)
}
