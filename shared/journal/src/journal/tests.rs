//! The journal's promises to its callers, against a scripted broker.

use std::{
    collections::HashSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use roundtrip_broker::{Broker, Closed, Consumer, Message, PublishError, Queue, Route, Status};
use roundtrip_model::{EntryId, Event, MessageId, journal::Content};
use serde_json::value::to_raw_value;
use time::macros::datetime;
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use super::*;
use crate::{MAX_BATCH_BYTES, batch::MAX_BATCH_ENTRIES, decode};

/// Everything that is bound to happen has happened within this time. The clock is paused, so it
/// passes at once while the tasks are idle.
const LIMIT: Duration = Duration::from_mins(10);

/// A time after which no further event is expected.
const QUIET: Duration = Duration::from_secs(5);

/// Confirms while its gate is open, after a scripted number of failures.
struct Scripted {
    open: watch::Sender<bool>,
    failures: Mutex<u32>,
    /// The largest body that it accepts.
    most: AtomicUsize,
    /// The confirmed messages.
    taken: watch::Sender<Vec<Message>>,
}

impl Scripted {
    fn new(open: bool, failures: u32) -> Arc<Self> {
        Arc::new(Self {
            open: watch::channel(open).0,
            failures: Mutex::new(failures),
            most: AtomicUsize::new(usize::MAX),
            taken: watch::channel(Vec::new()).0,
        })
    }

    fn fails(&self) -> bool {
        let mut left = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let fails = *left > 0;
        *left = left.saturating_sub(1);
        fails
    }

    fn batches(&self) -> Vec<Vec<EntryId>> {
        let ids = |message: &Message| {
            decode(&message.body)
                .unwrap()
                .iter()
                .map(|e| e.entry_id)
                .collect()
        };
        self.taken.borrow().iter().map(ids).collect()
    }

    fn entries(&self) -> HashSet<EntryId> {
        self.batches().into_iter().flatten().collect()
    }
}

#[async_trait]
impl Broker for Scripted {
    async fn publish(&self, route: Route<'_>, message: Message) -> Result<(), PublishError> {
        assert_eq!(route, Route::Journal);
        let mut open = self.open.subscribe();
        open.wait_for(|open| *open)
            .await
            .expect("the gate is there");
        if message.body.len() > self.most.load(Ordering::Relaxed) {
            return Err(PublishError::TooLarge);
        }
        if self.fails() {
            return Err(PublishError::Unconfirmed);
        }
        self.taken.send_modify(|taken| taken.push(message));
        Ok(())
    }

    async fn consume(&self, _: Queue, _: u16) -> Result<Box<dyn Consumer>, Closed> {
        Err(Closed)
    }

    fn status(&self) -> Status {
        Status::Ready
    }

    async fn ready(&self, _: Queue) -> Result<u64, PublishError> {
        Ok(0)
    }

    async fn close(&self) {}
}

fn entry(event: Event) -> Entry {
    Entry {
        entry_id: EntryId::generate(),
        message_id: MessageId::generate(),
        channel_id: "c".parse().unwrap(),
        session_id: "s".parse().unwrap(),
        replay_count: 0,
        at: datetime!(2026-11-23 12:00 UTC),
        event,
    }
}

fn small() -> Entry {
    entry(Event::Delivering { attempt: 1 })
}

fn large(bytes: usize) -> Entry {
    entry(Event::Accepted(Box::new(Content {
        message: to_raw_value(&"x".repeat(bytes)).unwrap(),
        response_url: "http://gateway.example/webhook-response".to_owned(),
    })))
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
    let broker = Scripted::new(false, 0);
    let journal = Journal::start(broker.clone());
    let sent = [small()];
    let appends = append_all(&journal, &sent);
    tokio::time::sleep(QUIET).await;
    assert!(!appends[0].is_finished());
    broker.open.send_replace(true);
    all(appends).await;
    assert_eq!(broker.entries(), ids(&sent));
}

#[tokio::test(start_paused = true)]
async fn an_entry_is_still_published_after_its_wait_timed_out() {
    let broker = Scripted::new(false, 0);
    let journal = Journal::start(broker.clone());
    let sent = [small()];
    assert!(!journal.append_within(sent[0].clone(), QUIET).await);
    broker.open.send_replace(true);
    journal.close().await;
    assert_eq!(broker.entries(), ids(&sent));
}

#[tokio::test(start_paused = true)]
async fn concurrent_entries_share_a_message_up_to_the_entry_limit() {
    let broker = Scripted::new(false, 0);
    let journal = Journal::start(broker.clone());
    let sent: Vec<Entry> = (0..1200).map(|_| small()).collect();
    let appends = append_all(&journal, &sent);
    tokio::time::sleep(QUIET).await;
    broker.open.send_replace(true);
    all(appends).await;
    let sizes: Vec<usize> = broker.batches().iter().map(Vec::len).collect();
    assert_eq!(broker.entries(), ids(&sent));
    assert_eq!(sizes.iter().max(), Some(&MAX_BATCH_ENTRIES), "{sizes:?}");
    assert!(sizes.len() <= 4, "{sizes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_bounded_in_bytes() {
    const LARGE: usize = 600 * 1024;
    let broker = Scripted::new(true, 0);
    let journal = Journal::start(broker.clone());
    let sent: Vec<Entry> = (0..10).map(|_| large(LARGE)).collect();
    all(append_all(&journal, &sent)).await;
    assert_eq!(broker.entries(), ids(&sent));
    let longest = broker.taken.borrow().iter().map(|p| p.body.len()).max();
    assert!(
        longest.unwrap() < MAX_BATCH_BYTES + 2 * LARGE,
        "{longest:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_while_publishes_fail() {
    let broker = Scripted::new(true, 40);
    let journal = Journal::start(broker.clone());
    let sent: Vec<Entry> = (0..700).map(|_| small()).collect();
    all(append_all(&journal, &sent)).await;
    assert_eq!(broker.entries(), ids(&sent));
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_the_broker_refuses_does_not_delay_others() {
    const MOST: usize = 10_000;
    let broker = Scripted::new(false, 0);
    broker.most.store(MOST, Ordering::Relaxed);
    let journal = Journal::start(broker.clone());
    let mut sent: Vec<Entry> = (0..50).map(|_| small()).collect();
    sent.extend((0..3).map(|_| large(MOST / 2)));
    let appends = append_all(&journal, &sent);
    let too_large: Vec<Entry> = (0..9).map(|_| large(MOST)).collect();
    let given_up = append_all(&journal, &too_large);
    broker.open.send_replace(true);
    all(appends).await;
    all(given_up).await;
    assert_eq!(broker.entries(), ids(&sent));
}

#[tokio::test(start_paused = true)]
async fn a_full_buffer_makes_callers_wait_and_loses_no_entry() {
    const LARGE: usize = 1024 * 1024;
    let broker = Scripted::new(false, 0);
    let journal = Journal::start(broker.clone());
    let sent: Vec<Entry> = (0..40).map(|_| large(LARGE)).collect();
    let appends = append_all(&journal, &sent);
    tokio::time::sleep(QUIET).await;
    // 31 of them fit, and nine wait for capacity.
    let room = journal.room.available_permits();
    assert!(room < LARGE + ENTRY_OVERHEAD, "{room} bytes are free");
    broker.open.send_replace(true);
    all(appends).await;
    assert_eq!(broker.entries(), ids(&sent));
    assert_eq!(
        journal.room.available_permits(),
        MAX_BUFFERED_BYTES as usize
    );
}

#[tokio::test(start_paused = true)]
async fn the_close_publishes_accepted_entries_and_accepts_no_more() {
    let broker = Scripted::new(false, 0);
    let journal = Journal::start(broker.clone());
    let sent: Vec<Entry> = (0..900).map(|_| small()).collect();
    let appends = append_all(&journal, &sent);
    tokio::time::sleep(QUIET).await;
    assert!(timeout(QUIET, journal.close()).await.is_err());
    broker.open.send_replace(true);
    timeout(LIMIT, journal.close()).await.expect("it closes");
    assert_eq!(broker.entries(), ids(&sent));
    all(appends).await;
    assert!(!journal.append_within(small(), QUIET).await);
    assert_eq!(broker.entries(), ids(&sent));
}

#[test]
fn a_body_that_is_no_list_of_entries_is_refused() {
    for body in ["", "{}", "[1]", r#"[{"entry_id":"ent_1"}]"#] {
        assert!(decode(&Bytes::from(body)).is_err(), "{body}");
    }
    assert!(decode(&Bytes::from("[]")).unwrap().is_empty());
}
