//! Dead letters.

use roundtrip_model::{ReplayId, decision::DeadKind};
use serde_json::json;
use time::Duration;

use super::{
    Harness,
    samples::{at, dead_letter, reason, text},
};
use roundtrip_store::{DeadFilter, DeadLetter, DeadLetters, DeadQueue, Detail, MAX_PAGE_BYTES};

async fn insert(store: &(impl DeadLetters + ?Sized), letters: &[DeadLetter]) {
    store.insert(letters).await.expect("inserted");
}

async fn listed(
    store: &(impl DeadLetters + ?Sized),
    filter: &DeadFilter,
    after: Option<&str>,
    limit: u16,
) -> Vec<DeadLetter> {
    let page = store
        .dead_letters(filter, after, limit, Detail::Whole)
        .await;
    page.expect("a page")
}

/// Twelve dead letters, one each second. The channels alternate between `a` and `b`, the sessions
/// between `x`, `y`, `z`. The first four are answers, the others messages; the first six were
/// refused, the others too old.
fn twelve() -> Vec<DeadLetter> {
    let kinds = |number| match number {
        0..6 => DeadKind::Refused,
        _ => DeadKind::TooOld,
    };
    let queues = |number| match number {
        0..4 => DeadQueue::Callbacks,
        _ => DeadQueue::Outbound,
    };
    (0..12_usize)
        .map(|number| DeadLetter {
            queue: queues(number),
            channel_id: Some(super::id(["a", "b"][number % 2])),
            session_id: ["x", "y", "z"][number % 3].parse().ok(),
            reason: reason(kinds(number)),
            ..dead_letter(1000 * i64::try_from(number).expect("a few"))
        })
        .collect()
}

/// A filter for each condition and for several together, and the dead letters that it finds.
fn filters() -> Vec<(DeadFilter, Vec<usize>)> {
    let letters = twelve();
    let little = Duration::nanoseconds(1);
    let (third, seventh) = (&letters[3].webhook_id, &letters[7].dead_id);
    let all: Vec<&str> = letters.iter().map(|letter| &*letter.dead_id).collect();
    [
        (json!({"channel_id": "a"}), vec![0, 2, 4, 6, 8, 10]),
        (json!({"channel_ids": ["a", "a"]}), vec![0, 2, 4, 6, 8, 10]),
        (
            json!({"channel_ids": ["b", "a"], "queue": "callbacks"}),
            vec![0, 1, 2, 3],
        ),
        (
            json!({"channel_ids": ["b"], "reason": "too_old"}),
            vec![7, 9, 11],
        ),
        (
            json!({"channel_ids": ["b"], "since": text(at(9000))}),
            vec![9, 11],
        ),
        (
            json!({"channel_ids": ["a"], "session_id": "y"}),
            vec![4, 10],
        ),
        (json!({"channel_ids": []}), vec![]),
        (json!({"channel_id": "a", "channel_ids": ["b"]}), vec![]),
        (json!({"session_id": "z"}), vec![2, 5, 8, 11]),
        (json!({"session_id": "unknown"}), vec![]),
        (json!({"queue": "callbacks"}), vec![0, 1, 2, 3]),
        (json!({"reason": "too_old"}), vec![6, 7, 8, 9, 10, 11]),
        (json!({"reason": "undecodable"}), vec![]),
        (json!({"ids": [seventh, third, "x"]}), vec![3, 7]),
        (json!({"ids": []}), vec![]),
        (json!({"since": text(at(10_000))}), vec![10, 11]),
        (json!({"since": text(at(10_000) + little)}), vec![11]),
        (json!({"until": text(at(2000))}), vec![0, 1]),
        (json!({"until": text(at(2000) + little)}), vec![0, 1, 2]),
        (
            json!({"channel_id": "b", "reason": "refused"}),
            vec![1, 3, 5],
        ),
        (
            json!({
                "ids": all,
                "queue": "outbound",
                "channel_id": "b",
                "channel_ids": ["b", "a"],
                "session_id": "z",
                "reason": "refused",
                "since": text(at(5000)),
                "until": text(at(5001)),
            }),
            vec![5],
        ),
    ]
    .map(|(filter, expected)| (serde_json::from_value(filter).expect("a filter"), expected))
    .into()
}

