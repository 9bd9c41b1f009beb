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
