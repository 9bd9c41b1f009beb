//! The rows of waiting messages, where the contract cannot see them.

use bytes::Bytes;
use roundtrip_model::{SystemClock, waiting::WaitReason};

use super::*;
use crate::{Settlement, WaitingMessage, WaitingSelection};

async fn opened(folder: &tempfile::TempDir) -> SqliteStore {
    let path = folder.path().join("store.db");
    SqliteStore::open(path, TIMEOUT).await.unwrap()
}

fn waiting(number: usize) -> WaitingMessage {
    let now = SystemClock.now();
    WaitingMessage {
        id: format!("msg_{number:06}"),
        channel_id: "c".parse().unwrap(),
        session_id: "s".parse().unwrap(),
        replay_count: 0,
        attempts: 0,
        accepted_at: now,
        due_at: now + Duration::from_hours(1),
        reason: WaitReason::Retry,
        expires_at: None,
        body: Bytes::from_static(b"body"),
    }
}

#[tokio::test]
async fn more_messages_than_one_step_are_made_due() {
    let step = usize::from(super::super::waiting::DUE_STEP);
    for count in [step, 2 * step + 1] {
        let folder = tempfile::tempdir().unwrap();
        let store = opened(&folder).await;
        let messages: Vec<_> = (0..count).map(waiting).collect();
        store.put_waiting(&messages).await.unwrap();
        let which = WaitingSelection::Channel("c".parse().unwrap());
        let made_due = store.make_due(&which, SystemClock.now()).await.unwrap();
        assert_eq!(made_due, count as u64);
    }
}

/// Of a file in which nothing was counted.
#[tokio::test]
async fn a_file_of_version_10_has_its_waiting_messages_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let connection = Connection::open(&path).unwrap();
    for step in &SCHEMA.steps[..10] {
        connection.execute_batch(step).unwrap();
    }
    let pragma = |name, value| connection.pragma_update(None, name, value).unwrap();
    pragma("application_id", SCHEMA.application_id);
    pragma("user_version", 10);
    let row = "INSERT INTO waiting (message_id, channel_id, session_id, replay_count, attempts,
            accepted_at, due_at, reason)
        VALUES (?1, 'c', 's', 0, 0, 0, 0, 'retry')";
    for id in ["one", "two"] {
        connection.execute(row, [id]).unwrap();
    }
    drop(connection);
    let store = opened(&folder).await;
    let summary = store.waiting_summary(&"c".parse().unwrap()).await.unwrap();
    assert_eq!(summary.count, 2);
    assert_eq!(summary.reasons, [(WaitReason::Retry, 2)].into());
}

/// The counts of a channel without messages are removed, too.
#[tokio::test]
async fn a_channel_without_messages_has_no_counts() {
    let folder = tempfile::tempdir().unwrap();
    let store = opened(&folder).await;
    let message = waiting(0);
    store
        .put_waiting(std::slice::from_ref(&message))
        .await
        .unwrap();
    let removed = message.settled(Settlement::Removed);
    store.settle_waiting(&[removed]).await.unwrap();
    let counts = store.run::<_, _, Unavailable>(|connection| {
        let count = "SELECT count(*) FROM waiting_counts";
        connection.query_row(count, [], |row| row.get::<_, i64>(0))
    });
    assert_eq!(counts.await.unwrap(), 0);
}

#[tokio::test]
async fn a_removed_message_leaves_no_body() {
    let folder = tempfile::tempdir().unwrap();
    let store = opened(&folder).await;
    let messages = [0, 1, 2].map(waiting);
    store.put_waiting(&messages).await.unwrap();
    let settled = messages[0].settled(Settlement::Removed);
    store.settle_waiting(&[settled]).await.unwrap();
    let removed = messages[1].settled(Settlement::Removed);
    store.settle_waiting(&[removed]).await.unwrap();
    let bodies = store.run::<_, _, Unavailable>(|connection| {
        let count = "SELECT count(*) FROM waiting_bodies";
        connection.query_row(count, [], |row| row.get::<_, i64>(0))
    });
    assert_eq!(bodies.await.unwrap(), 1);
}