/// A dead letter reads back unchanged, even if little is known of it.
pub(crate) async fn a_dead_letter_reads_back_unchanged(harness: &impl Harness) {
    let store = &**harness.store();
    let known = dead_letter(0);
    let unknown = DeadLetter {
        dead_id: "zzz.4".to_owned(),
        queue: DeadQueue::Callbacks,
        webhook_id: "zzz".to_owned(),
        message_id: None,
        channel_id: None,
        session_id: None,
        reason: reason(DeadKind::Undecodable),
        replay_count: 4,
        body: bytes::Bytes::new(),
        ..dead_letter(1)
    };
    insert(store, &[]).await;
    insert(store, &[unknown.clone(), known.clone()]).await;
    let letters = listed(store, &DeadFilter::default(), None, 10).await;
    assert_eq!(letters, [known.clone(), unknown]);

    // A dead letter without a known channel matches no list of channels.
    let of_c = DeadFilter {
        channels: Some(vec![super::id("c")]),
        ..DeadFilter::default()
    };
    assert_eq!(listed(store, &of_c, None, 10).await, [known]);
}

/// Storing a dead letter twice keeps one, in one call and in two. After a failed replay it is a new
/// one.
pub(crate) async fn a_dead_letter_inserted_twice_is_stored_once(harness: &impl Harness) {
    let store = &**harness.store();
    let (letter, other) = (dead_letter(0), dead_letter(1));
    let again = DeadLetter {
        dead_id: format!("{}.1", letter.webhook_id),
        replay_count: 1,
        ..letter.clone()
    };
    insert(store, &[letter.clone(), letter.clone()]).await;
    let late = DeadLetter {
        dead_at: at(500),
        ..letter.clone()
    };
    insert(store, &[late, again.clone(), other.clone()]).await;
    let letters = listed(store, &DeadFilter::default(), None, 10).await;
    assert_eq!(letters, [letter.clone(), again.clone(), other]);

    // By the message's id it finds both dead letters.
    let message = DeadFilter {
        ids: Some(vec![letter.webhook_id.clone()]),
        ..DeadFilter::default()
    };
    assert_eq!(listed(store, &message, None, 10).await, [letter, again]);
}

/// Each condition alone and several together. The count agrees with the list.
pub(crate) async fn dead_letters_are_found_by_their_filter(harness: &impl Harness) {
    let store = &**harness.store();
    let letters = twelve();
    insert(store, &letters).await;
    for (filter, expected) in filters() {
        let expected: Vec<_> = expected.into_iter().map(|n| letters[n].clone()).collect();
        let found = listed(store, &filter, None, 100).await;
        assert_eq!(found, expected, "{filter:?}");
        let count = store.count_dead_letters(&filter).await.expect("a count");
        assert_eq!(count, expected.len() as u64, "{filter:?}");
    }
}

/// A purge removes what the list shows, returns the number, and keeps the others.
pub(crate) async fn a_purge_removes_what_its_filter_finds(harness: &impl Harness) {
    let store = &**harness.store();
    let letters = twelve();
    for (filter, expected) in filters() {
        insert(store, &letters).await;
        let purged = store.purge_dead_letters(&filter).await.expect("a purge");
        assert_eq!(purged, expected.len() as u64, "{filter:?}");
        let numbered = letters.iter().enumerate();
        let others: Vec<_> = numbered
            .filter(|(number, _)| !expected.contains(number))
            .map(|(_, letter)| letter.clone())
            .collect();
        let left = listed(store, &DeadFilter::default(), None, 100).await;
        assert_eq!(left, others, "{filter:?}");
    }
}

/// For any number of dead letters.
pub(crate) async fn a_purge_of_everything_leaves_nothing(harness: &impl Harness) {
    let store = &**harness.store();
    let letters: Vec<DeadLetter> = (0..1234).map(dead_letter).collect();
    for some in letters.chunks(500) {
        insert(store, some).await;
    }
    let all = DeadFilter::default();
    assert_eq!(store.count_dead_letters(&all).await.expect("a count"), 1234);
    assert_eq!(store.purge_dead_letters(&all).await.expect("a purge"), 1234);
    assert_eq!(store.count_dead_letters(&all).await.expect("a count"), 0);
    assert_eq!(store.purge_dead_letters(&all).await.expect("a purge"), 0);
    assert_eq!(listed(store, &all, None, 100).await, []);
}

