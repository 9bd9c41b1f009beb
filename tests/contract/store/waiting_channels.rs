//! The channels of waiting messages: who has them, and when they are looked at.

use std::collections::BTreeSet;

use futures::future::join_all;
use roundtrip_store::{Settlement, WaitingMessage, WaitingRoom};

use super::{
    Harness,
    ledger_waiting::{expiring, put, settle, waiting},
    samples::at,
};

/// The length of a lease in these cases, in milliseconds.
const LEASE: i64 = 1000;
/// Long after every time in these cases.
const END: i64 = 1_000_000;

/// The channels that the owner gets, this long after the beginning.
pub(super) async fn claimed(
    store: &(impl WaitingRoom + ?Sized),
    owner: &str,
    millis: i64,
) -> Vec<String> {
    claimed_of(store, owner, millis, 100).await
}

async fn claimed_of(
    store: &(impl WaitingRoom + ?Sized),
    owner: &str,
    millis: i64,
    limit: u16,
) -> Vec<String> {
    let channels = store
        .claim_channels(owner, at(millis), at(millis + LEASE), limit)
        .await;
    let channels = channels.expect("to claim channels");
    channels.iter().map(ToString::to_string).collect()
}

async fn extended(
    store: &(impl WaitingRoom + ?Sized),
    owner: &str,
    channels: &[&str],
    until: i64,
) -> Vec<String> {
    let channels: Vec<_> = channels.iter().map(|id| super::id(id)).collect();
    let kept = store.extend_leases(owner, &channels, at(until)).await;
    let kept = kept.expect("to extend them");
    kept.iter().map(ToString::to_string).collect()
}

/// Ends the owner's lease of channel `c`.
async fn released(store: &(impl WaitingRoom + ?Sized), owner: &str, look_at: Option<i64>) {
    released_at(store, owner, 0, look_at).await;
}

async fn released_at(
    store: &(impl WaitingRoom + ?Sized),
    owner: &str,
    millis: i64,
    look_at: Option<i64>,
) {
    let channel = super::id("c");
    let ended = store.release_channel(owner, &channel, at(millis), look_at.map(at));
    ended.await.expect("to release it");
}

async fn woken(store: &(impl WaitingRoom + ?Sized), channel: &str, millis: i64) {
    let woken = store.wake_channel(&super::id(channel), at(millis)).await;
    woken.expect("to wake it");
}

fn due_at(millis: i64, channel: &str, due_at: i64) -> WaitingMessage {
    WaitingMessage {
        due_at: at(due_at),
        ..waiting(millis, channel)
    }
}

/// Of many concurrent claims.
pub(crate) async fn a_channel_has_one_owner_at_a_time(harness: &impl Harness) {
    let (store, second) = (&**harness.store(), harness.second_store().await);
    assert_eq!(claimed(store, "one", 0).await, [""; 0]);
    let channels: Vec<_> = (0..6).map(|number| format!("c{number}")).collect();
    let messages: Vec<_> = channels.iter().map(|channel| waiting(0, channel)).collect();
    let messages: Vec<_> = (0..)
        .zip(messages)
        .map(|(millis, message)| WaitingMessage {
            id: waiting(millis, "c").id,
            ..message
        })
        .collect();
    put(store, &messages).await;
    let asked = (0..8).map(async |number| {
        let store = if number % 2 == 0 { store } else { &*second };
        claimed_of(store, &format!("owner-{number}"), 10, 4).await
    });
    let mut all = join_all(asked).await.concat();
    all.extend(claimed(store, "last", 10).await);
    let once: BTreeSet<_> = all.iter().cloned().collect();
    assert_eq!(all.len(), once.len(), "{all:?}");
    assert_eq!(once, channels.into_iter().collect());
}

