//! What the retention removes, and what it keeps.

use bytes::Bytes;
use roundtrip_model::{
    DeadReason, Entry, EntryId, Event, KeyRole, MessageId, MessageKind, NewKey, ReplayId,
    decision::DeadKind, millis,
};
use time::{OffsetDateTime, macros::datetime};

use super::*;
use crate::{
    AnswerFilter, ApiKeys, DeadFilter, DeadLetter, DeadLetters, DeadQueue, Detail, Idempotency,
    Journal, KeptAnswers, MessageFilter, Progress, Replay, ReplaySource, ReplayStatus, Replays,
    Reservation,
};

/// Older rows are removed.
const BEFORE: OffsetDateTime = datetime!(2026-03-01 0:00 UTC);
const OLD: OffsetDateTime = datetime!(2026-02-28 0:00 UTC);
const NEW: OffsetDateTime = datetime!(2026-03-02 0:00 UTC);

async fn store() -> (tempfile::TempDir, SqliteStore) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let store = SqliteStore::open(path, TIMEOUT).await.unwrap();
    (folder, store)
}

async fn forget(store: &SqliteStore) {
    crate::embedded::retention::forget(store, millis::of(BEFORE))
        .await
        .unwrap();
}

/// The id of a message that was accepted at this time.
fn message_id(at: OffsetDateTime, number: u32) -> MessageId {
    let millis = millis::of(at);
    let id = format!("msg_{millis:012x}700080000000{number:08x}");
    id.parse().unwrap()
}

fn entry(message_id: MessageId, at: OffsetDateTime, json: &str) -> Entry {
    Entry {
        entry_id: EntryId::generate(),
        message_id: Some(message_id),
        channel_id: "c".parse().ok(),
        session_id: "s".parse().unwrap(),
        kind: MessageKind::Outbound,
        replay_count: 0,
        at,
        event: serde_json::from_str(json).unwrap(),
    }
}

fn accepted(message_id: MessageId, at: OffsetDateTime) -> Entry {
    let json = r#"{"accepted": {"message": "hello", "response_url": "http://h/"}}"#;
    entry(message_id, at, json)
}

async fn count(store: &SqliteStore, table: &'static str) -> i64 {
    let sql = format!("SELECT count(*) FROM {table}");
    let counted = store.run::<_, _, Unavailable>(move |connection| {
        connection.query_row(&sql, [], |row| row.get(0))
    });
    counted.await.unwrap()
}

