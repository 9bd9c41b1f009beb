mod erasure;
mod queries;
mod retention;
mod waiting_rows;

use std::{path::Path, sync::Arc, time::Duration};

use roundtrip_model::Clock;
use rusqlite::TransactionBehavior;
use serde_json::json;

use super::{schema::SCHEMA, *};
use crate::{Journal, WaitingRoom, WaitingSummary};

const TIMEOUT: Duration = Duration::from_secs(10);

fn channel(id: &str) -> Channel {
    serde_json::from_value(json!({ "channel_id": id })).unwrap()
}

#[tokio::test]
async fn the_file_and_its_folder_are_created_and_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data/of/the/store.db");
    let store = SqliteStore::open(&path, TIMEOUT).await.unwrap();
    store.create(&channel("c")).await.unwrap();
    drop(store);
    let store = SqliteStore::open(&path, TIMEOUT).await.unwrap();
    assert_eq!(
        store.get(&"c".parse().unwrap()).await.unwrap().channel,
        channel("c").into()
    );
}

/// The file contains messages.
#[cfg(unix)]
#[tokio::test]
async fn new_files_are_readable_by_their_owner_only() {
    use std::{fs, os::unix::fs::PermissionsExt};

    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("data");
    let store = SqliteStore::open(&made.join("store.db"), TIMEOUT).await;
    store.unwrap().create(&channel("c")).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&made), 0o700);
    for file in fs::read_dir(&made).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[tokio::test]
async fn two_stores_share_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let open = || SqliteStore::open(&path, TIMEOUT);
    let (one, other) = tokio::join!(open(), open());
    let (one, other) = (one.unwrap(), other.unwrap());
    one.create(&channel("c")).await.unwrap();
    other.delete(&"c".parse().unwrap(), None).await.unwrap();
    let gone = one.get(&"c".parse().unwrap()).await;
    assert!(matches!(gone, Err(ChannelError::NotFound(_))), "{gone:?}");
}

#[tokio::test]
async fn a_file_of_version_1_keeps_its_channels_and_is_upgraded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch(SCHEMA.steps[0]).unwrap();
    let pragma = |name, value| connection.pragma_update(None, name, value).unwrap();
    pragma("application_id", SCHEMA.application_id);
    pragma("user_version", 1);
    let tagged = json!({"channel_id": "c", "channel_name": "n", "channel_tags": ["t"]});
    let tagged: Channel = serde_json::from_value(tagged).unwrap();
    connection
        .execute(
            "INSERT INTO channels VALUES (?1, ?2, ?3)",
            row(&document::of(tagged.clone().into())),
        )
        .unwrap();

    // Two processes with the new version start at once, and one later.
    let open = || SqliteStore::open(&path, TIMEOUT);
    let (one, other) = tokio::join!(open(), open());
    let mut uids = None;
    for store in [one.unwrap(), other.unwrap(), open().await.unwrap()] {
        let kept = store.get(&"c".parse().unwrap()).await.unwrap();
        assert_eq!(kept.channel, tagged.clone().into());
        for found in [json!({"channel_tags": "t"}), json!({"channel_name": "n"})] {
            let filter = Filter::parse(&found).unwrap();
            let page = store.query(&filter, &PageRequest::default()).await;
            assert_eq!(page.unwrap().channels.len(), 1, "{found}");
        }
        let uid = store.target(&"c".parse().unwrap()).await.unwrap().uid;
        assert_eq!(*uids.get_or_insert(uid.clone()), uid);
        assert_ne!(uid, String::new().into());
        let id = roundtrip_model::MessageId::generate();
        assert!(store.message(&id).await.unwrap().is_none());
        let waiting = store.waiting_summary(&"c".parse().unwrap()).await;
        assert_eq!(waiting.unwrap(), WaitingSummary::default());
    }
}

#[tokio::test]
async fn a_file_that_is_locked_for_too_long_is_unavailable() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    // Enough time to open the file on a busy machine.
    let store = SqliteStore::open(&path, Duration::from_secs(1))
        .await
        .unwrap();
    let mut connection = Connection::open(&path).unwrap();
    let lock = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .unwrap();
    let refused = store.create(&channel("c")).await;
    assert!(
        matches!(refused, Err(ChannelError::Unavailable(_))),
        "{refused:?}"
    );
    drop(lock);
}
