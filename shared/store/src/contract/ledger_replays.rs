//! Replays, and who works on them.
#![expect(clippy::missing_panics_doc, reason = "a case fails by a panic")]

use std::time::Duration;

use futures::future::join_all;
use roundtrip_model::{ReplayId, State, decision::DeadKind};

use super::{
    Harness,
    samples::{at, message_id},
};
use crate::{
    DeadFilter, DeadQueue, MessageFilter, Progress, Replay, ReplaySource, ReplayStatus, Replays,
};

/// How long a lease is, here.
const LEASE: Duration = Duration::from_secs(1);

fn replay(source: ReplaySource) -> Replay {
    Replay {
        replay_id: ReplayId::generate(),
        source,
        rate_per_second: Some(500),
        status: ReplayStatus::Running,
        matched: 10_000,
        progress: Progress::default(),
        created_at: at(0),
        ended_at: None,
    }
}

fn of_everything() -> Replay {
    replay(ReplaySource::DeadLetters(DeadFilter::default()))
}

fn progress(replayed: u64) -> Progress {
    Progress {
        replayed,
        skipped: 3,
        cursor: Some(format!("cursor-{replayed}")),
    }
}

async fn create(store: &(impl Replays + ?Sized), replay: &Replay) {
    store.create_replay(replay).await.expect("to create it");
}

async fn read(store: &(impl Replays + ?Sized), id: &ReplayId) -> Replay {
    let found = store.replay(id).await.expect("to look for it");
    found.expect("the replay to be there")
}

/// Claims what there is, so many milliseconds after the beginning.
async fn claim(store: &(impl Replays + ?Sized), owner: &str, millis: i64) -> Option<Replay> {
    let claimed = store.claim_replay(owner, at(millis), LEASE).await;
    claimed.expect("to ask for a replay")
}

async fn advance(
    store: &(impl Replays + ?Sized),
    id: &ReplayId,
    owner: &str,
    replayed: u64,
    until: i64,
) -> Option<ReplayStatus> {
    let advanced = store
        .advance_replay(id, owner, &progress(replayed), at(until))
        .await;
    advanced.expect("to advance it")
}

/// Whatever its source is.
pub async fn a_replay_is_kept_as_it_was(harness: &impl Harness) {
    let store = &**harness.store();
    let letters = DeadFilter {
        ids: Some(vec!["a".to_owned()]),
        queue: Some(DeadQueue::Callbacks),
        reason: Some(DeadKind::TooOld),
        since: Some(at(1)),
        ..DeadFilter::default()
    };
    let messages = MessageFilter {
        message_ids: Some(vec![message_id(0)]),
        channel: Some(super::id("c")),
        session: "s".parse().ok(),
        state: Some(State::Delivered),
        until: Some(at(2)),
        ..MessageFilter::default()
    };
    let ended = Replay {
        rate_per_second: None,
        status: ReplayStatus::Cancelled,
        progress: progress(7),
        ended_at: Some(at(5)),
        ..replay(ReplaySource::Messages(messages))
    };
    for replay in [replay(ReplaySource::DeadLetters(letters)), ended] {
        create(store, &replay).await;
        assert_eq!(read(store, &replay.replay_id).await, replay);
    }
    let unknown = store.replay(&ReplayId::generate()).await;
    assert_eq!(unknown.expect("an answer"), None);
}

/// Of many that ask at once, and only while it runs.
pub async fn a_replay_is_claimed_by_one(harness: &impl Harness) {
    let (store, second) = (&**harness.store(), harness.second_store().await);
    assert_eq!(claim(store, "one", 0).await, None);
    let replay = of_everything();
    create(store, &replay).await;
    let owners: Vec<String> = (0..10).map(|number| format!("owner-{number}")).collect();
    let asked = owners.iter().enumerate().map(async |(number, owner)| {
        let store = if number % 2 == 0 { store } else { &*second };
        claim(store, owner, 0).await
    });
    let claimed: Vec<Replay> = join_all(asked).await.into_iter().flatten().collect();
    assert_eq!(claimed, [replay]);
}

