use std::collections::BTreeSet;

use roundtrip_broker::Queue;
use roundtrip_doubles::FakeBroker;
use roundtrip_model::{
    Channel, DeadReason, Decision, SystemClock, decision::DeadKind, waiting::WaitReason,
};
use roundtrip_store::WaitingMessage;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::Config;

/// More than any of these steps takes on a busy machine.
const LIMIT: Duration = Duration::from_mins(1);

/// A store in a folder of its own.
struct Fixture {
    _folder: TempDir,
    store: SharedStore,
    broker: Arc<FakeBroker>,
}

impl Fixture {
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let config = roundtrip_store::Config {
            url: format!("sqlite:{}", folder.path().join("store.db").display()),
            ..roundtrip_store::Config::default()
        };
        Self {
            store: roundtrip_store::open(&config).await.unwrap(),
            _folder: folder,
            broker: Arc::new(FakeBroker::new(Queue::OutboundDead)),
        }
    }

    async fn channel(&self, id: &str, delivery: serde_json::Value) {
        let channel: Channel = serde_json::from_value(json!({
            "channel_id": id,
            "channel_metadata": {"endpoint_url": "http://localhost:1/", "delivery": delivery},
        }))
        .unwrap();
        self.store.create(&channel).await.unwrap();
    }

    /// Stores messages for a channel that are due. Their numbers are their order.
    async fn put(&self, channel: &str, numbers: impl IntoIterator<Item = usize>) {
        let numbers = numbers.into_iter();
        let messages: Vec<_> = numbers.map(|number| waiting(channel, number)).collect();
        self.store.put_waiting(&messages).await.unwrap();
    }

    fn open(&self) -> WaitingRoom {
        let channels: roundtrip_store::SharedChannels = self.store.clone();
        let cache = CachedChannels::new(channels, &roundtrip_store::Config::default());
        WaitingRoom::open(
            &Config::default(),
            Arc::clone(&self.store),
            self.broker.clone(),
            Arc::new(cache),
            Arc::new(SystemClock),
        )
    }

    async fn count(&self, channel: &str) -> u64 {
        let channel = channel.parse().unwrap();
        self.store.waiting_summary(&channel).await.unwrap().count
    }
}

/// A message that is due, with an id in the order of the numbers.
fn waiting(channel: &str, number: usize) -> WaitingMessage {
    let due_at = SystemClock.now() - Duration::from_secs(1);
    WaitingMessage {
        id: format!("{channel}-{number:04}"),
        channel_id: channel.parse().unwrap(),
        session_id: "s".parse().unwrap(),
        replay_count: 0,
        attempts: 0,
        accepted_at: due_at,
        due_at,
        reason: WaitReason::ChannelPaused,
        expires_at: None,
        body: "{}".into(),
    }
}

async fn next(room: &mut WaitingRoom) -> Delivery {
    timeout(LIMIT, room.next()).await.unwrap().unwrap()
}

/// Receives and settles so many messages one after the other; returns their ids.
async fn settle(room: &mut WaitingRoom, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let delivery = next(room).await;
        ids.push(delivery.message().id.clone());
        delivery.settle(Decision::Done).await.unwrap();
    }
    ids
}

#[tokio::test]
async fn messages_come_in_order_over_several_pages() {
    let fixture = Fixture::new().await;
    fixture.channel("c", json!({"max_in_flight": 1})).await;
    fixture.put("c", 0..300).await;
    let ids = settle(&mut fixture.open(), 300).await;
    let expected: Vec<_> = (0..300).map(|number| format!("c-{number:04}")).collect();
    assert_eq!(ids, expected);
    assert_eq!(fixture.count("c").await, 0);
}

/// The next message comes only after the settlement of one of the first two.
#[tokio::test]
async fn a_channel_gets_no_more_at_once_than_it_allows() {
    let fixture = Fixture::new().await;
    fixture.channel("c", json!({"max_in_flight": 2})).await;
    fixture.put("c", 0..3).await;
    // Its message shows that the third one of the other channel was not only late.
    fixture.channel("later", json!({})).await;
    let mut room = fixture.open();
    let first = next(&mut room).await;
    let second = next(&mut room).await;
    fixture.put("later", [0]).await;
    let other = next(&mut room).await;
    assert_eq!(other.message().id, "later-0000");
    first.settle(Decision::Done).await.unwrap();
    let third = next(&mut room).await;
    assert_eq!(third.message().id, "c-0002");
    for delivery in [second, other, third] {
        delivery.settle(Decision::Done).await.unwrap();
    }
}

