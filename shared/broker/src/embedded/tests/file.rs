//! One file, one process, one disk, and a clock that may be wrong.

use std::{collections::HashSet, fs, path::Path, sync::Arc, time::Duration};

use roundtrip_files::sqlite;
use roundtrip_model::{DeadReason, Decision, decision::DeadKind};
use rusqlite::Connection;
use tempfile::TempDir;
use time::Duration as Span;

use super::{
    LIMIT, NOON, consume, message, next, open, open_at, publish, settle, timeout, try_open,
};
use crate::{
    Broker, Config, Message, OpenError, PublishError, Queue, Route, Status,
    embedded::{Embedded, command::Command, table},
};

const HOUR: Duration = Duration::from_hours(1);

/// A large part of the space on these tests' full disk.
const LARGE: usize = 512 * 1024;

#[tokio::test]
async fn opening_a_file_in_use_names_the_file() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("broker.db");
    let first = open(&file).await;
    let error = try_open(&file, NOON).await.err().expect("it is refused");
    assert!(
        matches!(error, OpenError::File(sqlite::OpenError::InUse(_))),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("{} is in use by another process", file.display())),
        "{text}"
    );
    // The first one is unaffected.
    publish(&first, &message("{}")).await.unwrap();
}

/// The file contains messages.
#[cfg(unix)]
#[tokio::test]
async fn new_files_are_readable_by_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;

    let folder = TempDir::new().unwrap();
    let made = folder.path().join("data");
    let broker = open(&made.join("broker.db")).await;
    publish(&broker, &message("{}")).await.unwrap();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&made), 0o700);
    let files: Vec<_> = fs::read_dir(&made)
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert!(files.len() > 1, "the file and its log: {files:?}");
    for file in files {
        assert_eq!(mode(&file.path()), 0o600, "{file:?}");
    }
}

#[tokio::test]
async fn a_dropped_broker_releases_its_file() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("broker.db");
    drop(open(&file).await);
    open(&file).await;
}

#[tokio::test]
async fn a_file_of_a_newer_version_is_refused() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("broker.db");
    open(&file).await.close().await;
    Connection::open(&file)
        .unwrap()
        .pragma_update(None, "user_version", 7)
        .unwrap();
    let error = try_open(&file, NOON).await.err().expect("it is refused");
    assert!(
        matches!(
            error,
            OpenError::File(sqlite::OpenError::Newer {
                found: 7,
                known: 4,
                ..
            })
        ),
        "{error:?}"
    );
}

/// Version 1 had neither replay counts nor a journal.
#[tokio::test]
async fn a_file_of_the_first_version_is_brought_up_and_loses_nothing() {
    const FIRST: &str = "
        CREATE TABLE parcel (
            seq INTEGER PRIMARY KEY, queue INTEGER NOT NULL, due INTEGER NOT NULL,
            delay INTEGER NOT NULL, tries INTEGER NOT NULL, accepted_at INTEGER NOT NULL,
            id TEXT NOT NULL, dead TEXT, body BLOB NOT NULL
        ) STRICT;
        CREATE INDEX parcel_by_due ON parcel (queue, due);
        CREATE TABLE probe (id INTEGER PRIMARY KEY, room BLOB NOT NULL) STRICT;
        INSERT INTO parcel VALUES (9, 0, 5, 5, 3, 0, 'msg_old', NULL, CAST('{}' AS BLOB));
        PRAGMA application_id = 0x52546271;
        PRAGMA user_version = 1;";
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("broker.db");
    Connection::open(&file)
        .unwrap()
        .execute_batch(FIRST)
        .unwrap();
    // Twice: the second time it already has this version.
    for _ in 0..2 {
        let broker = open(&file).await;
        let mut consumer = consume(&broker, 1).await;
        let delivery = next(&mut consumer).await;
        let old = delivery.message();
        assert_eq!(
            (
                old.id.as_str(),
                old.attempts,
                old.replay_count,
                &old.body[..]
            ),
            ("msg_old", 3, 0, &b"{}"[..])
        );
        delivery.release();
        drop(consumer);
        let replayed = Message {
            replay_count: 1,
            ..message("{}")
        };
        publish(&broker, &replayed).await.unwrap();
        broker.close().await;
    }
}

