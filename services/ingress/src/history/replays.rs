//! Replays: create, list, read, cancel.

use axum::{
    Json as JsonBody,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use roundtrip_model::{ChannelId, MessageId, ReplayId, SessionId, decision::DeadKind};
use roundtrip_store::{
    DeadFilter, DeadQueue, MessageFilter, Progress, Replay, ReplayFilter, ReplaySource,
    ReplayStatus, StateFilter,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    auth::Principal,
    ingress::Ingress,
    json::{body::Json, whole_number},
    pages::{Page, page_size},
    parameters::{Parameters, PathId},
    problem::{Kind, Problem},
};

/// The highest rate of a replay, in messages a second.
const MAX_RATE: u32 = 10_000;

const MAX_IDS: usize = 1000;

/// The body of a replay of dead letters. The filter is not flattened: serde would ignore a misspelt
/// field, and the replay would cover everything.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReplayDeadLetters {
    #[serde(default)]
    dry_run: bool,
    #[serde(default, deserialize_with = "whole_number::<MAX_RATE, _>")]
    rate_per_second: Option<u32>,
    ids: Option<Vec<String>>,
    queue: Option<DeadQueue>,
    channel_id: Option<ChannelId>,
    session_id: Option<SessionId>,
    reason: Option<DeadKind>,
    #[serde(default, deserialize_with = "crate::json::times::rfc3339")]
    since: Option<OffsetDateTime>,
    #[serde(default, deserialize_with = "crate::json::times::rfc3339")]
    until: Option<OffsetDateTime>,
}

/// The body of a replay of messages.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReplayMessages {
    #[serde(default)]
    dry_run: bool,
    #[serde(default, deserialize_with = "whole_number::<MAX_RATE, _>")]
    rate_per_second: Option<u32>,
    ids: Option<Vec<MessageId>>,
    channel_id: Option<ChannelId>,
    session_id: Option<SessionId>,
    state: Option<StateFilter>,
    #[serde(default, deserialize_with = "crate::json::times::rfc3339")]
    since: Option<OffsetDateTime>,
    #[serde(default, deserialize_with = "crate::json::times::rfc3339")]
    until: Option<OffsetDateTime>,
}

#[derive(Debug, Serialize)]
struct DryRun {
    dry_run: bool,
    matched: u64,
}

/// `POST /dead-letters/replay`
pub(crate) async fn dead_letters(
    State(ingress): State<Ingress>,
    principal: Principal,
    request: Option<Json<ReplayDeadLetters>>,
) -> Result<Response, Problem> {
    let no_filter = || Problem::no_filter("{} selects every dead letter");
    let Json(request) = request.ok_or_else(no_filter)?;
    let ReplayDeadLetters {
        dry_run,
        rate_per_second,
        ..
    } = request;
    let filter = DeadFilter {
        ids: request.ids,
        queue: request.queue,
        channels: principal.visible_channels(request.channel_id.as_ref())?,
        channel: request.channel_id,
        session: request.session_id,
        reason: request.reason,
        since: request.since,
        until: request.until,
    };
    bounded_ids(filter.ids.as_deref())?;
    let under_way = ingress.queries.begin(&principal)?;
    let matched = under_way.ask(ingress.store.count_dead_letters(&filter));
    let matched = matched.await?;
    ask(
        &ingress,
        &principal,
        ReplaySource::DeadLetters(filter),
        matched,
        dry_run,
        rate_per_second,
    )
    .await
}

/// `POST /messages/replay`
pub(crate) async fn messages(
    State(ingress): State<Ingress>,
    principal: Principal,
    request: Option<Json<ReplayMessages>>,
) -> Result<Response, Problem> {
    let no_filter = || Problem::no_filter("name at least one field");
    let Json(request) = request.ok_or_else(no_filter)?;
    let ReplayMessages {
        dry_run,
        rate_per_second,
        ..
    } = request;
    let mut filter = MessageFilter {
        message_ids: request.ids,
        session: request.session_id,
        channel: request.channel_id,
        channels: None,
        state: request.state,
        since: request.since,
        until: request.until,
    };
    bounded_ids(filter.message_ids.as_deref())?;
    // An empty filter would replay every message ever delivered; a forgotten field must not.
    if filter == MessageFilter::default() {
        return Err(Problem::invalid_field(
            "body",
            "name at least one field of the filter",
        ));
    }
    filter.channels = principal.visible_channels(filter.channel.as_ref())?;
    let under_way = ingress.queries.begin(&principal)?;
    let matched = under_way.ask(ingress.store.count_messages(&filter)).await?;
    ask(
        &ingress,
        &principal,
        ReplaySource::Messages(filter),
        matched,
        dry_run,
        rate_per_second,
    )
    .await
}

fn bounded_ids<T>(ids: Option<&[T]>) -> Result<(), Problem> {
    if ids.is_some_and(|ids| ids.is_empty() || ids.len() > MAX_IDS) {
        return Err(Problem::invalid_field(
            "ids",
            format!("must be a list of 1 to {MAX_IDS} ids"),
        ));
    }
    Ok(())
}

async fn ask(
    ingress: &Ingress,
    principal: &Principal,
    source: ReplaySource,
    matched: u64,
    dry_run: bool,
    rate_per_second: Option<u32>,
) -> Result<Response, Problem> {
    if rate_per_second.is_some_and(|rate| !(1..=MAX_RATE).contains(&rate)) {
        let problem = format!("must be 1 to {MAX_RATE}");
        return Err(Problem::invalid_field("rate_per_second", problem));
    }
    if dry_run {
        return Ok(JsonBody(DryRun { dry_run, matched }).into_response());
    }
    let names_ids = match &source {
        ReplaySource::DeadLetters(filter) => filter.ids.is_some(),
        ReplaySource::Messages(filter) => filter.message_ids.is_some(),
    };
    if names_ids && matched == 0 {
        return Err(Problem::from(Kind::UnknownIds));
    }
    let replay = Replay {
        replay_id: ReplayId::generate(),
        requested_by: principal.to_string(),
        source,
        rate_per_second,
        status: ReplayStatus::Running,
        matched,
        progress: Progress::default(),
        created_at: ingress.clock.now(),
        ended_at: None,
    };
    ingress.store.create_replay(&replay).await?;
    let replay_id = replay.replay_id;
    tracing::info!(%replay_id, matched, ?rate_per_second, by = %principal, "replay.asked_for");
    let location = [(header::LOCATION, format!("/replays/{replay_id}"))];
    Ok((StatusCode::ACCEPTED, location, JsonBody(replay)).into_response())
}

/// The query parameters of `GET /replays`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReplayParameters {
    status: Option<ReplayStatus>,
    limit: Option<String>,
    cursor: Option<ReplayId>,
}

/// `GET /replays`
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

/// `GET /replays/{replay_id}`
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
