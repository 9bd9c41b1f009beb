//! API keys: create, list, revoke.
//!
//! Invariant: a key's secret appears only in the response to its creation. A principal that is
//! limited (in channels, rate or time) cannot make, see or revoke a key with wider limits.

use std::collections::BTreeSet;

use axum::{
    Json as JsonBody,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use roundtrip_model::{ApiKey, ApiKeyId, ChannelId, KeyRole, NewKey, key::MAX_RATE};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::Principal;
use crate::{
    ingress::Ingress,
    json::{body::Json, whole_number},
    pages::{Page, page_size},
    parameters::{Parameters, PathId},
    problem::Problem,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateKey {
    name: String,
    role: KeyRole,
    channels: Option<BTreeSet<ChannelId>>,
    #[serde(default, deserialize_with = "whole_number::<MAX_RATE, _>")]
    rate_per_second: Option<u32>,
    #[serde(default, deserialize_with = "crate::json::times::rfc3339")]
    expires_at: Option<OffsetDateTime>,
}

#[derive(Serialize)]
struct Made {
    #[serde(flatten)]
    key: ApiKey,
    /// The key itself, shown once.
    #[serde(rename = "key")]
    secret: String,
}

pub(crate) async fn create(
    State(ingress): State<Ingress>,
    principal: Principal,
    Json(wanted): Json<CreateKey>,
) -> Result<impl IntoResponse, Problem> {
    let new = NewKey {
        name: wanted.name,
        role: wanted.role,
        channels: wanted.channels,
        rate_per_second: wanted.rate_per_second,
        expires_at: wanted.expires_at,
    };
    let (mut key, issued) = new
        .make(rand::random(), ingress.clock.now())
        .map_err(Problem::invalid)?;
    if let Some(beyond) = principal.bounds().exceeded_by(&key) {
        return Err(Problem::wider_key(beyond));
    }
    key.made_under = principal.counts_under();
    ingress.store.create_key(&key).await?;
    ingress.authenticator.read_again().await;
    tracing::info!(key_id = %key.key_id, role = %key.role, by = %principal, "api_key.created");
    let made = Made {
        key,
        secret: issued.expose().to_owned(),
    };
    Ok((
        StatusCode::CREATED,
        [(header::CACHE_CONTROL, "no-store")],
        JsonBody(made),
    ))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyParameters {
    limit: Option<String>,
    cursor: Option<ApiKeyId>,
}

pub(crate) async fn list(
    State(ingress): State<Ingress>,
    principal: Principal,
    Parameters(parameters): Parameters<KeyParameters>,
) -> Result<JsonBody<Page<ApiKey, ApiKeyId>>, Problem> {
    let limit = page_size(parameters.limit.as_deref())?;
    let found = ingress
        .store
        .keys(&principal.bounds(), parameters.cursor.as_ref(), limit + 1)
        .await?;
    Ok(JsonBody(Page::of("api_keys", found, limit, |key| {
        key.key_id
    })))
}

/// `DELETE /api-keys/{key_id}`; it cannot be undone.
pub(crate) async fn revoke(
    State(ingress): State<Ingress>,
    principal: Principal,
    PathId(text): PathId,
) -> Result<JsonBody<ApiKey>, Problem> {
    let unknown = || Problem::unknown_key(&text);
    let id: ApiKeyId = text.parse().map_err(|_error| unknown())?;
    let key = ingress.store.key(&id).await?.ok_or_else(unknown)?;
    if principal.bounds().exceeded_by(&key).is_some() {
        return Err(unknown());
    }
    let now = ingress.clock.now();
    let revoked = ingress.store.revoke_key(&id, now).await?;
    let revoked = revoked.ok_or_else(unknown)?;
    ingress.authenticator.read_again().await;
    tracing::info!(key_id = %id, by = %principal, "api_key.revoked");
    Ok(JsonBody(revoked))
}
