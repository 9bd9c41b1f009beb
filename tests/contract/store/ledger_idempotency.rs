//! Idempotency keys.

use std::time::Duration;

use futures::future::join_all;
use roundtrip_model::MessageId;

use super::{Harness, samples::at};
use roundtrip_store::{Idempotency, Reservation};

/// The lease of a reservation in these cases.
const LEASE: Duration = Duration::from_secs(1);
/// A key that a producer may choose.
const KEY: &str = "order 1 / $x.y 🚀";

/// A request for the message, this long after the beginning.
async fn reserve(
    store: &(impl Idempotency + ?Sized),
    fingerprint: &str,
    id: &MessageId,
    millis: i64,
) -> Reservation {
    let reserved = store.reserve(KEY, fingerprint, id, at(millis), LEASE).await;
    reserved.expect("to reserve")
}

async fn complete(store: &(impl Idempotency + ?Sized), id: &MessageId) {
    store.complete(KEY, id).await.expect("to complete");
}

async fn release(store: &(impl Idempotency + ?Sized), id: &MessageId) {
    store.release(KEY, id).await.expect("to release");
}

fn two_ids() -> (MessageId, MessageId) {
    (MessageId::generate(), MessageId::generate())
}

/// The key is reserved, then in progress, then done. All processes see the same.
pub(crate) async fn a_key_gets_its_first_answer(harness: &impl Harness) {
    let (store, second) = (&**harness.store(), harness.second_store().await);
    let (id, other) = two_ids();
    assert_eq!(reserve(store, "f", &id, 0).await, Reservation::Taken(id));
    assert_eq!(reserve(store, "f", &other, 1).await, Reservation::UnderWay);
    assert_eq!(
        reserve(&*second, "f", &other, 999).await,
        Reservation::UnderWay
    );
    complete(store, &id).await;
    for millis in [2, 500_000] {
        assert_eq!(
            reserve(store, "f", &other, millis).await,
            Reservation::Done(id)
        );
        assert_eq!(
            reserve(&*second, "f", &other, millis).await,
            Reservation::Done(id)
        );
    }
    let another = store.reserve("another", "f", &other, at(0), LEASE).await;
    assert_eq!(another.expect("to reserve"), Reservation::Taken(other));
}

/// Whether the first request is in progress, has died or is done.
pub(crate) async fn a_key_with_another_fingerprint_is_a_mismatch(harness: &impl Harness) {
    let store = &**harness.store();
    let (id, other) = two_ids();
    assert_eq!(reserve(store, "f", &id, 0).await, Reservation::Taken(id));
    assert_eq!(reserve(store, "g", &other, 1).await, Reservation::Mismatch);
    // The message may have been enqueued.
    assert_eq!(
        reserve(store, "g", &other, 5000).await,
        Reservation::Mismatch
    );
    complete(store, &id).await;
    assert_eq!(reserve(store, "g", &other, 2).await, Reservation::Mismatch);
    assert_eq!(reserve(store, "f", &other, 2).await, Reservation::Done(id));
}

/// As if the request had never been made.
pub(crate) async fn a_released_key_is_free(harness: &impl Harness) {
    let store = &**harness.store();
    let (id, other) = two_ids();
    assert_eq!(reserve(store, "f", &id, 0).await, Reservation::Taken(id));
    release(store, &id).await;
    assert_eq!(
        reserve(store, "g", &other, 1).await,
        Reservation::Taken(other)
    );
    complete(store, &other).await;
    // A completed key stays completed.
    release(store, &other).await;
    assert_eq!(reserve(store, "g", &id, 2).await, Reservation::Done(other));
}

/// The first request died and may have enqueued its message. The next one takes over its message
/// id, so that both are one message, and gets a new lease.
pub(crate) async fn an_expired_reservation_is_taken_over(harness: &impl Harness) {
    let store = &**harness.store();
    let (id, other) = two_ids();
    assert_eq!(reserve(store, "f", &id, 0).await, Reservation::Taken(id));
    assert_eq!(
        reserve(store, "f", &other, 1000).await,
        Reservation::Taken(id)
    );
    assert_eq!(
        reserve(store, "f", &other, 1999).await,
        Reservation::UnderWay
    );
    complete(store, &id).await;
    assert_eq!(
        reserve(store, "f", &other, 5000).await,
        Reservation::Done(id)
    );
}

/// Only the message that holds the key completes or releases it.
pub(crate) async fn a_key_is_settled_by_its_own_message(harness: &impl Harness) {
    let store = &**harness.store();
    let (id, other) = two_ids();
    complete(store, &id).await;
    release(store, &id).await;
    assert_eq!(reserve(store, "f", &id, 0).await, Reservation::Taken(id));
    complete(store, &other).await;
    assert_eq!(reserve(store, "f", &other, 1).await, Reservation::UnderWay);
    release(store, &other).await;
    assert_eq!(reserve(store, "f", &other, 2).await, Reservation::UnderWay);
}

/// Also for concurrent requests to several processes, and after the lease expired.
pub(crate) async fn only_one_of_many_requests_reserves_a_key(harness: &impl Harness) {
    let (store, second) = (&**harness.store(), harness.second_store().await);
    for millis in [0, 1000] {
        let ids: Vec<MessageId> = (0..50).map(|_| MessageId::generate()).collect();
        let asked = ids.iter().enumerate().map(async |(number, id)| {
            let store = if number % 2 == 0 { store } else { &*second };
            reserve(store, "f", id, millis).await
        });
        let answers = join_all(asked).await;
        let taken = |answer: &&Reservation| matches!(answer, Reservation::Taken(_));
        assert_eq!(answers.iter().filter(taken).count(), 1, "{answers:?}");
        let waits = |answer: &&Reservation| **answer == Reservation::UnderWay;
        assert_eq!(answers.iter().filter(waits).count(), 49, "{answers:?}");
    }
}
