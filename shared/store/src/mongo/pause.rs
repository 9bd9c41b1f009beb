//! Pausing and resuming a channel.
//!
//! Invariant: the write names only the path that changes, so that values of other clients are not
//! rewritten.

use bson::{Bson, Document, doc};
use mongodb::Collection;
use roundtrip_model::{
    ChannelId, ChannelUid,
    channel::FieldError,
    settings::{DELIVERY, PAUSED},
};

use super::{MAX_RACES, as_it_was, read, same, target::uid};
use crate::{StoreError, document::METADATA};

/// Pauses or resumes a channel, and returns it. Writes nothing if the state is the same.
pub(super) async fn set(
    channels: &Collection<Document>,
    id: &ChannelId,
    only: Option<&ChannelUid>,
    paused: bool,
) -> Result<Document, StoreError> {
    for _ in 0..MAX_RACES {
        let found = read(channels, id).await?;
        if only.is_some_and(|only| *only != uid(&found)) {
            return Err(StoreError::NotFound(id.clone()));
        }
        let Some(Change { mut filter, set }) = Change::of(&found, paused)? else {
            return Ok(found);
        };
        filter.extend(same(&found));
        if let Some(updated) = super::set(channels, filter, set).await? {
            return Ok(updated);
        }
    }
    Err(StoreError::Changed(id.clone()))
}

/// A write, and the values that must be unchanged since they were read.
#[derive(Debug, PartialEq)]
struct Change {
    filter: Document,
    set: Document,
}

impl Change {
    /// The change that pauses or resumes a channel. `None` if the state is the same.
    fn of(found: &Document, paused: bool) -> Result<Option<Self>, StoreError> {
        let delivery = format!("{METADATA}.{DELIVERY}");
        let flag = doc! { PAUSED: paused };
        let metadata = match found.get(METADATA) {
            Some(Bson::Document(metadata)) => metadata,
            _ if !paused => return Ok(None),
            // Only a missing or null value is replaced. Any other value belongs to another client.
            other @ (None | Some(Bson::Null)) => {
                return Ok(Some(Self {
                    filter: doc! { METADATA: as_it_was(other) },
                    set: doc! { METADATA: { DELIVERY: flag } },
                }));
            }
            Some(_) => {
                let error =
                    FieldError::new(METADATA, "must be an object for a channel to be paused");
                return Err(StoreError::Unstorable(error));
            }
        };
        Ok(match metadata.get(DELIVERY) {
            Some(Bson::Document(settings)) => {
                let is_paused = settings.get(PAUSED) == Some(&Bson::Boolean(true));
                (is_paused != paused).then(|| {
                    let flag = format!("{delivery}.{PAUSED}");
                    Self {
                        filter: doc! { &flag: as_it_was(settings.get(PAUSED)) },
                        set: doc! { flag: paused },
                    }
                })
            }
            _ if !paused => None,
            other => Some(Self {
                filter: doc! { &delivery: as_it_was(other) },
                set: doc! { delivery: flag },
            }),
        })
    }
}
