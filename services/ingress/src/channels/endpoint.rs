//! Checks a channel's endpoint.
//!
//! The host's name is not resolved here. It may resolve otherwise at delivery, which checks the
//! address. So a name that does not resolve yet is accepted.

use roundtrip_egress::{Guard, Refusal};
use roundtrip_model::channel::{ENDPOINT_URL, FieldError};
use serde_json::{Map, Value};

/// What is wrong with the endpoint, if the metadata name a URL. The check of the other fields
/// reports what is no URL.
pub(super) fn vet(guard: &Guard, metadata: &Map<String, Value>) -> Option<FieldError> {
    let text = metadata.get(ENDPOINT_URL)?.as_str()?;
    match guard.vet_url(text) {
        Ok(_) | Err(Refusal::Url(_)) => None,
        Err(refusal) => {
            let field = format!("channel_metadata.{ENDPOINT_URL}");
            Some(FieldError::new(field, refusal.to_string()))
        }
    }
}
