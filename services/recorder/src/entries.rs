//! Journal entries into the store.

use async_trait::async_trait;
use roundtrip_broker::{Handler, Parcel};
use roundtrip_model::{DeadReason, Decision, decision::DeadKind};
use roundtrip_store::SharedStore;

use crate::patience::until_taken;

/// How long a batch whose recording panicked waits for its next try.
const AFTER_A_PANIC: std::time::Duration = std::time::Duration::from_secs(30);

/// Records batches of entries.
pub(crate) struct Scribe {
    store: SharedStore,
}

impl Scribe {
    pub(crate) fn new(store: SharedStore) -> Self {
        Self { store }
    }
}

#[async_trait]
impl Handler for Scribe {
    async fn handle(&self, parcel: &Parcel) -> Decision {
        let entries = match roundtrip_journal::decode(&parcel.body) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::error!(id = parcel.id, %error, "a batch of entries cannot be read");
                return Decision::DeadLetter(DeadReason::new(
                    DeadKind::Undecodable,
                    error.to_string(),
                ));
            }
        };
        match until_taken("entries", || self.store.record(&entries)).await {
            Ok(()) => Decision::Done,
            Err(parked) => parked,
        }
    }

    fn panicked(&self, _parcel: &Parcel) -> Decision {
        Decision::RetryAfter(AFTER_A_PANIC)
    }
}