/// A replayed dead letter is in no list, count or purge. A redelivery from its queue does not
/// restore it.
pub(crate) async fn a_replayed_dead_letter_is_no_longer_listed(harness: &impl Harness) {
    let store = &**harness.store();
    let letters = twelve();
    insert(store, &letters).await;
    let by = ReplayId::generate();
    let replayed = [3, 7].map(|number: usize| letters[number].dead_id.clone());
    store.mark_replayed(&[], &by).await.expect("to mark none");
    for _ in 0..2 {
        let marked = store.mark_replayed(&replayed, &by).await;
        marked.expect("to mark, and to mark again");
        insert(store, &letters).await;
    }
    let all = DeadFilter::default();
    let left = listed(store, &all, None, 100).await;
    assert_eq!(left.len(), 10);
    assert!(left.iter().all(|left| !replayed.contains(&left.dead_id)));
    let named = DeadFilter {
        ids: Some(replayed.to_vec()),
        ..all.clone()
    };
    assert_eq!(listed(store, &named, None, 100).await, []);
    assert_eq!(store.count_dead_letters(&named).await.expect("a count"), 0);
    assert_eq!(store.purge_dead_letters(&named).await.expect("a purge"), 0);
    assert_eq!(store.count_dead_letters(&all).await.expect("a count"), 10);
}

/// A replay's marks are counted from any dead letter on, without those of other replays.
pub(crate) async fn the_letters_of_a_replay_are_counted(harness: &impl Harness) {
    let store = &**harness.store();
    let letters = twelve();
    insert(store, &letters).await;
    let mut ids: Vec<_> = letters.into_iter().map(|letter| letter.dead_id).collect();
    ids.sort_unstable();
    let (by, other) = (ReplayId::generate(), ReplayId::generate());
    let marked = store.mark_replayed(&ids[..5], &by).await;
    marked.expect("to mark five");
    let marked = store.mark_replayed(&ids[4..9], &other).await;
    marked.expect("to mark the four that are left of five");
    for (by, after, expected) in [
        (by, None, 5),
        (by, Some(&ids[1]), 3),
        (by, Some(&ids[4]), 0),
        (other, None, 4),
        (ReplayId::generate(), None, 0),
    ] {
        let counted = store.count_replayed(&by, after.map(String::as_str)).await;
        assert_eq!(counted.expect("a count"), expected, "after {after:?}");
    }
}

/// In order, even if some are replayed and others added between two pages.
pub(crate) async fn pages_hold_every_letter_once(harness: &impl Harness) {
    let store = &**harness.store();
    let letters = twelve();
    insert(store, &letters).await;
    let all = DeadFilter::default();
    let mut seen = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = listed(store, &all, after.as_deref(), 5).await;
        assert!(page.len() <= 5);
        let Some(last) = page.last() else {
            break;
        };
        after = Some(last.dead_id.clone());
        let done: Vec<_> = page.iter().map(|letter| letter.dead_id.clone()).collect();
        let marked = store.mark_replayed(&done, &ReplayId::generate()).await;
        marked.expect("to mark");
        seen.extend(page);
    }
    assert_eq!(seen, letters);
}

/// A list has no bodies; a read with bodies ends where the page is full.
pub(crate) async fn pages_of_large_dead_letters_end_early_and_list_each_once(
    harness: &impl Harness,
) {
    let store = &**harness.store();
    let body = bytes::Bytes::from(vec![b'x'; 1 << 20]);
    let letters: Vec<_> = (0..7)
        .map(|number| DeadLetter {
            body: body.clone(),
            channel_id: Some(super::id("a")),
            ..dead_letter(number)
        })
        .collect();
    for letter in &letters {
        insert(store, std::slice::from_ref(letter)).await;
    }
    for filter in [
        json!({}),
        json!({"channel_ids": ["a"], "queue": "outbound"}),
    ] {
        let filter: DeadFilter = serde_json::from_value(filter).expect("a filter");
        let mut seen: Vec<DeadLetter> = Vec::new();
        loop {
            let after = seen.last().map(|letter| letter.dead_id.as_str());
            let page = listed(store, &filter, after, 100).await;
            let bytes = page.iter().skip(1).map(|letter| letter.body.len());
            assert!(bytes.sum::<usize>() <= MAX_PAGE_BYTES);
            if page.is_empty() {
                break;
            }
            seen.extend(page);
        }
        assert!(seen == letters, "{} letters", seen.len());

        let outlines = store.dead_letters(&filter, None, 100, Detail::Outline);
        let outlines = outlines.await.expect("a page");
        assert_eq!(outlines.len(), letters.len());
        assert!(outlines.iter().all(|letter| letter.body.is_empty()));
    }
}
