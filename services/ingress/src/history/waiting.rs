//! What waits for a channel: `GET /channel/{channel_id}/waiting` and
//! `POST /channel/{channel_id}/retry`.

use std::collections::BTreeMap;

use axum::{Json as JsonBody, extract::State};
use roundtrip_model::journal::WaitReason;
use roundtrip_store::{WaitingSelection, WaitingSummary};
use serde::Serialize;
use time::OffsetDateTime;

use crate::{auth::Principal, ingress::Ingress, parameters::ChannelPath, problem::Problem};

/// The messages that wait for a channel in the store.
#[derive(Debug, Serialize)]
pub(crate) struct Waiting {
    count: u64,
    /// How many wait for each reason.
    reasons: BTreeMap<WaitReason, u64>,
    #[serde(with = "time::serde::rfc3339::option")]
    oldest_accepted_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    next_due_at: Option<OffsetDateTime>,
}

impl From<WaitingSummary> for Waiting {
    fn from(summary: WaitingSummary) -> Self {
        Self {
            count: summary.count,
            reasons: summary.reasons,
            oldest_accepted_at: summary.oldest_accepted_at,
            next_due_at: summary.next_due_at,
        }
    }
}

/// `GET /channel/{channel_id}/waiting`
pub(crate) async fn summary(
    State(ingress): State<Ingress>,
    principal: Principal,
    ChannelPath(id): ChannelPath,
) -> Result<JsonBody<Waiting>, Problem> {
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

/// `POST /channel/{channel_id}/retry`: what waits for its retry or its time is due now. A failed
/// attempt continues the message's schedule.
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