/// The first owner has lost it: its later calls change nothing.
pub(crate) async fn a_lease_that_ended_lets_another_claim_the_channel(harness: &impl Harness) {
    let store = &**harness.store();
    put(store, &[waiting(0, "c")]).await;
    assert_eq!(claimed(store, "one", 0).await, ["c"]);
    assert_eq!(claimed(store, "two", 999).await, [""; 0]);
    assert_eq!(extended(store, "one", &["c", "unknown"], 2000).await, ["c"]);
    assert_eq!(extended(store, "two", &["c"], 9000).await, [""; 0]);
    assert_eq!(extended(store, "one", &[], 9000).await, [""; 0]);
    assert_eq!(claimed(store, "two", 1999).await, [""; 0]);

    assert_eq!(claimed(store, "two", 2000).await, ["c"]);
    assert_eq!(extended(store, "one", &["c"], 9000).await, [""; 0]);
    for look_at in [Some(2100), None] {
        released(store, "one", look_at).await;
        assert_eq!(claimed(store, "three", 2999).await, [""; 0]);
    }
    assert_eq!(claimed(store, "three", 3000).await, ["c"]);
}

pub(crate) async fn channels_that_waited_longest_are_claimed_first(harness: &impl Harness) {
    let store = &**harness.store();
    let messages = [
        due_at(0, "a", 30),
        due_at(1, "b", 10),
        due_at(2, "c", 40),
        due_at(3, "d", 20),
        due_at(4, "d", 90),
    ];
    put(store, &messages).await;
    assert_eq!(claimed_of(store, "one", 1000, 2).await, ["b", "d"]);
    assert_eq!(claimed_of(store, "one", 1000, 0).await, [""; 0]);
    assert_eq!(claimed_of(store, "two", 1000, 2).await, ["a", "c"]);
    assert_eq!(claimed_of(store, "two", 1000, 2).await, [""; 0]);
}

/// At the given time, or when its next message is due.
pub(crate) async fn a_released_channel_is_looked_at_in_time(harness: &impl Harness) {
    let store = &**harness.store();
    put(store, &[due_at(0, "c", 0), due_at(1, "c", 500)]).await;
    assert_eq!(claimed(store, "one", 0).await, ["c"]);
    released(store, "one", Some(200)).await;
    assert_eq!(claimed(store, "two", 199).await, [""; 0]);
    assert_eq!(claimed(store, "two", 200).await, ["c"]);
    settle(store, &due_at(0, "c", 0), Settlement::Removed).await;
    released(store, "two", None).await;
    assert_eq!(claimed(store, "one", 499).await, [""; 0]);
    assert_eq!(claimed(store, "one", 500).await, ["c"]);
    // Its due message is left.
    released(store, "one", None).await;
    assert_eq!(claimed(store, "two", 500).await, ["c"]);
}

/// Whatever else it is looked at for. One that has expired does not put its channel before others.
pub(crate) async fn a_channel_is_looked_at_when_a_message_expires(harness: &impl Harness) {
    let store = &**harness.store();
    let [paused, retried] = [expiring(0, 0, 500), expiring(1, 9000, 3000)];
    put(store, &[paused.clone(), retried]).await;
    assert_eq!(claimed(store, "one", 0).await, ["c"]);
    released_at(store, "one", 10, Some(8000)).await;
    assert_eq!(claimed(store, "one", 499).await, [""; 0]);
    assert_eq!(claimed(store, "one", 500).await, ["c"]);
    released_at(store, "one", 600, Some(8000)).await;
    assert_eq!(claimed(store, "one", 599).await, [""; 0]);
    assert_eq!(claimed(store, "one", 600).await, ["c"]);
    released_at(store, "one", 700, Some(650)).await;
    assert_eq!(claimed(store, "one", 649).await, [""; 0]);
    assert_eq!(claimed(store, "one", 650).await, ["c"]);
    settle(store, &paused, Settlement::Removed).await;
    for look_at in [Some(8000), None] {
        released_at(store, "one", 700, look_at).await;
        assert_eq!(claimed(store, "one", 2999).await, [""; 0]);
        assert_eq!(claimed(store, "one", 3000).await, ["c"]);
    }
}

/// Also if it is released with a time, as a paused channel is.
pub(crate) async fn a_channel_without_messages_is_not_looked_at(harness: &impl Harness) {
    let store = &**harness.store();
    for look_at in [None, Some(200)] {
        let message = waiting(0, "c");
        put(store, std::slice::from_ref(&message)).await;
        assert_eq!(claimed(store, "one", END).await, ["c"], "{look_at:?}");
        settle(store, &message, Settlement::Removed).await;
        released(store, "one", look_at).await;
        woken(store, "c", 0).await;
        assert_eq!(claimed(store, "two", END).await, [""; 0], "{look_at:?}");
    }
    // A later message is looked at as the first was.
    put(store, &[waiting(1, "c")]).await;
    assert_eq!(claimed(store, "two", 1).await, ["c"]);
}

