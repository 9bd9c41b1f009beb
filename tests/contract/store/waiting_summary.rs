//! Messages that wait: how many they are, and why.

use roundtrip_model::waiting::WaitReason;
use roundtrip_store::{Settlement, WaitingMessage, WaitingRoom, WaitingSummary};

use super::{
    Harness,
    ledger_waiting::{deferred, put, settle, waiting},
    samples::at,
};

/// The harnesses' `max_counted_waiting`.
pub(crate) const MAX_COUNTED: u32 = 100;

async fn summary(store: &(impl WaitingRoom + ?Sized), channel: &str) -> WaitingSummary {
    let summary = store.waiting_summary(&super::id(channel)).await;
    summary.expect("a summary")
}

pub(crate) async fn a_summary_counts_a_channels_messages_by_reason(harness: &impl Harness) {
    let store = &**harness.store();
    let message = |millis, due_at, reason| WaitingMessage {
        due_at: at(due_at),
        reason,
        ..waiting(millis, "c")
    };
    let messages = [
        message(7, 9000, WaitReason::Scheduled),
        message(4, 8000, WaitReason::Retry),
        message(5, 7000, WaitReason::Retry),
    ];
    assert_eq!(summary(store, "c").await, WaitingSummary::default());
    put(store, &messages).await;
    put(store, &[waiting(0, "another")]).await;
    let expected = WaitingSummary {
        count: 3,
        has_more: false,
        reasons: [(WaitReason::Retry, 2), (WaitReason::Scheduled, 1)].into(),
        oldest_accepted_at: Some(at(4)),
        next_due_at: Some(at(7000)),
    };
    assert_eq!(summary(store, "c").await, expected);
    for message in &messages[1..] {
        settle(store, message, Settlement::Removed).await;
    }
    let expected = WaitingSummary {
        count: 1,
        has_more: false,
        reasons: [(WaitReason::Scheduled, 1)].into(),
        oldest_accepted_at: Some(at(7)),
        next_due_at: Some(at(9000)),
    };
    assert_eq!(summary(store, "c").await, expected);
}

/// By a settlement, and by a later attempt that replaces it.
pub(crate) async fn a_summary_counts_a_changed_message_by_its_present_reason(
    harness: &impl Harness,
) {
    let store = &**harness.store();
    let messages = [0, 1, 2].map(|millis| waiting(millis, "c"));
    put(store, &messages).await;
    settle(store, &messages[0], deferred(2, 5000)).await;
    let replaced = WaitingMessage {
        attempts: 5,
        reason: WaitReason::EndpointFailing,
        ..messages[1].clone()
    };
    for _ in 0..2 {
        put(store, std::slice::from_ref(&replaced)).await;
        let expected = [
            (WaitReason::ChannelPaused, 1),
            (WaitReason::Retry, 1),
            (WaitReason::EndpointFailing, 1),
        ];
        let summary = summary(store, "c").await;
        assert_eq!((summary.count, summary.reasons), (3, expected.into()));
    }
}

/// An engine that does not count all of them says so.
pub(crate) async fn a_summary_of_many_messages_counts_all_or_says_that_more_wait(
    harness: &impl Harness,
) {
    let store = &**harness.store();
    let scheduled = WaitingMessage {
        reason: WaitReason::Scheduled,
        ..waiting(0, "c")
    };
    put(store, &[scheduled]).await;
    let many: Vec<_> = (1..=i64::from(MAX_COUNTED) + 1)
        .map(|millis| waiting(millis, "c"))
        .collect();
    put(store, &many).await;
    let summary = summary(store, "c").await;
    let missing = u64::from(summary.has_more);
    let paused = u64::from(MAX_COUNTED) + 1 - missing;
    let expected = WaitingSummary {
        count: paused + 1,
        has_more: summary.has_more,
        reasons: [
            (WaitReason::ChannelPaused, paused),
            (WaitReason::Scheduled, 1),
        ]
        .into(),
        oldest_accepted_at: Some(at(0)),
        next_due_at: Some(at(0)),
    };
    assert_eq!(summary, expected);
}
