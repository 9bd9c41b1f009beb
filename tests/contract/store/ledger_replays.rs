//! Replays and their leases.

use std::time::Duration;

use futures::future::join_all;
use roundtrip_model::{CallbackId, ReplayId, State, decision::DeadKind};

use super::{
    Harness,
    samples::{at, message_id},
};
use roundtrip_store::{
    AnswerFilter, DeadFilter, DeadQueue, MAX_RUNNING_REPLAYS, MessageFilter, Progress, Replay,
    ReplayError, ReplayFilter, ReplaySource, ReplayStatus, Replays, Skip, SkipReason, StateFilter,
};

/// The length of a lease in these cases.
const LEASE: Duration = Duration::from_secs(1);

fn replay(source: ReplaySource) -> Replay {
    Replay {
        replay_id: ReplayId::generate(),
        requested_by: "key_1".to_owned(),
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
        skips: vec![Skip {
            id: "cb_1".to_owned(),
            reason: SkipReason::ContentTruncated,
        }],
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

/// Claims a replay, this long after the beginning.
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

/// With any source.
pub(crate) async fn a_replay_reads_back_unchanged(harness: &impl Harness) {
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
        state: Some(StateFilter::Is(State::Delivered)),
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
    let taken = MessageFilter {
        state: Some(StateFilter::Taken),
        channels: Some(vec![super::id("a"), super::id("b")]),
        ..MessageFilter::default()
    };
    let taken = replay(ReplaySource::Messages(taken));
    let answers = replay(ReplaySource::Answers(AnswerFilter {
        callback_ids: Some(vec![CallbackId::generate()]),
        session: "s".parse().ok(),
        since: Some(at(1)),
        ..AnswerFilter::default()
    }));
    let letters = replay(ReplaySource::DeadLetters(letters));
    for replay in [letters, ended, taken, answers] {
        create(store, &replay).await;
        assert_eq!(read(store, &replay.replay_id).await, replay);
    }
    let unknown = store.replay(&ReplayId::generate()).await;
    assert_eq!(unknown.expect("an answer"), None);
}

/// By one of many concurrent claims, and only while it runs.
pub(crate) async fn a_replay_is_claimed_by_one(harness: &impl Harness) {
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

/// Each owner gets a different one. The owner of the only one does not get it again.
pub(crate) async fn a_leased_replay_is_not_claimed(harness: &impl Harness) {
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

/// Its owner has died: another continues from its progress, and the first has lost the lease.
pub(crate) async fn a_lease_that_ran_out_lets_another_go_on(harness: &impl Harness) {
    let store = &**harness.store();
    let replay = of_everything();
    let id = replay.replay_id;
    create(store, &replay).await;
    claim(store, "one", 0).await.expect("the replay");
    // The owner extends its lease.
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

/// A process without the lease, or with an unknown id, changes nothing.
pub(crate) async fn only_the_owner_advances_a_replay(harness: &impl Harness) {
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

/// Its owner learns of it when it records progress. The progress is kept, and the replay cannot be
/// claimed again.
pub(crate) async fn a_cancelled_replay_stops(harness: &impl Harness) {
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

/// It keeps the status and the time of its first end.
pub(crate) async fn an_ended_replay_does_not_change(harness: &impl Harness) {
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

/// The one whose lease ended first comes first, and a new one before all others.
pub(crate) async fn replays_take_turns(harness: &impl Harness) {
    let store = &**harness.store();
    let replays = [of_everything(), of_everything(), of_everything()];
    for replay in &replays[..2] {
        create(store, replay).await;
    }
    let [first, second, third] = replays.each_ref().map(|replay| replay.replay_id);
    let claimed = async |owner: &str, millis| {
        let claimed = claim(store, owner, millis).await;
        claimed.map(|replay| replay.replay_id)
    };
    assert_eq!(claimed("one", 0).await, Some(first));
    assert_eq!(claimed("two", 0).await, Some(second));
    // Both leases end early: the second at 20, the first at 30.
    advance(store, &second, "two", 1, 20).await;
    advance(store, &first, "one", 1, 30).await;
    assert_eq!(claimed("three", 19).await, None);
    create(store, &replays[2]).await;
    assert_eq!(claimed("four", 40).await, Some(third));
    assert_eq!(claimed("five", 40).await, Some(second));
    assert_eq!(claimed("six", 40).await, Some(first));
    assert_eq!(claimed("seven", 40).await, None);
}

/// An ended replay no longer counts. Each key has a limit of its own.
pub(crate) async fn a_key_has_a_few_replays_running_and_no_more(harness: &impl Harness) {
    let store = &**harness.store();
    let first = of_everything();
    create(store, &first).await;
    for _ in 1..MAX_RUNNING_REPLAYS {
        create(store, &of_everything()).await;
    }
    let refused = store.create_replay(&of_everything()).await;
    assert!(matches!(refused, Err(ReplayError::TooMany)), "{refused:?}");
    let others = Replay {
        requested_by: "key_2".to_owned(),
        ..of_everything()
    };
    create(store, &others).await;
    let ended = store.end_replay(&first.replay_id, ReplayStatus::Done, at(10));
    ended.await.expect("to end it");
    create(store, &of_everything()).await;
}

async fn listed(
    store: &(impl Replays + ?Sized),
    filter: &ReplayFilter,
    after: Option<&ReplayId>,
    limit: u16,
) -> Vec<ReplayId> {
    let page = store.replays(filter, after, limit).await;
    let page = page.expect("a page");
    page.iter().map(|replay| replay.replay_id).collect()
}

/// Page by page, also by status, each unchanged.
pub(crate) async fn replays_are_listed_the_latest_first(harness: &impl Harness) {
    let store = &**harness.store();
    let replays = [of_everything(), of_everything(), of_everything()];
    for replay in &replays {
        create(store, replay).await;
    }
    let [first, second, third] = replays.each_ref().map(|replay| replay.replay_id);
    let all = ReplayFilter::default();
    assert_eq!(listed(store, &all, None, 2).await, [third, second]);
    assert_eq!(listed(store, &all, Some(&second), 2).await, [first]);
    assert_eq!(listed(store, &all, Some(&first), 2).await, []);
    let ended = store.end_replay(&second, ReplayStatus::Cancelled, at(10));
    ended.await.expect("to end it");
    let running = ReplayFilter {
        status: Some(ReplayStatus::Running),
        ..ReplayFilter::default()
    };
    assert_eq!(listed(store, &running, None, 9).await, [third, first]);
    let page = store.replays(&all, None, 9).await.expect("a page");
    assert_eq!(page[0], replays[2]);
    assert_eq!(page[1], read(store, &second).await);
}

/// Only those that are limited to some of the channels and to no others.
pub(crate) async fn replays_of_other_channels_are_not_listed(harness: &impl Harness) {
    let store = &**harness.store();
    let of = |channels: &[&str]| {
        let channels = channels.iter().map(|id| super::id(id)).collect();
        replay(ReplaySource::Messages(MessageFilter {
            channels: Some(channels),
            ..MessageFilter::default()
        }))
    };
    let of_one = replay(ReplaySource::DeadLetters(DeadFilter {
        channel: Some(super::id("a")),
        ..DeadFilter::default()
    }));
    let of_both = of(&["a", "b"]);
    for replay in [
        &of_one,
        &of_both,
        &of(&["a", "x"]),
        &of(&["x"]),
        &of_everything(),
    ] {
        create(store, replay).await;
    }
    for (channels, expected) in [
        (vec!["a", "b"], vec![of_both.replay_id, of_one.replay_id]),
        (vec!["a"], vec![of_one.replay_id]),
        (vec!["b"], vec![]),
    ] {
        let within = ReplayFilter {
            channels: Some(channels.iter().map(|id| super::id(id)).collect()),
            ..ReplayFilter::default()
        };
        let found = listed(store, &within, None, 9).await;
        assert_eq!(found, expected, "{channels:?}");
    }
}
