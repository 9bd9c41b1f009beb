//! `POST /channel/{channel_id}/pause` and `/resume`: a paused channel accepts messages and
//! delivers none.

use axum::{extract::State, response::Response};

use super::{answer, channel_id};
use crate::{Ingress, parameters::PathId, problem::Problem};

/// `POST /channel/{channel_id}/pause`
pub(crate) async fn pause(
    State(ingress): State<Ingress>,
    PathId(id): PathId,
) -> Result<Response, Problem> {
    set(&ingress, &id, true).await
}

/// `POST /channel/{channel_id}/resume`
pub(crate) async fn resume(
    State(ingress): State<Ingress>,
    PathId(id): PathId,
) -> Result<Response, Problem> {
    set(&ingress, &id, false).await
}

async fn set(ingress: &Ingress, id: &str, paused: bool) -> Result<Response, Problem> {
    let id = channel_id(id)?;
    let stored = ingress.store.set_paused(&id, None, paused).await?;
    ingress.known.forget(&id).await;
    tracing::info!(channel_id = %id, paused, "channel.paused");
    Ok(answer(stored))
}
