//! Replays: start, list, read, cancel.

pub(crate) mod requests;

use axum::{Json as JsonBody, extract::State, response::Response};
use roundtrip_model::ReplayId;
use roundtrip_store::{Replay, ReplayFilter, ReplaySource, ReplayStatus};
use serde::Deserialize;

pub(crate) use self::requests::{answers, dead_letters, messages};
use crate::{
    auth::Principal,
    ingress::Ingress,
    pages::{Page, page_size},
    parameters::{Parameters, PathId},
    problem::Problem,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReplayParameters {
    status: Option<ReplayStatus>,
    limit: Option<String>,
    cursor: Option<ReplayId>,
}

pub(crate) async fn list(
    State(ingress): State<Ingress>,
    principal: Principal,
    Parameters(parameters): Parameters<ReplayParameters>,
) -> Result<Response, Problem> {
    let limit = page_size(parameters.limit.as_deref())?;
    let filter = ReplayFilter {
        channels: principal.visible_channels(None)?,
        status: parameters.status,
    };
    let under_way = ingress.queries.begin(&principal)?;
    let cursor = parameters.cursor.as_ref();
    let page = ingress.store.replays(&filter, cursor, limit + 1);
    let found = under_way.ask(page).await?;
    let page = Page::of("replays", found, limit, |replay| replay.replay_id);
    ingress.response_budget.json(&page, under_way)
}

pub(crate) async fn read(
    State(ingress): State<Ingress>,
    principal: Principal,
    PathId(id): PathId,
) -> Result<JsonBody<Replay>, Problem> {
    let replay = seen(&ingress, &principal, &id).await?;
    Ok(JsonBody(shown(&principal, replay)))
}

/// `POST /replays/{replay_id}/cancel`: what was already replayed stays so.
pub(crate) async fn cancel(
    State(ingress): State<Ingress>,
    principal: Principal,
    PathId(id): PathId,
) -> Result<JsonBody<Replay>, Problem> {
    let replay = seen(&ingress, &principal, &id).await?;
    let now = ingress.clock.now();
    let ended = ingress
        .store
        .end_replay(&replay.replay_id, ReplayStatus::Cancelled, now)
        .await?;
    ended
        .map(|replay| JsonBody(shown(&principal, replay)))
        .ok_or_else(|| Problem::unknown_replay(&id))
}

/// Hides the channels that the principal may not see: the replay's creator may have had further
/// ones on its key.
fn shown(principal: &Principal, mut replay: Replay) -> Replay {
    let channels = match &mut replay.source {
        ReplaySource::DeadLetters(filter) => &mut filter.channels,
        ReplaySource::Messages(filter) => &mut filter.channels,
        ReplaySource::Answers(filter) => &mut filter.channels,
    };
    if let Some(channels) = channels {
        channels.retain(|channel| principal.sees(Some(channel)));
    }
    replay
}

/// The replay with this id. One of other channels gives the same 404 as one that does not exist.
async fn seen(ingress: &Ingress, principal: &Principal, id: &str) -> Result<Replay, Problem> {
    let unknown = || Problem::unknown_replay(id);
    let parsed: ReplayId = id.parse().map_err(|_error| unknown())?;
    let replay = ingress.store.replay(&parsed).await?;
    replay
        .filter(|replay| principal.covers(replay.source.channels()))
        .ok_or_else(unknown)
}