/// A queue that holds 1,000 bytes.
async fn open_bounded(file: &Path) -> Embedded {
    let config = Config {
        max_backlog_bytes: 1_000,
        ..Config::default()
    };
    let opened = Embedded::open(file.to_owned(), &config, Arc::new(NOON)).await;
    opened.unwrap_or_else(|error| panic!("{error}"))
}

#[tokio::test]
async fn a_queue_that_holds_its_bytes_refuses_also_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("broker.db");
    let body = "x".repeat(600);
    let broker = open_bounded(&file).await;
    for _ in 0..2 {
        publish(&broker, &message(body.clone())).await.unwrap();
    }
    let is_full = async |broker: &Embedded| {
        let published = publish(broker, &message("{}")).await;
        matches!(published, Err(PublishError::Refused(_)))
    };
    assert!(is_full(&broker).await);
    // Every queue has its own bound.
    let answer = broker
        .publish(Route::Callbacks, message(body.clone()))
        .await;
    answer.unwrap();
    broker.close().await;
    drop(broker);

    let broker = open_bounded(&file).await;
    assert!(is_full(&broker).await);
    let mut consumer = consume(&broker, 1).await;
    settle(next(&mut consumer).await, Decision::RetryAfter(HOUR)).await;
    assert!(is_full(&broker).await, "what is put off is there still");
    let reason = DeadReason::new(DeadKind::TooOld, "a test");
    settle(next(&mut consumer).await, Decision::DeadLetter(reason)).await;
    assert!(!is_full(&broker).await);
}

/// The files on disk of a running process are what a power cut leaves.
#[tokio::test]
async fn a_confirmed_message_is_on_disk() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("broker.db");
    let broker = open(&file).await;
    let mut consumer = consume(&broker, 2).await;
    let mut confirmed = HashSet::new();
    for number in 0..5 {
        let message = message(format!("{number}"));
        publish(&broker, &message).await.unwrap();
        confirmed.insert(message.id);
    }
    let done = next(&mut consumer).await;
    confirmed.remove(&done.message().id);
    settle(done, Decision::Done).await;
    let leased = next(&mut consumer).await;

    let image = folder.path().join("image.db");
    fs::copy(&file, &image).unwrap();
    fs::copy(
        folder.path().join("broker.db-wal"),
        folder.path().join("image.db-wal"),
    )
    .unwrap();
    let after_the_cut = open(&image).await;
    assert_eq!(
        after_the_cut.ready(Queue::Outbound).await.unwrap(),
        confirmed.len() as u64
    );
    let mut consumer = consume(&after_the_cut, 10).await;
    while !confirmed.is_empty() {
        let delivery = next(&mut consumer).await;
        assert!(confirmed.remove(&delivery.message().id));
        settle(delivery, Decision::Done).await;
    }
    leased.release();
}

#[tokio::test]
async fn a_full_disk_refuses_publishes_keeps_settlements_and_recovers() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("broker.db");
    let broker = open(&file).await;
    let small = message("{}");
    publish(&broker, &small).await.unwrap();
    let mut consumer = consume(&broker, 1).await;
    let in_hand = next(&mut consumer).await;

    let mut taken = HashSet::new();
    limit_pages(&broker, 1024);
    let refusal = loop {
        let large = message(vec![b'x'; LARGE]);
        match publish(&broker, &large).await {
            Ok(()) => assert!(taken.insert(large.id)),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&refusal, PublishError::Refused(why) if why == "the disk is full"),
        "{refusal:?}"
    );
    assert_eq!(
        broker.status(),
        Status::Blocked("the disk is full".to_owned())
    );
    // It needs no space, so it succeeds while the disk is full.
    settle(in_hand, Decision::Done).await;

    limit_pages(&broker, u32::MAX - 1);
    let recovered = async {
        while broker.status() != Status::Ready {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, recovered).await.expect("recovers");
    let later = message("{}");
    publish(&broker, &later).await.unwrap();
    taken.insert(later.id);
    broker.close().await;

    let broker = open(&file).await;
    assert_eq!(
        broker.ready(Queue::Outbound).await.unwrap(),
        taken.len() as u64
    );
    let mut consumer = consume(&broker, 2).await;
    while !taken.is_empty() {
        let delivery = next(&mut consumer).await;
        assert!(
            taken.remove(&delivery.message().id),
            "the message was refused, or settled before, or came twice"
        );
        settle(delivery, Decision::Done).await;
    }
}

