//! The metrics of what the recorder writes to the store.

use roundtrip_metrics::{Counters, END_TO_END, Histograms};
use roundtrip_model::decision::DeadKind;
use roundtrip_store::DeadQueue;

roundtrip_metrics::metrics! {
    pub static METRICS;
    /// Dead letters written to the store, by the queue that they came from and the reason.
    pub(crate) static DEAD_LETTERS: Counters<(DeadQueue, DeadKind)> = "roundtrip_dead_letters_total";
    /// Time from each journal entry to its write to the store.
    pub(crate) static JOURNAL_LAG: Histograms<()> = "roundtrip_journal_lag_seconds" in END_TO_END;
}
