//! The journal's promises to its callers, against a scripted broker.

use std::collections::HashSet;

use bytes::Bytes;
use futures::future::join_all;
use roundtrip_broker::Queue;
use roundtrip_doubles::{FakeBroker, Mood};
use roundtrip_model::{EntryId, Event, MessageId, MessageKind, journal::Content};
use serde_json::value::to_raw_value;
use time::macros::datetime;
use tokio::{task::JoinHandle, time::timeout};

use super::*;
use crate::{MAX_BATCH_BYTES, batch::MAX_BATCH_ENTRIES, decode};

/// Everything that is bound to happen has happened within this time. The clock is paused, so it
/// passes at once while the tasks are idle.
const LIMIT: Duration = Duration::from_mins(10);

/// A time after which no further event is expected.
const QUIET: Duration = Duration::from_secs(5);

fn fake_broker(mood: Mood) -> Arc<FakeBroker> {
    let broker = FakeBroker::new(Queue::Journal);
    broker.set(mood);
    Arc::new(broker)
}

fn batches(broker: &FakeBroker) -> Vec<Vec<EntryId>> {
    let messages = broker.messages(Queue::Journal).into_iter();
    let entries = messages.map(|message| decode(&message.body).unwrap());
    entries
        .map(|entries| entries.iter().map(|entry| entry.entry_id).collect())
        .collect()
}

fn published(broker: &FakeBroker) -> HashSet<EntryId> {
    batches(broker).into_iter().flatten().collect()
}

fn entry(event: Event) -> Entry {
    Entry {
        entry_id: EntryId::generate(),
        message_id: Some(MessageId::generate()),
        channel_id: "c".parse().ok(),
        session_id: "s".parse().unwrap(),
        kind: MessageKind::Outbound,
        replay_count: 0,
        at: datetime!(2026-11-23 12:00 UTC),
        event,
    }
}

fn small() -> Entry {
    entry(Event::Delivering { attempt: 1 })
}

fn large(bytes: usize) -> Entry {
    entry(Event::Accepted(Some(Box::new(Content {
        message: to_raw_value(&"x".repeat(bytes)).unwrap(),
        response_url: "http://gateway.example/webhook-response".to_owned(),
        answer_within_ms: None,
    }))))
}

/// Appends all of them concurrently, each from its own task.
fn append_all(journal: &Journal, entries: &[Entry]) -> Vec<JoinHandle<()>> {
    let append = |entry: &Entry| {
        let (journal, entry) = (journal.clone(), entry.clone());
        tokio::spawn(async move { journal.append(entry).await })
    };
    entries.iter().map(append).collect()
}

async fn all(appends: Vec<JoinHandle<()>>) {
    let ended = timeout(LIMIT, join_all(appends)).await;
    for append in ended.expect("every append resolves") {
        append.expect("none panics");
    }
}

fn ids(entries: &[Entry]) -> HashSet<EntryId> {
    entries.iter().map(|entry| entry.entry_id).collect()
}

#[tokio::test(start_paused = true)]
async fn an_append_resolves_with_the_confirm_and_not_before() {
    let broker = fake_broker(Mood::Waits);
    let journal = Journal::start(broker.clone());
    let sent = [small()];
    let appends = append_all(&journal, &sent);
    tokio::time::sleep(QUIET).await;
    assert!(!appends[0].is_finished());
    broker.set(Mood::Confirms);
    all(appends).await;
    assert_eq!(published(&broker), ids(&sent));
}

#[tokio::test(start_paused = true)]
async fn an_entry_is_still_published_after_its_wait_timed_out() {
    let broker = fake_broker(Mood::Waits);
    let journal = Journal::start(broker.clone());
    let sent = [small()];
    assert!(!journal.append_within(sent[0].clone(), QUIET).await);
    broker.set(Mood::Confirms);
    journal.close().await;
    assert_eq!(published(&broker), ids(&sent));
}

