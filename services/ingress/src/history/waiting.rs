//! The messages that wait in the store: how many they are, and how they go or are cancelled.

use std::collections::BTreeMap;

use axum::{Json as JsonBody, extract::State};
use roundtrip_model::{
    Entry, EntryId, Event, MessageId, MessageKind, State as MessageState, waiting::WaitReason,
};
use roundtrip_store::{Settlement, WaitingMessage, WaitingSelection, WaitingSummary};
use serde::Serialize;
use time::OffsetDateTime;

use crate::{
    auth::Principal,
    ingress::Ingress,
    messages::accept::ENTRY_LIMIT,
    parameters::{ChannelPath, PathId},
    problem::{Kind, Problem},
};

/// The entry may still arrive: then the timeline shows a cancellation and a delivery.
const NOT_RECORDED: &str =
    "the cancellation was not recorded in time, and the message still waits; try again";

#[derive(Debug, Serialize)]
pub(crate) struct ShownSummary {
    count: u64,
    /// Whether more wait than are counted.
    has_more: bool,
    /// How many wait for each reason.
    reasons: BTreeMap<WaitReason, u64>,
    #[serde(with = "time::serde::rfc3339::option")]
    oldest_accepted_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    next_due_at: Option<OffsetDateTime>,
}

impl From<WaitingSummary> for ShownSummary {
    fn from(summary: WaitingSummary) -> Self {
        Self {
            count: summary.count,
            has_more: summary.has_more,
            reasons: summary.reasons,
            oldest_accepted_at: summary.oldest_accepted_at,
            next_due_at: summary.next_due_at,
        }
    }
}

pub(crate) async fn summary(
    State(ingress): State<Ingress>,
    principal: Principal,
    ChannelPath(id): ChannelPath,
) -> Result<JsonBody<ShownSummary>, Problem> {
    ingress.store.target(&id).await?;
    let under_way = ingress.queries.begin(&principal)?;
    let summary = under_way.ask(ingress.store.waiting_summary(&id)).await?;
    Ok(JsonBody(summary.into()))
}

#[derive(Debug, Serialize)]
pub(crate) struct Retried {
    /// How many messages are due now that were due later.
    retried: u64,
}

/// `POST /channel/{channel_id}/retry`: what waits for its retry is due now. A failed attempt
/// continues the message's schedule.
pub(crate) async fn retry(
    State(ingress): State<Ingress>,
    ChannelPath(id): ChannelPath,
) -> Result<JsonBody<Retried>, Problem> {
    ingress.store.target(&id).await?;
    let which = WaitingSelection::Channel(id.clone());
    let retried = ingress.store.make_due(&which, ingress.clock.now()).await?;
    tracing::info!(channel_id = %id, retried, "channel.retried");
    Ok(JsonBody(Retried { retried }))
}

/// `POST /channel/message/{message_id}/retry`: the message is due now. A failed attempt continues
/// its schedule.
pub(crate) async fn retry_one(
    State(ingress): State<Ingress>,
    principal: Principal,
    PathId(id): PathId,
) -> Result<JsonBody<Retried>, Problem> {
    let (_, row) = stored(&ingress, &principal, &id).await?;
    let message_id = row.id.clone();
    let which = WaitingSelection::Message(row.id);
    let retried = ingress.store.make_due(&which, ingress.clock.now()).await?;
    tracing::info!(message_id, retried, "message.retried");
    Ok(JsonBody(Retried { retried }))
}

#[derive(Debug, Serialize)]
pub(crate) struct Cancelled {
    message_id: MessageId,
    state: MessageState,
}

/// `POST /channel/message/{message_id}/cancel`. An attempt that has begun may still deliver the
/// message.
///
/// The entry is written first: if the process dies in between, the message is still in the store,
/// and the repeated request removes it.
pub(crate) async fn cancel(
    State(ingress): State<Ingress>,
    principal: Principal,
    PathId(id): PathId,
) -> Result<JsonBody<Cancelled>, Problem> {
    let (message_id, row) = stored(&ingress, &principal, &id).await?;
    let entry = Entry {
        entry_id: EntryId::generate(),
        message_id: Some(message_id),
        channel_id: Some(row.channel_id.clone()),
        session_id: row.session_id.clone(),
        kind: MessageKind::Outbound,
        replay_count: row.replay_count,
        at: ingress.clock.now(),
        event: Event::Cancelled {},
    };
    if !ingress.journal.append_within(entry, ENTRY_LIMIT).await {
        return Err(Problem::new(Kind::BrokerUnavailable, NOT_RECORDED));
    }
    let (store, replay_count) = (&ingress.store, row.replay_count);
    let mut left = Some(row);
    while let Some(row) = left {
        store
            .settle_waiting(&[row.settled(Settlement::Removed)])
            .await?;
        // An attempt that ended meanwhile has changed the row, and a replay has replaced it.
        let changed = store.waiting_message(&row.id).await?;
        left = changed.filter(|changed| changed.replay_count == replay_count);
    }
    tracing::info!(%message_id, "message.cancelled");
    let state = MessageState::Cancelled;
    Ok(JsonBody(Cancelled { message_id, state }))
}

async fn stored(
    ingress: &Ingress,
    principal: &Principal,
    id: &str,
) -> Result<(MessageId, WaitingMessage), Problem> {
    let message_id: MessageId = id.parse().map_err(|_error| Problem::unknown_message(id))?;
    let stored = ingress.store.waiting_message(id).await?;
    // Another channel's message gives the same 404 as one that does not exist.
    if let Some(row) = stored
        && principal.sees(Some(&row.channel_id))
    {
        return Ok((message_id, row));
    }
    let known = ingress.store.message(&message_id).await?;
    let known = known.filter(|(message, _)| principal.sees(Some(&message.channel_id)));
    Err(match known {
        Some((message, _)) => Problem::not_waiting(message.state),
        None => Problem::unknown_message(id),
    })
}