/// Makes SQLite respond as on a full disk.
fn limit_pages(broker: &Embedded, pages: u32) {
    let limit = move |connection: &Connection| {
        let set = format!("PRAGMA max_page_count = {pages}");
        connection.query_row(&set, [], |_| Ok(())).unwrap();
    };
    broker.commands.send(Command::Run(Box::new(limit))).unwrap();
}

#[tokio::test]
async fn a_clock_set_back_between_runs_delays_no_ready_message() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("broker.db");
    let broker = open(&file).await;
    let sent = [message("1"), message("2")];
    for message in &sent {
        publish(&broker, message).await.unwrap();
    }
    broker.close().await;
    let broker = open_at(&file, NOON - Span::days(30)).await;
    let newer = message("3");
    publish(&broker, &newer).await.unwrap();
    let mut consumer = consume(&broker, 3).await;
    for expected in sent.iter().chain([&newer]) {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.message().id, expected.id);
        settle(delivery, Decision::Done).await;
    }
}

#[tokio::test]
async fn a_clock_set_back_makes_no_message_wait_longer_than_its_own_delay() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("broker.db");
    let broker = open(&file).await;
    publish(&broker, &message("{}")).await.unwrap();
    let mut consumer = consume(&broker, 1).await;
    settle(next(&mut consumer).await, Decision::RetryAfter(HOUR)).await;
    broker.close().await;

    let a_month_before = NOON - Span::days(30);
    open_at(&file, a_month_before).await.close().await;
    let broker = open_at(&file, a_month_before + HOUR / 2).await;
    assert_eq!(broker.ready(Queue::Outbound).await.unwrap(), 0);
    broker.close().await;
    let broker = open_at(&file, a_month_before + HOUR + Duration::from_mins(1)).await;
    assert_eq!(broker.ready(Queue::Outbound).await.unwrap(), 1);
}

#[tokio::test]
async fn a_delay_counts_on_while_the_process_is_down() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("broker.db");
    let broker = open(&file).await;
    publish(&broker, &message("{}")).await.unwrap();
    let mut consumer = consume(&broker, 1).await;
    settle(next(&mut consumer).await, Decision::RetryAfter(HOUR)).await;
    broker.close().await;
    let broker = open_at(&file, NOON + HOUR * 2).await;
    let mut consumer = consume(&broker, 1).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.message().attempts, 1);
    settle(delivery, Decision::Done).await;
}

/// A due retry does not wait behind messages that were published after it.
#[tokio::test]
async fn a_due_retry_comes_before_later_messages() {
    let folder = TempDir::new().unwrap();
    let broker = open(&folder.path().join("broker.db")).await;
    let retried = message("1");
    publish(&broker, &retried).await.unwrap();
    let mut consumer = consume(&broker, 1).await;
    settle(
        next(&mut consumer).await,
        Decision::RetryAfter(Duration::ZERO),
    )
    .await;
    drop(consumer);
    let due = async { while broker.ready(Queue::Outbound).await.unwrap() == 0 {} };
    timeout(LIMIT, due).await.expect("comes due");
    publish(&broker, &message("2")).await.unwrap();
    let mut consumer = consume(&broker, 1).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.message().id, retried.id);
    settle(delivery, Decision::Done).await;
}

/// A read must find its start by the index; otherwise each would scan all leased rows.
#[tokio::test]
async fn a_read_goes_straight_to_where_the_last_one_ended() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("broker.db");
    open(&file).await.close().await;
    let connection = Connection::open(&file).unwrap();
    let plan = |sql: &str| -> Vec<String> {
        let mut statement = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
            .unwrap();
        let rows = statement
            .query_map([0, 0, 0, 1], |row| row.get("detail"))
            .unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    };
    assert_eq!(
        plan(table::READ_SAME_DUE),
        ["SEARCH parcel USING INDEX parcel_by_due (queue=? AND due=? AND rowid>?)"]
    );
    assert_eq!(
        plan(table::READ_LATER_DUE),
        ["SEARCH parcel USING INDEX parcel_by_due (queue=? AND due>? AND due<?)"]
    );
}
