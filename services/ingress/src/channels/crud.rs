//! Create, read, update and delete a channel.

use std::time::Duration;

use axum::{
    Json as JsonBody,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use roundtrip_model::{Channel, ChannelId, ChannelPatch, channel::FieldError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{endpoint, etag};
use crate::{
    auth::Principal,
    ingress::Ingress,
    json::body::Json,
    parameters::ChannelPath,
    problem::{Kind, Problem},
};

/// The body of `POST /channel`: the five fields of the client's specification and no other.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the client's names, on the wire")]
pub(crate) struct NewChannel {
    channel_id: ChannelId,
    #[serde(default)]
    channel_name: String,
    #[serde(default)]
    channel_description: String,
    #[serde(default)]
    channel_metadata: Map<String, Value>,
    #[serde(default)]
    channel_tags: Vec<String>,
}

impl From<NewChannel> for Channel {
    fn from(new: NewChannel) -> Self {
        Self {
            channel_id: new.channel_id,
            channel_name: new.channel_name,
            channel_description: new.channel_description,
            channel_metadata: new.channel_metadata,
            channel_tags: new.channel_tags,
        }
    }
}

/// `POST /channel`
pub(crate) async fn create(
    State(ingress): State<Ingress>,
    principal: Principal,
    Json(new): Json<NewChannel>,
) -> Result<impl IntoResponse, Problem> {
    let channel = Channel::from(new);
    principal.allow(&channel.channel_id)?;
    let checked = channel.check();
    let vetted = endpoint::vet(&ingress.guard, Some(&channel.channel_metadata));
    together(checked, vetted).map_err(Problem::invalid)?;
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
    ingress.channel_cache.forget(id).await;
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

/// The response to a creation. It is the only one with the first secret.
#[derive(Serialize)]
struct Created {
    #[serde(flatten)]
    channel: Channel,
    signing_secret: String,
}

/// `GET /channel/{channel_id}`
pub(crate) async fn read(
    State(ingress): State<Ingress>,
    ChannelPath(id): ChannelPath,
) -> Result<Response, Problem> {
    let stored = ingress.store.get(&id).await?;
    let mut answer = ingress.response_budget.json(&stored.channel, ())?;
    let version = HeaderValue::try_from(etag::of(&stored.version));
    let version = version.map_err(|_no_header| Kind::Internal)?;
    answer.headers_mut().insert(header::ETAG, version);
    Ok(answer)
}

/// `PUT /channel/{channel_id}`
pub(crate) async fn update(
    State(ingress): State<Ingress>,
    ChannelPath(id): ChannelPath,
    headers: HeaderMap,
    Json(patch): Json<ChannelPatch>,
) -> Result<Response, Problem> {
    let vetted = endpoint::vet(&ingress.guard, patch.channel_metadata.as_ref());
    together(patch.check(&id), vetted).map_err(Problem::invalid)?;
    let expected = etag::expected(&headers, &id, &*ingress.store).await?;
    let updated = ingress.store.update(&id, &patch, expected.as_ref()).await?;
    ingress.channel_cache.forget(&id).await;
    Ok(etag::versioned(updated))
}

/// `DELETE /channel/{channel_id}`
pub(crate) async fn delete(
    State(ingress): State<Ingress>,
    ChannelPath(id): ChannelPath,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let expected = etag::expected(&headers, &id, &*ingress.store).await?;
    ingress.store.delete(&id, expected.as_ref()).await?;
    ingress.channel_cache.forget(&id).await;
    Ok(StatusCode::NO_CONTENT)
}

/// All problems together, wherever they were found.
fn together(
    checked: Result<(), Vec<FieldError>>,
    vetted: Option<FieldError>,
) -> Result<(), Vec<FieldError>> {
    let mut errors = checked.err().unwrap_or_default();
    errors.extend(vetted);
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors)
    }
}
