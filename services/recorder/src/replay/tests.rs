use async_trait::async_trait;
use roundtrip_broker::{Broker, Closed, Consumer, Message, Queue, Route, Status};
use roundtrip_model::{DeadReason, SystemClock, decision::DeadKind};
use roundtrip_store::{Config, DeadFilter, DeadLetter, DeadQueue};
use tempfile::TempDir;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use super::*;

const LIMIT: usize = 100;

/// A broker with a message limit of [`LIMIT`] bytes, which shows the ids that it accepts.
struct SmallBroker(mpsc::UnboundedSender<String>);

#[async_trait]
impl Broker for SmallBroker {
    async fn publish(&self, _: Route<'_>, message: Message) -> Result<(), PublishError> {
        if message.body.len() > LIMIT {
            return Err(PublishError::TooLarge);
        }
        self.0
            .send(message.id)
            .map_err(|_closed| PublishError::Unconfirmed)
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

/// An answer in a dead queue. The ids are in the order of the numbers.
fn letter(number: u8, bytes: usize) -> DeadLetter {
    let now = SystemClock.now();
    DeadLetter {
        dead_id: format!("cb_{number}.0"),
        queue: DeadQueue::Callbacks,
        parcel_id: format!("cb_{number}"),
        message_id: None,
        channel_id: None,
        session_id: Some("s".parse().unwrap()),
        reason: DeadReason::new(DeadKind::AttemptsExhausted, ""),
        attempts: 1,
        replay_count: 0,
        accepted_at: now,
        dead_at: now - Duration::from_secs(1),
        body: vec![b'x'; bytes].into(),
    }
}

#[tokio::test]
async fn a_letter_over_the_brokers_limit_is_skipped_and_stops_no_other() {
    let folder = TempDir::new().unwrap();
    let store = roundtrip_store::open(&Config {
        url: format!("sqlite:{}", folder.path().join("store.db").display()),
        ..Config::default()
    })
    .await
    .unwrap();
    let letters = [letter(1, LIMIT), letter(2, LIMIT + 1), letter(3, LIMIT)];
    store.insert(&letters).await.unwrap();
    let replay = Replay {
        replay_id: ReplayId::generate(),
        requested_by: String::new(),
        source: ReplaySource::DeadLetters(DeadFilter::default()),
        rate_per_second: None,
        status: ReplayStatus::Running,
        matched: 3,
        progress: Progress::default(),
        created_at: SystemClock.now(),
        ended_at: None,
    };
    store.create_replay(&replay).await.unwrap();

    let (accepted, mut ids) = mpsc::unbounded_channel();
    let broker: SharedBroker = Arc::new(SmallBroker(accepted));
    let journal = Journal::start(Arc::clone(&broker));
    let replayer = Replayer::new(broker, Arc::clone(&store), journal, Arc::new(SystemClock));
    let stop = CancellationToken::new();
    let ended = async {
        loop {
            let replay = store.replay(&replay.replay_id).await.unwrap().unwrap();
            if replay.status == ReplayStatus::Done {
                break replay.progress;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    let progress = tokio::select! {
        () = replayer.run(&stop) => panic!("it runs until it is stopped"),
        progress = timeout(Duration::from_mins(1), ended) => progress.expect("the replay ends"),
    };
    assert_eq!((progress.replayed, progress.skipped), (2, 1));
    assert_eq!(ids.recv().await.as_deref(), Some("cb_1"));
    assert_eq!(ids.recv().await.as_deref(), Some("cb_3"));
    let left = DeadFilter {
        ids: Some(vec!["cb_2".to_owned()]),
        ..DeadFilter::default()
    };
    assert_eq!(store.count_dead_letters(&left).await.unwrap(), 1);
}
