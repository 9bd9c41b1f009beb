//! What a delivery needs of a channel.
//!
//! Invariant: only `endpoint_url` and `delivery` are read. Whatever else the document holds, in
//! whatever type, keeps no message from its endpoint.

use roundtrip_model::{
    ChannelUid, DeliverySettings,
    channel::{self, FieldError},
};
use serde_json::{Map, Value};
use url::Url;

/// Where a channel's messages go, and how it wants them.
#[derive(Debug, Clone, PartialEq)]
pub struct DeliveryTarget {
    /// Which of the channels that have had this id.
    pub uid: ChannelUid,
    /// Where deliveries go, or why they cannot go anywhere.
    pub endpoint: Result<Url, FieldError>,
    /// How the channel wants its deliveries.
    pub settings: DeliverySettings,
}

impl DeliveryTarget {
    /// What this metadata says.
    #[must_use]
    pub fn new(uid: ChannelUid, metadata: &Map<String, Value>) -> Self {
        Self {
            uid,
            endpoint: channel::endpoint(metadata),
            settings: DeliverySettings::of(metadata),
        }
    }
}
