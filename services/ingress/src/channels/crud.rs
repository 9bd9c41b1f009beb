//! Create, read, update and delete a channel.

use std::time::Duration;

use axum::{
    Json as JsonBody,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use roundtrip_model::{Channel, ChannelPatch};
use serde::Serialize;

use super::{endpoint, etag};
use crate::{
    auth::Principal,
    ingress::Ingress,
    json::body::Json,
    parameters::ChannelPath,
    problem::{Kind, Problem},
};

pub(crate) async fn create(
    State(ingress): State<Ingress>,
    principal: Principal,
    Json(channel): Json<Channel>,
) -> Result<impl IntoResponse, Problem> {
    principal.allow(&channel.channel_id)?;
    let mut errors = channel.check();
    errors.extend(endpoint::vet(&ingress.guard, &channel.channel_metadata));
    Problem::unless_valid(errors)?;
    let version = ingress.store.create(&channel).await?;
    let id = &channel.channel_id;
    // No overlap: a secret of an earlier channel with this id must not sign for this one.
    let secret = match ingress.new_secret(id, Duration::ZERO).await {
        Ok((secret, _)) => secret,
        Err(problem) => {
            // The producer will retry and must not get a conflict. If the deletion fails too, the
            // channel stays without a secret; a rotation makes one.
            if let Err(error) = ingress.store.delete(id, Some(&version)).await {
                tracing::warn!(channel_id = %id, %error, "a channel is left without a secret");
            }
            return Err(problem);
        }
    };
    ingress.channel_changed(id).await;
    let headers = [
        (header::LOCATION, format!("/channel/{id}")),
        (header::ETAG, etag::of(&version)),
    ];
    let created = Created {
        channel,
        signing_secret: secret.reveal(),
    };
    Ok((StatusCode::CREATED, headers, JsonBody(created)))
}

#[derive(Serialize)]
struct Created {
    #[serde(flatten)]
    channel: Channel,
    signing_secret: String,
}

pub(crate) async fn read(
    State(ingress): State<Ingress>,
    ChannelPath(id): ChannelPath,
) -> Result<Response, Problem> {
    let stored = ingress.store.get(&id).await?;
    let mut response = ingress.response_budget.json(&stored.channel, ())?;
    let version = HeaderValue::try_from(etag::of(&stored.version));
    let version = version.map_err(|_no_header| Kind::Internal)?;
    response.headers_mut().insert(header::ETAG, version);
    Ok(response)
}

pub(crate) async fn update(
    State(ingress): State<Ingress>,
    ChannelPath(id): ChannelPath,
    headers: HeaderMap,
    Json(patch): Json<ChannelPatch>,
) -> Result<Response, Problem> {
    let mut errors = patch.check(&id);
    let metadata = patch.channel_metadata.as_ref();
    errors.extend(metadata.and_then(|metadata| endpoint::vet(&ingress.guard, metadata)));
    Problem::unless_valid(errors)?;
    let expected = etag::expected(&headers, &id, &*ingress.store).await?;
    let updated = ingress.store.update(&id, &patch, expected.as_ref()).await?;
    ingress.channel_changed(&id).await;
    Ok(etag::versioned(updated))
}

pub(crate) async fn delete(
    State(ingress): State<Ingress>,
    ChannelPath(id): ChannelPath,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let expected = etag::expected(&headers, &id, &*ingress.store).await?;
    ingress.store.delete(&id, expected.as_ref()).await?;
    ingress.channel_changed(&id).await;
    Ok(StatusCode::NO_CONTENT)
}
