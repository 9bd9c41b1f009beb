//! The metrics of the journal, as far as it is in this process.

use roundtrip_metrics::Gauges;

roundtrip_metrics::metrics! {
    pub static METRICS;
    /// Size of the journal entries that the broker has not confirmed yet. At 32 MiB the roles wait.
    pub(crate) static UNCONFIRMED: Gauges<()> = "roundtrip_journal_unconfirmed_bytes";
}