/// With the earliest due time or expiry, also if it is put while the channel waits for a later one.
pub(crate) async fn a_put_has_its_channel_looked_at(harness: &impl Harness) {
    let store = &**harness.store();
    put(store, &[due_at(0, "c", 900), due_at(1, "c", 700)]).await;
    assert_eq!(claimed(store, "one", 699).await, [""; 0]);
    put(store, &[due_at(2, "c", 300)]).await;
    put(store, &[due_at(3, "c", 800)]).await;
    assert_eq!(claimed(store, "one", 299).await, [""; 0]);
    put(store, &[expiring(4, 900, 200), expiring(5, 900, 250)]).await;
    assert_eq!(claimed(store, "one", 199).await, [""; 0]);
    assert_eq!(claimed(store, "one", 200).await, ["c"]);
}

/// It does not end the lease, and takes effect with the lease's end.
pub(crate) async fn a_put_during_a_lease_outlasts_it(harness: &impl Harness) {
    let store = &**harness.store();
    let first = waiting(0, "c");
    put(store, std::slice::from_ref(&first)).await;
    assert_eq!(claimed(store, "one", 0).await, ["c"]);
    put(store, &[due_at(1, "c", 60), due_at(2, "c", 50)]).await;
    put(store, &[due_at(3, "c", 70)]).await;
    assert_eq!(claimed(store, "two", 100).await, [""; 0]);
    settle(store, &first, Settlement::Removed).await;
    released(store, "one", None).await;
    assert_eq!(claimed(store, "two", 49).await, [""; 0]);
    assert_eq!(claimed(store, "two", 50).await, ["c"]);

    // It counts for this lease only.
    for (millis, due_at) in [(1, 60), (2, 50)] {
        settle(
            store,
            &self::due_at(millis, "c", due_at),
            Settlement::Removed,
        )
        .await;
    }
    released(store, "two", None).await;
    assert_eq!(claimed(store, "two", 69).await, [""; 0]);
    assert_eq!(claimed(store, "two", 70).await, ["c"]);
}

/// Its endpoint fails, for example. The messages are put during the lease and after it.
pub(crate) async fn a_channel_released_with_a_time_is_left_alone_while_messages_are_put(
    harness: &impl Harness,
) {
    let store = &**harness.store();
    put(store, &[waiting(0, "c")]).await;
    assert_eq!(claimed(store, "one", 0).await, ["c"]);
    put(store, &[waiting(1, "c")]).await;
    released(store, "one", Some(5000)).await;
    put(store, &[waiting(2, "c"), due_at(3, "c", 4000)]).await;
    assert_eq!(claimed(store, "two", 4999).await, [""; 0]);
    assert_eq!(claimed(store, "two", 5000).await, ["c"]);
}

pub(crate) async fn a_channel_is_held_until_the_time_that_it_was_released_with(
    harness: &impl Harness,
) {
    let store = &**harness.store();
    let held_until = async || store.held_until(&super::id("c")).await.expect("to read it");
    assert_eq!(held_until().await, None);
    let message = waiting(0, "c");
    put(store, std::slice::from_ref(&message)).await;
    assert_eq!(held_until().await, None);
    assert_eq!(claimed(store, "one", 0).await, ["c"]);
    released(store, "one", Some(500)).await;
    assert_eq!(held_until().await, Some(at(500)));
    woken(store, "c", 100).await;
    assert_eq!(held_until().await, Some(at(100)));
    // Its owner finds out whether it can take its messages again.
    assert_eq!(claimed(store, "one", 100).await, ["c"]);
    assert_eq!(held_until().await, None);
    released(store, "one", None).await;
    assert_eq!(held_until().await, None);
}