#[tokio::test]
async fn a_message_that_was_released_comes_again() {
    let fixture = Fixture::new().await;
    fixture.channel("c", json!({"max_in_flight": 1})).await;
    fixture.put("c", 0..2).await;
    let mut room = fixture.open();
    next(&mut room).await.release();
    assert_eq!(settle(&mut room, 2).await, ["c-0000", "c-0001"]);
}

#[tokio::test]
async fn a_consumer_that_is_dropped_leaves_its_messages_to_the_next() {
    let fixture = Fixture::new().await;
    fixture.channel("c", json!({})).await;
    fixture.put("c", 0..3).await;
    let mut room = fixture.open();
    settle(&mut room, 1).await;
    drop(room);
    let rest = settle(&mut fixture.open(), 2).await;
    assert_eq!(rest, ["c-0001", "c-0002"]);
}

#[tokio::test]
async fn a_failed_message_waits_with_one_more_attempt() {
    let fixture = Fixture::new().await;
    fixture.channel("c", json!({})).await;
    fixture.put("c", [0]).await;
    let mut room = fixture.open();
    let retry = Decision::RetryAfter(Duration::from_hours(1));
    next(&mut room).await.settle(retry).await.unwrap();
    let row = fixture.store.waiting_message("c-0000").await.unwrap();
    let row = row.unwrap();
    assert_eq!((row.attempts, row.reason), (1, WaitReason::Retry));
    assert!(row.due_at > SystemClock.now() + Duration::from_mins(59));
}

#[tokio::test]
async fn a_dead_letter_leaves_the_store_after_its_publish() {
    let fixture = Fixture::new().await;
    fixture.channel("c", json!({})).await;
    fixture.put("c", [0]).await;
    fixture.broker.fail(2);
    let mut room = fixture.open();
    let dead = DeadReason::new(DeadKind::AttemptsExhausted, "");
    let decision = Decision::DeadLetter(dead);
    next(&mut room).await.settle(decision).await.unwrap();
    assert_eq!(fixture.broker.taken(), ["c-0000"]);
    assert_eq!(fixture.count("c").await, 0);
}

/// Each channel's only message is under way, and none of them ends.
#[tokio::test]
async fn channels_whose_messages_hang_leave_room_for_another() {
    let fixture = Fixture::new().await;
    let hanging: BTreeSet<String> = (0..MAX_READING).map(|each| format!("h{each}")).collect();
    for channel in &hanging {
        fixture.channel(channel, json!({})).await;
        fixture.put(channel, [0]).await;
    }
    let mut room = fixture.open();
    let mut held = Vec::new();
    for _ in &hanging {
        held.push(next(&mut room).await);
    }
    fixture.channel("c", json!({})).await;
    fixture.put("c", [0]).await;
    assert_eq!(settle(&mut room, 1).await, ["c-0000"]);
    for delivery in held {
        delivery.settle(Decision::Done).await.unwrap();
    }
}

/// The lane of the channel does not end meanwhile, and hands nothing out twice.
#[tokio::test]
async fn an_expired_message_does_not_wait_for_one_that_hangs() {
    let fixture = Fixture::new().await;
    fixture.channel("c", json!({})).await;
    fixture.put("c", [0]).await;
    let mut room = fixture.open();
    let hanging = next(&mut room).await;
    let now = SystemClock.now();
    let expired = WaitingMessage {
        due_at: now + Duration::from_hours(1),
        expires_at: Some(now),
        ..waiting("c", 1)
    };
    fixture.store.put_waiting(&[expired]).await.unwrap();
    assert_eq!(settle(&mut room, 1).await, ["c-0001"]);
    assert_eq!(fixture.count("c").await, 1);
    hanging.settle(Decision::Done).await.unwrap();
    assert_eq!(fixture.count("c").await, 0);
}