#[tokio::test]
async fn messages_to_which_nothing_happened_for_long_are_forgotten() {
    let (_folder, store) = store().await;
    // More than one step removes, with one message in the middle that is still active.
    let ids: Vec<MessageId> = (0..450).map(|number| message_id(OLD, number)).collect();
    let mut entries: Vec<Entry> = ids.iter().map(|id| accepted(*id, OLD)).collect();
    let answered = |id: MessageId, number| {
        let json = format!(
            r#"{{"answered": {{"callback_id": "cb_{number:032x}", "content": {{"response_data": 1}}}}}}"#
        );
        entry(id, OLD, &json)
    };
    entries.extend([answered(ids[0], 0), answered(ids[100], 1)]);
    let alive = entry(ids[100], NEW, r#"{"delivering": {"attempt": 1}}"#);
    assert!(matches!(alive.event, Event::Delivering { .. }));
    entries.push(alive);
    let new = message_id(NEW, 0);
    entries.push(accepted(new, NEW));
    store.record(&entries).await.unwrap();

    forget(&store).await;
    let left = store
        .messages(&MessageFilter::default(), None, 1000, Detail::Whole)
        .await
        .unwrap();
    let left: Vec<MessageId> = left.iter().map(|message| message.message_id).collect();
    assert_eq!(left, [new, ids[100]]);
    // Its whole timeline is kept, and nothing of the other messages.
    let (message, timeline) = store.message(&ids[100]).await.unwrap().unwrap();
    assert_eq!(timeline.len(), 3);
    assert!(message.content.is_some());
    assert_eq!(store.answers(&ids[100]).await.unwrap().answers.len(), 1);
    assert_eq!(count(&store, "answers").await, 1);
    assert_eq!(count(&store, "entries").await, 4);
    assert_eq!(count(&store, "contents").await, 2);
}

#[tokio::test]
async fn an_old_answer_without_a_message_is_forgotten() {
    let (_folder, store) = store().await;
    let answered = |at, number| Entry {
        message_id: None,
        channel_id: None,
        ..entry(
            message_id(at, 0),
            at,
            &format!(
                r#"{{"answered": {{"callback_id": "cb_{number:032x}", "content": {{"response_data": 1}}}}}}"#
            ),
        )
    };
    store
        .record(&[answered(OLD, 0), answered(NEW, 1)])
        .await
        .unwrap();
    forget(&store).await;
    let all = AnswerFilter::default();
    let left = store.kept_answers(&all, None, 10).await.unwrap();
    let left: Vec<_> = left.iter().map(|answer| answer.at).collect();
    assert_eq!(left, [NEW]);
}

#[tokio::test]
async fn a_dead_letter_stays_until_it_is_replayed_or_purged() {
    let (_folder, store) = store().await;
    let letter = |dead_id: &str, dead_at| DeadLetter {
        dead_id: dead_id.to_owned(),
        queue: DeadQueue::Outbound,
        webhook_id: dead_id.to_owned(),
        message_id: None,
        channel_id: None,
        session_id: None,
        reason: DeadReason::new(DeadKind::Undecodable, "no JSON"),
        attempts: 1,
        replay_count: 0,
        accepted_at: dead_at,
        dead_at,
        body: Bytes::from_static(b"?"),
        contents_erased_at: None,
    };
    let letters = [
        letter("old", OLD),
        letter("replayed", OLD),
        letter("new", NEW),
    ];
    store.insert(&letters).await.unwrap();
    let by = ReplayId::generate();
    let replayed = ["replayed".to_owned(), "new".to_owned()];
    store.mark_replayed(&replayed, &by).await.unwrap();

    forget(&store).await;
    let left = store
        .dead_letters(&DeadFilter::default(), None, 10, Detail::Whole)
        .await
        .unwrap();
    assert_eq!(left, letters[..1]);
    assert_eq!(count(&store, "dead_letters").await, 2);
}

#[tokio::test]
async fn a_replay_stays_until_it_has_ended() {
    let (_folder, store) = store().await;
    let replay = Replay {
        requested_by: "key_1".to_owned(),
        replay_id: ReplayId::generate(),
        source: ReplaySource::DeadLetters(DeadFilter::default()),
        rate_per_second: None,
        status: ReplayStatus::Running,
        matched: 0,
        progress: Progress::default(),
        created_at: OLD,
        ended_at: None,
    };
    let ended = Replay {
        replay_id: ReplayId::generate(),
        status: ReplayStatus::Done,
        ended_at: Some(OLD),
        ..replay.clone()
    };
    store.create_replay(&replay).await.unwrap();
    store.create_replay(&ended).await.unwrap();
    forget(&store).await;
    assert_eq!(store.replay(&replay.replay_id).await.unwrap(), Some(replay));
    assert_eq!(store.replay(&ended.replay_id).await.unwrap(), None);
}

#[tokio::test]
async fn an_old_key_is_free_again() {
    let (_folder, store) = store().await;
    let (first, later) = (MessageId::generate(), MessageId::generate());
    for (key, at) in [("old", OLD), ("new", NEW)] {
        let lease = Duration::from_secs(1);
        store.reserve(key, "f", &first, at, lease).await.unwrap();
        store.complete(key, &first).await.unwrap();
    }
    forget(&store).await;
    for (key, expected) in [
        ("old", Reservation::Taken(later)),
        ("new", Reservation::Done(first)),
    ] {
        let lease = Duration::from_secs(1);
        let reserved = store.reserve(key, "f", &later, NEW, lease).await;
        assert_eq!(reserved.unwrap(), expected, "{key}");
    }
}

#[tokio::test]
async fn an_api_key_is_removed_long_after_its_end() {
    let (_folder, store) = store().await;
    let key = |expires_at| {
        let new = NewKey {
            name: "n".to_owned(),
            role: KeyRole::Viewer,
            channels: None,
            rate_per_second: None,
            expires_at,
        };
        new.make([0; 32], datetime!(2026-01-01 0:00 UTC)).unwrap().0
    };
    let (lasting, ended, ends) = (key(None), key(Some(OLD)), key(Some(NEW)));
    for key in [&lasting, &ended, &ends] {
        store.create_key(key).await.unwrap();
    }
    forget(&store).await;
    assert_eq!(
        store
            .keys(&roundtrip_model::KeyBounds::default(), None, 10)
            .await
            .unwrap(),
        [lasting, ends]
    );
}

#[tokio::test]
async fn old_records_are_removed_automatically() {
    let (_folder, store) = store().await;
    let id = message_id(OLD, 0);
    store.record(&[accepted(id, OLD)]).await.unwrap();
    let store = store.keeping(Duration::from_mins(1), Arc::new(NEW));
    let gone = async {
        while store.message(&id).await.unwrap().is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TIMEOUT, gone).await.unwrap();
}