pub(crate) async fn a_put_counts_again_after_the_channel_was_claimed(harness: &impl Harness) {
    let store = &**harness.store();
    let first = waiting(0, "c");
    put(store, &[first.clone(), due_at(1, "c", 9000)]).await;
    assert_eq!(claimed(store, "one", 0).await, ["c"]);
    released(store, "one", Some(500)).await;
    assert_eq!(claimed(store, "one", 500).await, ["c"]);
    settle(store, &first, Settlement::Removed).await;
    released(store, "one", None).await;
    put(store, &[due_at(2, "c", 600)]).await;
    assert_eq!(claimed(store, "two", 599).await, [""; 0]);
    assert_eq!(claimed(store, "two", 600).await, ["c"]);
}

/// It was resumed, for example.
pub(crate) async fn a_wake_reaches_a_channel_that_was_released_with_a_time(harness: &impl Harness) {
    let store = &**harness.store();
    put(store, &[waiting(0, "c")]).await;
    assert_eq!(claimed(store, "one", 0).await, ["c"]);
    released(store, "one", Some(5000)).await;
    woken(store, "c", 100).await;
    put(store, &[waiting(1, "c")]).await;
    assert_eq!(claimed(store, "two", 99).await, [""; 0]);
    assert_eq!(claimed(store, "two", 100).await, ["c"]);
}

/// The messages are put during the lease and after it.
pub(crate) async fn an_expiry_reaches_a_channel_that_was_released_with_a_time(
    harness: &impl Harness,
) {
    let store = &**harness.store();
    put(store, &[waiting(0, "c")]).await;
    assert_eq!(claimed(store, "one", 0).await, ["c"]);
    let expiring = [expiring(1, 0, 700), expiring(2, 0, 3000)];
    put(store, &expiring[..1]).await;
    released(store, "one", Some(5000)).await;
    assert_eq!(claimed(store, "one", 699).await, [""; 0]);
    assert_eq!(claimed(store, "one", 700).await, ["c"]);
    settle(store, &expiring[0], Settlement::Removed).await;
    released(store, "one", Some(5000)).await;
    put(store, &expiring[1..]).await;
    assert_eq!(claimed(store, "two", 2999).await, [""; 0]);
    assert_eq!(claimed(store, "two", 3000).await, ["c"]);
}

pub(crate) async fn a_wake_has_its_channel_looked_at(harness: &impl Harness) {
    let store = &**harness.store();
    put(store, &[due_at(0, "c", 9000), due_at(1, "another", 9000)]).await;
    woken(store, "unknown", 0).await;
    woken(store, "c", 500).await;
    assert_eq!(claimed(store, "one", 499).await, [""; 0]);
    assert_eq!(claimed(store, "one", 500).await, ["c"]);
    assert_eq!(claimed(store, "one", 8999).await, ["c"], "the lease ended");
}

/// The owner may have looked before the change that the wake is for.
pub(crate) async fn a_wake_during_a_lease_outlasts_it(harness: &impl Harness) {
    let store = &**harness.store();
    put(store, &[due_at(0, "c", 0), due_at(1, "c", 9000)]).await;
    let first = due_at(0, "c", 0);
    for look_at in [Some(8000), None] {
        assert_eq!(claimed(store, "one", 100).await, ["c"]);
        settle(store, &first, Settlement::Removed).await;
        woken(store, "c", 100).await;
        assert_eq!(claimed(store, "two", 100).await, [""; 0]);
        released(store, "one", look_at).await;
        assert_eq!(claimed(store, "two", 100).await, ["c"]);
        released(store, "two", Some(100)).await;
    }
}

/// What is put while the owner finds nothing left is found later.
pub(crate) async fn puts_and_releases_at_once_lose_no_message(harness: &impl Harness) {
    let (store, second) = (&**harness.store(), harness.second_store().await);
    for round in 0..6 {
        let look_at = (round % 2 == 0).then_some(END);
        let (first, later) = (waiting(2 * round, "c"), waiting(2 * round + 1, "c"));
        put(store, std::slice::from_ref(&first)).await;
        assert_eq!(claimed(store, "one", END).await, ["c"]);
        settle(store, &first, Settlement::Removed).await;
        let messages = [later.clone()];
        tokio::join!(released(store, "one", look_at), put(&*second, &messages));
        assert_eq!(claimed(store, "one", END).await, ["c"], "round {round}");
        settle(store, &later, Settlement::Removed).await;
        released(store, "one", None).await;
    }
}
