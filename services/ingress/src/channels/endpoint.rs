//! Whether a channel may have the endpoint that it is given.
//!
//! What its host's name leads to is not asked here: it may be another place when a message is
//! delivered, and is vetted then. So a name that nobody can resolve yet is no obstacle.

use roundtrip_egress::{Guard, Refusal};
use roundtrip_model::channel::{ENDPOINT_URL, FieldError};
use serde_json::{Map, Value};

/// What is wrong with the endpoint, if these metadata name a URL; what is no URL at all the check
/// of the other fields has found.
pub(super) fn vet(guard: &Guard, metadata: Option<&Map<String, Value>>) -> Option<FieldError> {
    let text = metadata?.get(ENDPOINT_URL)?.as_str()?;
    match guard.vet_url(text) {
        Ok(_) | Err(Refusal::Url(_)) => None,
        Err(refusal) => {
            let field = format!("channel_metadata.{ENDPOINT_URL}");
            Some(FieldError::new(field, refusal.to_string()))
        }
    }
}
