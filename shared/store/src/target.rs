//! What a delivery needs of a channel.
//!
//! Invariant: only `endpoint_url` and `delivery` are read. No other field, of any type, can stop a
//! delivery.

use roundtrip_model::{
    ChannelUid, DeliverySettings,
    channel::{self, FieldError},
};
use serde_json::{Map, Value};
use url::Url;

#[derive(Debug, Clone, PartialEq)]
pub struct DeliveryTarget {
    pub uid: ChannelUid,
    pub endpoint: Result<Url, FieldError>,
    pub settings: DeliverySettings,
}

impl DeliveryTarget {
    #[must_use]
    pub fn new(uid: ChannelUid, metadata: &Map<String, Value>) -> Self {
        Self {
            uid,
            endpoint: channel::endpoint(metadata),
            settings: DeliverySettings::of(metadata),
        }
    }
}
