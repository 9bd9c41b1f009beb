//! The requests that start a replay: of dead letters, messages or answers.

use std::collections::BTreeSet;

use axum::{
    Json as JsonBody,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use roundtrip_model::{
    CallbackId, ChannelId, MessageId, MessageKind, ReplayId, SessionId, decision::DeadKind,
};
use roundtrip_store::{
    AnswerFilter, DeadFilter, DeadQueue, Detail, MAX_PAGE, MessageFilter, Progress, Replay,
    ReplaySource, ReplayStatus, StateFilter,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    auth::Principal,
    ingress::Ingress,
    json::{body::Json, whole_number},
    limits::queries::UnderWay,
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReplayAnswers {
    #[serde(default)]
    dry_run: bool,
    #[serde(default, deserialize_with = "whole_number::<MAX_RATE, _>")]
    rate_per_second: Option<u32>,
    ids: Option<Vec<CallbackId>>,
    channel_id: Option<ChannelId>,
    session_id: Option<SessionId>,
    #[serde(default, deserialize_with = "crate::json::times::rfc3339")]
    since: Option<OffsetDateTime>,
    #[serde(default, deserialize_with = "crate::json::times::rfc3339")]
    until: Option<OffsetDateTime>,
}

#[derive(Debug, Serialize)]
struct Counted {
    dry_run: bool,
    matched: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown_ids: UnknownIds,
}

#[derive(Debug, Serialize)]
struct Created {
    #[serde(flatten)]
    replay: Replay,
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown_ids: UnknownIds,
}

/// The ids of the request that select nothing, each once; `None` if the request has no ids.
type UnknownIds = Option<BTreeSet<String>>;

pub(crate) async fn dead_letters(
    State(ingress): State<Ingress>,
    principal: Principal,
    request: Option<Json<ReplayDeadLetters>>,
) -> Result<Response, Problem> {
    let no_filter = || Problem::no_filter("{} selects every dead letter");
    let Json(request) = request.ok_or_else(no_filter)?;
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
    let source = ReplaySource::DeadLetters(filter);
    start(
        &ingress,
        &principal,
        source,
        request.dry_run,
        request.rate_per_second,
    )
    .await
}

pub(crate) async fn messages(
    State(ingress): State<Ingress>,
    principal: Principal,
    request: Option<Json<ReplayMessages>>,
) -> Result<Response, Problem> {
    let no_filter = || Problem::no_filter("name at least one field");
    let Json(request) = request.ok_or_else(no_filter)?;
    let mut filter = MessageFilter {
        message_ids: request.ids,
        session: request.session_id,
        channel: request.channel_id,
        channels: None,
        kind: None,
        state: request.state,
        since: request.since,
        until: request.until,
    };
    bounded_ids(filter.message_ids.as_deref())?;
    // An empty filter would replay every message ever delivered; a forgotten field must not.
    if filter == MessageFilter::default() {
        return Err(empty_filter());
    }
    // Of an inbound message only a part may be kept. A dead one is replayed as a dead letter.
    filter.kind = Some(MessageKind::Outbound);
    filter.channels = principal.visible_channels(filter.channel.as_ref())?;
    let source = ReplaySource::Messages(filter);
    start(
        &ingress,
        &principal,
        source,
        request.dry_run,
        request.rate_per_second,
    )
    .await
}

/// `POST /answers/replay`: kept answers go to the sessions server again.
pub(crate) async fn answers(
    State(ingress): State<Ingress>,
    principal: Principal,
    request: Option<Json<ReplayAnswers>>,
) -> Result<Response, Problem> {
    let no_filter = || Problem::no_filter("name at least one field");
    let Json(request) = request.ok_or_else(no_filter)?;
    let mut filter = AnswerFilter {
        callback_ids: request.ids,
        session: request.session_id,
        channel: request.channel_id,
        channels: None,
        without_message: false,
        since: request.since,
        until: request.until,
    };
    bounded_ids(filter.callback_ids.as_deref())?;
    if filter == AnswerFilter::default() {
        return Err(empty_filter());
    }
    filter.channels = principal.visible_channels(filter.channel.as_ref())?;
    let source = ReplaySource::Answers(filter);
    start(
        &ingress,
        &principal,
        source,
        request.dry_run,
        request.rate_per_second,
    )
    .await
}

fn empty_filter() -> Problem {
    Problem::invalid_field("body", "name at least one field of the filter")
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

/// What the ids of a request select.
struct Selected {
    unknown_ids: UnknownIds,
    /// Something whose contents were not erased, or anything if the request has no ids.
    is_some_kept: bool,
}

impl Selected {
    const fn all() -> Self {
        Self {
            unknown_ids: None,
            is_some_kept: true,
        }
    }

    /// Of these ids, those that were found, each with the time of its erasure.
    fn of<I: ToString>(
        ids: &[I],
        found: impl IntoIterator<Item = (I, Option<OffsetDateTime>)>,
    ) -> Self {
        let mut unknown: BTreeSet<_> = ids.iter().map(ToString::to_string).collect();
        let mut is_some_kept = false;
        for (id, contents_erased_at) in found {
            unknown.remove(&id.to_string());
            is_some_kept |= contents_erased_at.is_none();
        }
        Self {
            unknown_ids: Some(unknown),
            is_some_kept,
        }
    }
}

async fn selected_letters(
    ingress: &Ingress,
    under_way: &UnderWay,
    filter: &DeadFilter,
) -> Result<Selected, Problem> {
    let Some(ids) = &filter.ids else {
        return Ok(Selected::all());
    };
    let mut unknown: BTreeSet<_> = ids.iter().cloned().collect();
    let mut is_some_kept = false;
    let mut after = None;
    // A webhook id can name many dead letters, so the matches can be more than a page.
    while !unknown.is_empty() || !is_some_kept {
        let page = ingress
            .store
            .dead_letters(filter, after.as_deref(), MAX_PAGE, Detail::Outline);
        let letters = under_way.ask(page).await?;
        for letter in &letters {
            unknown.remove(&letter.dead_id);
            unknown.remove(&letter.webhook_id);
            is_some_kept |= letter.contents_erased_at.is_none();
        }
        let is_last = letters.len() < usize::from(MAX_PAGE);
        after = letters.into_iter().next_back().map(|last| last.dead_id);
        if is_last {
            break;
        }
    }
    Ok(Selected {
        unknown_ids: Some(unknown),
        is_some_kept,
    })
}

async fn selected_messages(
    ingress: &Ingress,
    under_way: &UnderWay,
    filter: &MessageFilter,
) -> Result<Selected, Problem> {
    let Some(ids) = &filter.message_ids else {
        return Ok(Selected::all());
    };
    // One page holds as many messages as a request may have ids.
    const { assert!(MAX_IDS <= MAX_PAGE as usize) };
    let page = ingress
        .store
        .messages(filter, None, MAX_PAGE, Detail::Outline);
    let found = under_way.ask(page).await?.into_iter();
    let found = found.map(|message| (message.message_id, message.contents_erased_at));
    Ok(Selected::of(ids, found))
}

async fn selected_answers(
    ingress: &Ingress,
    under_way: &UnderWay,
    filter: &AnswerFilter,
) -> Result<Selected, Problem> {
    let Some(ids) = &filter.callback_ids else {
        return Ok(Selected::all());
    };
    let found = under_way.ask(ingress.store.kept_answer_ids(filter)).await?;
    Ok(Selected::of(ids, found))
}

async fn start(
    ingress: &Ingress,
    principal: &Principal,
    source: ReplaySource,
    dry_run: bool,
    rate_per_second: Option<u32>,
) -> Result<Response, Problem> {
    let under_way = ingress.queries.begin(principal)?;
    let (matched, selected) = match &source {
        ReplaySource::DeadLetters(filter) => {
            let matched = under_way.ask(ingress.store.count_dead_letters(filter));
            (
                matched.await?,
                selected_letters(ingress, &under_way, filter).await?,
            )
        }
        ReplaySource::Messages(filter) => {
            let matched = under_way.ask(ingress.store.count_messages(filter));
            (
                matched.await?,
                selected_messages(ingress, &under_way, filter).await?,
            )
        }
        ReplaySource::Answers(filter) => {
            let matched = under_way.ask(ingress.store.count_kept_answers(filter));
            (
                matched.await?,
                selected_answers(ingress, &under_way, filter).await?,
            )
        }
    };
    let Selected {
        unknown_ids,
        is_some_kept,
    } = selected;
    if dry_run {
        let counted = Counted {
            dry_run,
            matched,
            unknown_ids,
        };
        return Ok(JsonBody(counted).into_response());
    }
    if unknown_ids.is_some() && matched == 0 {
        return Err(Problem::from(Kind::UnknownIds));
    }
    if !is_some_kept {
        return Err(Problem::from(Kind::ContentsErased));
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
    tracing::info!(%replay_id, matched, ?rate_per_second, by = %principal, "replay.created");
    let location = [(header::LOCATION, format!("/replays/{replay_id}"))];
    let created = Created {
        replay,
        unknown_ids,
    };
    Ok((StatusCode::ACCEPTED, location, JsonBody(created)).into_response())
}
