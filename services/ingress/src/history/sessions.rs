//! A session: what was said in it, and its erasure.

use std::str::FromStr;

use axum::{
    Json as JsonBody,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use roundtrip_model::{
    ChannelId, MessageId, MessageKind, SessionId, State as MessageState, journal::KeptAnswer,
};
use roundtrip_store::{Erasure, MessageContent, MessageRecord, Turn, TurnCursor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use super::{answers::ShownAnswer, entry::data_if_kept};
use crate::{
    auth::Principal,
    ingress::Ingress,
    pages::page_size,
    parameters::{Parameters, PathId},
    problem::{Kind, Problem},
};

const NOT_LIMITED: &str = "an erasure applies to all channels of the session; use a key that is not \
                           limited to channels";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConversationParameters {
    limit: Option<String>,
    cursor: Option<TurnCursor>,
}

#[derive(Debug, Serialize)]
struct ShownConversation {
    session_id: SessionId,
    #[serde(skip_serializing_if = "Option::is_none")]
    erasure: Option<ShownErasure>,
    turns: Vec<ShownTurn>,
    next_cursor: Option<TurnCursor>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ShownTurn {
    Message(ShownMessage),
    Inbound(ShownInbound),
    Answer(ShownSessionAnswer),
}

#[derive(Debug, Serialize)]
struct ShownMessage {
    message_id: MessageId,
    channel_id: ChannelId,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    state: MessageState,
    /// `None` until the store has it, or after it was erased.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Box<RawValue>>,
    #[serde(
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    contents_erased_at: Option<OffsetDateTime>,
}

/// What a channel posted by itself.
#[derive(Debug, Serialize)]
struct ShownInbound {
    message_id: MessageId,
    channel_id: ChannelId,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    state: MessageState,
    /// `None` after it was erased.
    #[serde(flatten, serialize_with = "data_if_kept")]
    data: Option<Box<KeptAnswer>>,
    #[serde(
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    contents_erased_at: Option<OffsetDateTime>,
}

#[derive(Debug, Serialize)]
pub(super) struct ShownSessionAnswer {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message_id: Option<MessageId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) channel_id: Option<ChannelId>,
    #[serde(flatten)]
    pub(super) answer: ShownAnswer,
}

/// The latest erasure of the session.
#[derive(Debug, Serialize)]
pub(crate) struct ShownErasure {
    status: ErasureStatus,
    #[serde(with = "time::serde::rfc3339")]
    requested_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    ended_at: Option<OffsetDateTime>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum ErasureStatus {
    Erasing,
    Erased,
}

impl From<Erasure> for ShownErasure {
    fn from(erasure: Erasure) -> Self {
        let Erasure {
            requested_at,
            ended_at,
            ..
        } = erasure;
        Self {
            status: match ended_at {
                None => ErasureStatus::Erasing,
                Some(_) => ErasureStatus::Erased,
            },
            requested_at,
            ended_at,
        }
    }
}

#[derive(Debug, Serialize)]
struct Erasing {
    session_id: SessionId,
    erasure: ShownErasure,
}

impl From<Turn> for ShownTurn {
    fn from(turn: Turn) -> Self {
        let at = turn.at();
        match turn {
            Turn::Message(MessageRecord {
                message_id,
                channel_id,
                kind: MessageKind::Inbound,
                state,
                content,
                contents_erased_at,
                ..
            }) => Self::Inbound(ShownInbound {
                message_id,
                channel_id,
                at,
                state,
                data: match content {
                    Some(MessageContent::Inbound(data)) => Some(Box::new(data)),
                    _ => None,
                },
                contents_erased_at,
            }),
            Turn::Message(MessageRecord {
                message_id,
                channel_id,
                state,
                content,
                contents_erased_at,
                ..
            }) => Self::Message(ShownMessage {
                message_id,
                channel_id,
                at,
                state,
                message: match content {
                    Some(MessageContent::Outbound(content)) => Some(content.message),
                    _ => None,
                },
                contents_erased_at,
            }),
            Turn::Answer(answer) => Self::Answer(ShownSessionAnswer {
                message_id: answer.message_id,
                channel_id: answer.channel_id.clone(),
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
    let session_id = session(&id)?;
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
    let erasure = ingress.store.erasure(&session_id).await?;
    let last = page.turns.last().filter(|_| page.has_more);
    let next_cursor = last.map(Turn::cursor);
    let shown = ShownConversation {
        session_id,
        erasure: erasure.map(ShownErasure::from),
        next_cursor,
        turns: page.turns.into_iter().map(ShownTurn::from).collect(),
    };
    ingress.response_budget.json(&shown, under_way)
}

/// `DELETE /sessions/{session_id}`: has the recorder erase the contents of the session. A session may
/// have messages in any channel, so a key that is limited to channels cannot erase one.
pub(crate) async fn erase(
    State(ingress): State<Ingress>,
    principal: Principal,
    PathId(id): PathId,
) -> Result<Response, Problem> {
    if principal.channels().is_some() {
        return Err(Problem::new(Kind::ChannelNotAllowed, NOT_LIMITED));
    }
    let session_id = session(&id)?;
    let requested_at = ingress.clock.now();
    let store = &ingress.store;
    store.request_erasure(&session_id, requested_at).await?;
    let id = session_id.as_str();
    tracing::warn!(session_id = id, %requested_at, by = %principal, "session.erasure_requested");
    let erasure = Erasure {
        session_id: session_id.clone(),
        requested_at,
        ended_at: None,
    };
    let shown = Erasing {
        session_id,
        erasure: erasure.into(),
    };
    Ok((StatusCode::ACCEPTED, JsonBody(shown)).into_response())
}

pub(super) fn session(id: &str) -> Result<SessionId, Problem> {
    SessionId::from_str(id).map_err(|error| Problem::invalid_field("session_id", error.to_string()))
}
