use roundtrip_doubles::FakeBroker;
use roundtrip_model::{
    CallbackId, Event, MessageId, MessageKind, State, SystemClock,
    journal::{After, Attempt},
};
use roundtrip_store::Config;
use tempfile::TempDir;
use time::OffsetDateTime;

use super::*;

struct Bench {
    finder: OverdueFinder,
    broker: Arc<FakeBroker>,
    store: SharedStore,
    _folder: TempDir,
}

impl Bench {
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let config = Config {
            url: format!("sqlite:{}", folder.path().join("store.db").display()),
            ..Config::default()
        };
        let store = roundtrip_store::open(&config).await.unwrap();
        let broker = Arc::new(FakeBroker::new(Queue::Journal));
        let shared: SharedBroker = Arc::clone(&broker) as _;
        let journal = Journal::start(Arc::clone(&shared));
        let finder = OverdueFinder::new(shared, Arc::clone(&store), journal, Arc::new(SystemClock));
        Self {
            finder,
            broker,
            store,
            _folder: folder,
        }
    }

    /// Records a delivery whose answer is due at this time.
    async fn delivered(&self, answer_by: OffsetDateTime) -> MessageId {
        let attempt = Attempt {
            attempt: 1,
            status: Some(200),
            error: None,
            location: None,
            excerpt: String::new(),
            duration_ms: 1,
            next: After::Arrived,
            answer_by: Some(answer_by),
        };
        let message_id = MessageId::generate();
        self.record(message_id, Event::Attempted(Box::new(attempt)))
            .await;
        message_id
    }

    async fn record(&self, message_id: MessageId, event: Event) {
        let entry = Entry {
            entry_id: EntryId::generate(),
            message_id: Some(message_id),
            channel_id: "c".parse().ok(),
            session_id: "s".parse().unwrap(),
            kind: MessageKind::Outbound,
            replay_count: 0,
            at: SystemClock.now(),
            event,
        };
        self.store.record(&[entry]).await.unwrap();
    }

    async fn look(&self, journaled: &mut Journaled) {
        self.finder.look(journaled).await.unwrap();
    }

    /// The entries in the journal's queue.
    fn journaled(&self) -> Vec<Entry> {
        let batches = self.broker.messages(Queue::Journal);
        let entries = batches
            .iter()
            .flat_map(|batch| roundtrip_journal::decode(&batch.body).unwrap());
        entries.collect()
    }
}

fn before(past: Duration) -> OffsetDateTime {
    SystemClock.now() - past
}

#[tokio::test]
async fn a_message_without_an_answer_in_time_becomes_overdue() {
    let bench = Bench::new().await;
    let late = bench.delivered(before(2 * GRACE)).await;
    let answered = bench.delivered(before(2 * GRACE)).await;
    let callback_id = CallbackId::generate();
    let content = None;
    let answer = Event::Answered {
        callback_id,
        content,
    };
    bench.record(answered, answer).await;
    bench.delivered(SystemClock.now()).await;
    bench.look(&mut Journaled::new()).await;
    let entries = bench.journaled();
    assert_eq!(entries.len(), 1);
    bench.store.record(&entries).await.unwrap();
    let states = bench.store.states(&[late]).await.unwrap();
    assert_eq!(states, [(late, State::Overdue)]);
    bench.look(&mut Journaled::new()).await;
    assert_eq!(bench.journaled().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_entry_is_journaled_again_if_the_store_does_not_get_it() {
    let bench = Bench::new().await;
    bench.delivered(before(2 * GRACE)).await;
    let mut journaled = Journaled::new();
    bench.look(&mut journaled).await;
    bench.look(&mut journaled).await;
    assert_eq!(bench.journaled().len(), 1);
    tokio::time::advance(JOURNALED_AGAIN_AFTER).await;
    bench.look(&mut journaled).await;
    let entries = bench.journaled();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0].entry_id, entries[1].entry_id);
}

/// One of the entries may be that of an answer.
#[tokio::test]
async fn no_message_becomes_overdue_while_entries_wait_in_the_journals_queue() {
    let bench = Bench::new().await;
    bench.delivered(before(2 * GRACE)).await;
    let mut journaled = Journaled::new();
    bench.broker.say_ready(1);
    bench.look(&mut journaled).await;
    assert_eq!(bench.journaled().len(), 0);
    bench.broker.say_ready(0);
    bench.look(&mut journaled).await;
    assert_eq!(bench.journaled().len(), 1);
}
