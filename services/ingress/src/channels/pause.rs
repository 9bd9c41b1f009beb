//! `POST /channel/{channel_id}/pause` and `/resume`: a paused channel accepts messages and
//! delivers none.

use axum::{extract::State, response::Response};
use roundtrip_model::{ChannelId, NoticeEvent, notice::PausedBy};

use super::etag::versioned;
use crate::{ingress::Ingress, parameters::ChannelPath, problem::Problem};

pub(crate) async fn pause(
    State(ingress): State<Ingress>,
    ChannelPath(id): ChannelPath,
) -> Result<Response, Problem> {
    set(&ingress, &id, true).await
}

pub(crate) async fn resume(
    State(ingress): State<Ingress>,
    ChannelPath(id): ChannelPath,
) -> Result<Response, Problem> {
    set(&ingress, &id, false).await
}

async fn set(ingress: &Ingress, id: &ChannelId, paused: bool) -> Result<Response, Problem> {
    let stored = ingress.store.set_paused(id, None, paused).await?;
    ingress.channel_changed(id).await;
    tracing::info!(channel_id = %id, paused, "channel.paused");
    if paused {
        ingress.notices.offer(NoticeEvent::ChannelPaused {
            channel_id: id.clone(),
            by: PausedBy::Call,
        });
    }
    Ok(versioned(stored))
}