#[tokio::test(start_paused = true)]
async fn concurrent_entries_share_a_message_up_to_the_entry_limit() {
    let broker = fake_broker(Mood::Waits);
    let journal = Journal::start(broker.clone());
    let sent: Vec<Entry> = (0..1200).map(|_| small()).collect();
    let appends = append_all(&journal, &sent);
    tokio::time::sleep(QUIET).await;
    broker.set(Mood::Confirms);
    all(appends).await;
    let sizes: Vec<usize> = batches(&broker).iter().map(Vec::len).collect();
    assert_eq!(published(&broker), ids(&sent));
    assert_eq!(sizes.iter().max(), Some(&MAX_BATCH_ENTRIES), "{sizes:?}");
    assert!(sizes.len() <= 4, "{sizes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_bounded_in_bytes() {
    const LARGE: usize = 600 * 1024;
    let broker = fake_broker(Mood::Confirms);
    let journal = Journal::start(broker.clone());
    let sent: Vec<Entry> = (0..10).map(|_| large(LARGE)).collect();
    all(append_all(&journal, &sent)).await;
    assert_eq!(published(&broker), ids(&sent));
    let messages = broker.messages(Queue::Journal);
    let longest = messages.iter().map(|message| message.body.len()).max();
    assert!(
        longest.unwrap() < MAX_BATCH_BYTES + 2 * LARGE,
        "{longest:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_while_publishes_fail() {
    let broker = fake_broker(Mood::Confirms);
    broker.fail(40);
    let journal = Journal::start(broker.clone());
    let sent: Vec<Entry> = (0..700).map(|_| small()).collect();
    all(append_all(&journal, &sent)).await;
    assert_eq!(published(&broker), ids(&sent));
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_the_broker_refuses_does_not_delay_others() {
    const MOST: usize = 10_000;
    let broker = fake_broker(Mood::Waits);
    broker.limit_bytes(MOST);
    let journal = Journal::start(broker.clone());
    let mut sent: Vec<Entry> = (0..50).map(|_| small()).collect();
    sent.extend((0..3).map(|_| large(MOST / 2)));
    let appends = append_all(&journal, &sent);
    let too_large: Vec<Entry> = (0..9).map(|_| large(MOST)).collect();
    let given_up = append_all(&journal, &too_large);
    broker.set(Mood::Confirms);
    all(appends).await;
    all(given_up).await;
    assert_eq!(published(&broker), ids(&sent));
}

#[tokio::test(start_paused = true)]
async fn a_full_buffer_makes_callers_wait_and_loses_no_entry() {
    const LARGE: usize = 1024 * 1024;
    let broker = fake_broker(Mood::Waits);
    let journal = Journal::start(broker.clone());
    let sent: Vec<Entry> = (0..40).map(|_| large(LARGE)).collect();
    let appends = append_all(&journal, &sent);
    tokio::time::sleep(QUIET).await;
    // 31 of them fit, and nine wait for capacity.
    let room = journal.room.available_permits();
    assert!(room < LARGE + ENTRY_OVERHEAD, "{room} bytes are free");
    broker.set(Mood::Confirms);
    all(appends).await;
    assert_eq!(published(&broker), ids(&sent));
    assert_eq!(
        journal.room.available_permits(),
        MAX_BUFFERED_BYTES as usize
    );
}

#[tokio::test(start_paused = true)]
async fn the_close_publishes_accepted_entries_and_accepts_no_more() {
    let broker = fake_broker(Mood::Waits);
    let journal = Journal::start(broker.clone());
    let sent: Vec<Entry> = (0..900).map(|_| small()).collect();
    let appends = append_all(&journal, &sent);
    tokio::time::sleep(QUIET).await;
    assert!(timeout(QUIET, journal.close()).await.is_err());
    broker.set(Mood::Confirms);
    timeout(LIMIT, journal.close()).await.expect("it closes");
    assert_eq!(published(&broker), ids(&sent));
    all(appends).await;
    assert!(!journal.append_within(small(), QUIET).await);
    assert_eq!(published(&broker), ids(&sent));
}

#[test]
fn a_body_that_is_no_list_of_entries_is_refused() {
    for body in ["", "{}", "[1]", r#"[{"entry_id":"ent_1"}]"#] {
        assert!(decode(&Bytes::from(body)).is_err(), "{body}");
    }
    assert!(decode(&Bytes::from("[]")).unwrap().is_empty());
}