/// Each owner gets another one, and the owner of the only one does not get it twice.
pub async fn a_leased_replay_is_not_claimed(harness: &impl Harness) {
    let store = &**harness.store();
    let replays = [of_everything(), of_everything()];
    for replay in &replays {
        create(store, replay).await;
    }
    let one = claim(store, "one", 0).await.expect("a replay");
    let other = claim(store, "two", 0).await.expect("the other replay");
    assert_ne!(one.replay_id, other.replay_id);
    for owner in ["one", "two", "three"] {
        assert_eq!(claim(store, owner, 999).await, None, "{owner}");
    }
}

/// Its owner has died: another goes on from where it was, and the first has lost it.
pub async fn a_lease_that_ran_out_lets_another_go_on(harness: &impl Harness) {
    let store = &**harness.store();
    let replay = of_everything();
    let id = replay.replay_id;
    create(store, &replay).await;
    claim(store, "one", 0).await.expect("the replay");
    // Held on to: the lease ends later.
    let running = Some(ReplayStatus::Running);
    assert_eq!(advance(store, &id, "one", 40, 2000).await, running);
    assert_eq!(claim(store, "two", 1999).await, None);

    let taken = claim(store, "two", 2000).await.expect("the replay");
    assert_eq!(taken.progress, progress(40));
    assert_eq!(advance(store, &id, "one", 50, 9000).await, None);
    assert_eq!(read(store, &id).await.progress, progress(40));
    assert_eq!(advance(store, &id, "two", 60, 4000).await, running);
    assert_eq!(read(store, &id).await.progress, progress(60));
    assert_eq!(claim(store, "one", 3999).await, None);
}

/// Who has not claimed it, or speaks of none, changes nothing.
pub async fn only_the_owner_advances_a_replay(harness: &impl Harness) {
    let store = &**harness.store();
    let replay = of_everything();
    let id = replay.replay_id;
    create(store, &replay).await;
    assert_eq!(advance(store, &id, "one", 1, 1000).await, None);
    claim(store, "one", 0).await.expect("the replay");
    assert_eq!(advance(store, &id, "two", 1, 1000).await, None);
    assert_eq!(
        advance(store, &ReplayId::generate(), "one", 1, 1000).await,
        None
    );
    assert_eq!(read(store, &id).await, replay);
}

/// Its owner learns of it when it advances, what was done is written down, and nobody claims it.
pub async fn a_cancelled_replay_stops(harness: &impl Harness) {
    let store = &**harness.store();
    let replay = of_everything();
    let id = replay.replay_id;
    create(store, &replay).await;
    claim(store, "one", 0).await.expect("the replay");
    let cancelled = store.end_replay(&id, ReplayStatus::Cancelled, at(10)).await;
    let cancelled = cancelled.expect("an answer").expect("the replay");
    assert_eq!(cancelled.status, ReplayStatus::Cancelled);
    assert_eq!(cancelled.ended_at, Some(at(10)));

    let seen = advance(store, &id, "one", 12, 1000).await;
    assert_eq!(seen, Some(ReplayStatus::Cancelled));
    let left = read(store, &id).await;
    assert_eq!(left.progress, progress(12));
    assert_eq!(left.status, ReplayStatus::Cancelled);
    assert_eq!(claim(store, "two", 100_000).await, None);
}

/// How and when it ended the first time.
pub async fn a_replay_that_has_ended_stays_as_it_is(harness: &impl Harness) {
    let store = &**harness.store();
    for (first, second) in [
        (ReplayStatus::Done, ReplayStatus::Cancelled),
        (ReplayStatus::Cancelled, ReplayStatus::Done),
    ] {
        let replay = of_everything();
        let id = replay.replay_id;
        create(store, &replay).await;
        let ended = store.end_replay(&id, first, at(10)).await;
        let ended = ended.expect("an answer").expect("the replay");
        let again = store.end_replay(&id, second, at(20)).await;
        assert_eq!(again.expect("an answer").as_ref(), Some(&ended));
        assert_eq!(ended.status, first);
        assert_eq!(ended.ended_at, Some(at(10)));
        assert_eq!(read(store, &id).await, ended);
    }
    let id = ReplayId::generate();
    let unknown = store.end_replay(&id, ReplayStatus::Done, at(10)).await;
    assert_eq!(unknown.expect("an answer"), None);
}
