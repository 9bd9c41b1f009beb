//! The metrics of operations on the store.

use std::time::Instant;

use roundtrip_metrics::{Counters, Histograms, REQUEST};

use crate::{
    ChannelError, DeadQueue, KeyError, QueryError, ReplayError, SecretsError, Unavailable,
};

const DEAD_QUEUES: [DeadQueue; 3] = [
    DeadQueue::Outbound,
    DeadQueue::Callbacks,
    DeadQueue::Notices,
];

roundtrip_metrics::label_of! { DeadQueue as "queue": DEAD_QUEUES, DeadQueue::name }

roundtrip_metrics::label! {
    enum StoreResult as "result" {
        Ok = "ok",
        /// The store returned an error, for example that the channel does not exist.
        Error = "error",
        Unavailable = "unavailable",
    }
}

roundtrip_metrics::metrics! {
    pub static METRICS;
    /// Operations on the store by result.
    static OPERATIONS: Counters<StoreResult> = "roundtrip_store_operations_total";
    /// Duration of operations on the store.
    static DURATION: Histograms<()> = "roundtrip_store_operation_duration_seconds" in REQUEST;
}

/// The error of an operation.
pub(crate) trait StoreError: From<Unavailable> + Send + 'static {
    fn is_unavailable(&self) -> bool;
}

impl StoreError for Unavailable {
    fn is_unavailable(&self) -> bool {
        true
    }
}

macro_rules! store_errors {
    ($($error:ident)*) => {
        $(impl StoreError for $error {
            fn is_unavailable(&self) -> bool {
                matches!(self, Self::Unavailable(_))
            }
        })*
    };
}

store_errors! { ChannelError SecretsError QueryError ReplayError KeyError }

/// Counts an operation on the store.
pub(crate) async fn counted<T, E: StoreError>(
    operation: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let began = Instant::now();
    let done = operation.await;
    DURATION.observe_since((), began);
    OPERATIONS.inc(match &done {
        Ok(_) => StoreResult::Ok,
        Err(error) if error.is_unavailable() => StoreResult::Unavailable,
        Err(_) => StoreResult::Error,
    });
    done
}
