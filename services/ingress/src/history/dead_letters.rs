//! Dead letters: list, replay, purge.

use axum::{Json as JsonBody, extract::State, response::Response};
use roundtrip_model::{ChannelId, SessionId, decision::DeadKind};
use roundtrip_store::{DeadFilter, DeadQueue, Detail};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    auth::Principal,
    ingress::Ingress,
    pages::{Page, page_size},
    parameters::Parameters,
    problem::Problem,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeadParameters {
    /// One id, or several separated by commas.
    id: Option<String>,
    queue: Option<DeadQueue>,
    channel_id: Option<ChannelId>,
    session_id: Option<SessionId>,
    reason: Option<DeadKind>,
    #[serde(default, deserialize_with = "crate::json::times::rfc3339")]
    since: Option<OffsetDateTime>,
    #[serde(default, deserialize_with = "crate::json::times::rfc3339")]
    until: Option<OffsetDateTime>,
    /// Only for a list.
    limit: Option<String>,
    cursor: Option<String>,
    /// Only for a purge, which then needs no other parameter.
    #[serde(default)]
    all: bool,
}

impl DeadParameters {
    /// The filter, without what limits the principal.
    fn into_filter(self) -> DeadFilter {
        DeadFilter {
            channels: None,
            ids: self
                .id
                .map(|ids| ids.split(',').map(str::to_owned).collect()),
            queue: self.queue,
            channel: self.channel_id,
            session: self.session_id,
            reason: self.reason,
            since: self.since,
            until: self.until,
        }
    }
}

pub(crate) async fn list(
    State(ingress): State<Ingress>,
    principal: Principal,
    Parameters(mut parameters): Parameters<DeadParameters>,
) -> Result<Response, Problem> {
    if parameters.all {
        return Err(Problem::invalid_field("all", "is only valid for a purge"));
    }
    let limit = page_size(parameters.limit.as_deref())?;
    let cursor = parameters.cursor.take();
    let mut filter = parameters.into_filter();
    filter.channels = principal.visible_channels(filter.channel.as_ref())?;
    let under_way = ingress.queries.begin(&principal)?;
    let page = ingress
        .store
        .dead_letters(&filter, cursor.as_deref(), limit + 1, Detail::Outline);
    let found = under_way.ask(page).await?;
    let page = Page::of("dead_letters", found, limit, |letter| {
        letter.dead_id.clone()
    });
    ingress.response_budget.json(&page, under_way)
}

#[derive(Debug, Serialize)]
pub(crate) struct Purged {
    purged: u64,
}

pub(crate) async fn purge(
    State(ingress): State<Ingress>,
    principal: Principal,
    Parameters(parameters): Parameters<DeadParameters>,
) -> Result<JsonBody<Purged>, Problem> {
    if parameters.limit.is_some() || parameters.cursor.is_some() {
        return Err(Problem::invalid_field("limit", "is not valid for a purge"));
    }
    let all = parameters.all;
    let mut filter = parameters.into_filter();
    // A purge cannot be undone: a forgotten parameter must not mean everything.
    if !all && filter == DeadFilter::default() {
        return Err(Problem::invalid_field("all", "set a filter, or all=true"));
    }
    filter.channels = principal.visible_channels(filter.channel.as_ref())?;
    let purged = ingress.store.purge_dead_letters(&filter).await?;
    tracing::warn!(purged, ?filter, by = %principal, "dead_letters.purged");
    Ok(JsonBody(Purged { purged }))
}
