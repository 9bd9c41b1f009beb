//! Development only, for a round trip with one `curl`: an `echo` channel that plays the channel
//! server, and an inbox that plays the sessions server. Neither exists in production.

mod echo;
mod inbox;

pub(crate) use inbox::MAX_ANSWERS;

use std::sync::Arc;

use axum::Router;
use roundtrip_egress::Egress;
use roundtrip_model::{Channel, ChannelId, ChannelPatch, Clock, channel::ENDPOINT_URL};
use roundtrip_store::{ChannelError, Channels};
use serde_json::{Map, Value};

use crate::config::Config;

const ECHO: &str = "echo";

pub(crate) fn router(clock: Arc<dyn Clock>, egress: Arc<Egress>) -> anyhow::Result<Router> {
    Ok(echo::router(clock, egress)?.merge(inbox::router()))
}

pub(crate) async fn register_echo(config: &Config, channels: &dyn Channels) -> anyhow::Result<()> {
    let endpoint = Value::String(config.echo_url()?.into());
    let echo = Channel {
        channel_id: ECHO.parse()?,
        channel_name: "Echo".to_owned(),
        channel_description: "Echoes each message (development only)".to_owned(),
        channel_metadata: Map::from_iter([(ENDPOINT_URL.to_owned(), endpoint.clone())]),
        channel_tags: vec!["development".to_owned()],
    };
    let registered = match channels.create(&echo).await {
        Err(ChannelError::Exists(id)) => move_echo(channels, &id, endpoint).await,
        created => created.map(|_| ()),
    };
    match registered {
        Ok(()) => {}
        // The gateway starts without its store. Only an external store can be unavailable; a
        // newcomer has the embedded one.
        Err(error) => tracing::warn!(%error, "the echo channel is not registered"),
    }
    Ok(())
}

/// Updates the channel's URL, as the port may have changed since it was registered.
async fn move_echo(
    channels: &dyn Channels,
    id: &ChannelId,
    endpoint: Value,
) -> Result<(), ChannelError> {
    let stored = channels.get(id).await?;
    let mut metadata = match stored.channel.channel_metadata {
        Value::Object(metadata) => metadata,
        _ => Map::new(),
    };
    if metadata.insert(ENDPOINT_URL.to_owned(), endpoint.clone()) == Some(endpoint) {
        return Ok(());
    }
    let moved = ChannelPatch {
        channel_metadata: Some(metadata),
        ..ChannelPatch::default()
    };
    let moved = channels.update(id, &moved, Some(&stored.version)).await;
    moved.map(drop)
}
