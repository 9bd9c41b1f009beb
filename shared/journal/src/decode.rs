//! Decodes the messages of the journal queue.

use bytes::Bytes;
use roundtrip_model::Entry;

#[derive(Debug, thiserror::Error)]
#[error("not a list of journal entries: {0}")]
pub struct DecodeError(#[from] serde_json::Error);

pub fn decode(body: &Bytes) -> Result<Vec<Entry>, DecodeError> {
    Ok(serde_json::from_slice(body)?)
}
