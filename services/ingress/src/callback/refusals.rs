//! Counts refused answers by reason.
//!
//! Invariant: every refusal is reported, at most one line every [`REPORT_EVERY`]: a line for each
//! would turn a flood of requests into a flood of logs. The log shows neither the token nor the
//! body.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use roundtrip_model::token::Refusal;
use tokio::time::sleep;

/// How long refusals are gathered after the first one.
pub(crate) const REPORT_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(crate) struct Refusals {
    missing: AtomicU64,
    malformed: AtomicU64,
    unknown_key: AtomicU64,
    forged: AtomicU64,
    expired: AtomicU64,
    other_session: AtomicU64,
    unknown_channel: AtomicU64,
    /// Since the start, reported or not.
    unknown_keys_in_all: AtomicU64,
    is_report_due: AtomicBool,
}

impl Refusals {
    pub(crate) fn missing(self: &Arc<Self>) {
        self.count(&self.missing);
    }

    /// How many tokens of an unknown key were refused since the start.
    pub(crate) fn unknown_keys(&self) -> u64 {
        self.unknown_keys_in_all.load(Ordering::Relaxed)
    }

    pub(crate) fn bad_token(self: &Arc<Self>, refusal: Refusal) {
        if refusal == Refusal::UnknownKey {
            self.unknown_keys_in_all.fetch_add(1, Ordering::Relaxed);
        }
        self.count(match refusal {
            Refusal::Malformed => &self.malformed,
            Refusal::UnknownKey => &self.unknown_key,
            Refusal::Forged => &self.forged,
            Refusal::Expired => &self.expired,
            Refusal::OtherSession => &self.other_session,
            Refusal::UnknownChannel => &self.unknown_channel,
        });
    }

    fn count(self: &Arc<Self>, of: &AtomicU64) {
        of.fetch_add(1, Ordering::Relaxed);
        if self.is_report_due.swap(true, Ordering::AcqRel) {
            return;
        }
        let refusals = Arc::clone(self);
        tokio::spawn(async move {
            sleep(REPORT_EVERY).await;
            // Before the counts are read: a refusal in between starts a new report.
            refusals.is_report_due.store(false, Ordering::Release);
            refusals.report();
        });
    }

    fn report(&self) {
        let taken = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        let unknown_key = taken(&self.unknown_key);
        let remedy = (unknown_key > 0)
            .then_some("set the same CALLBACK_SECRET for the ingress and the dispatcher");
        tracing::warn!(
            missing = taken(&self.missing),
            malformed = taken(&self.malformed),
            unknown_key,
            forged = taken(&self.forged),
            expired = taken(&self.expired),
            other_session = taken(&self.other_session),
            unknown_channel = taken(&self.unknown_channel),
            remedy,
            "callbacks.refused"
        );
    }
}
