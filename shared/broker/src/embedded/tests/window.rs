//! A consumer's window in bytes.

use std::sync::Arc;

use roundtrip_model::Decision;
use tempfile::TempDir;

use super::{LIMIT, NOON, consume, message, next, publish, settle};
use crate::{
    Broker, Config, Queue,
    embedded::{Embedded, queue::MAX_WINDOW_BYTES},
};

const EACH: usize = MAX_WINDOW_BYTES / 8;

/// More messages than the window holds; the last of them exceed it.
const ALL: u64 = 12;
const FIT: u64 = 8;

/// With a long time limit, because the bodies are long.
async fn open(folder: &TempDir) -> Embedded {
    let config = Config {
        publish_timeout: LIMIT,
        ..Config::default()
    };
    let file = folder.path().join("broker.db");
    Embedded::open(file, &config, Arc::new(NOON))
        .await
        .unwrap_or_else(|error| panic!("{error}"))
}

async fn waiting(broker: &Embedded) -> u64 {
    broker.ready(Queue::Outbound).await.unwrap()
}

#[tokio::test]
async fn long_bodies_stay_on_disk_until_those_before_them_are_settled() {
    let folder = TempDir::new().unwrap();
    let broker = open(&folder).await;
    for _ in 0..ALL {
        publish(&broker, &message(vec![b'x'; EACH])).await.unwrap();
    }
    let mut consumer = consume(&broker, 1000).await;
    let first = next(&mut consumer).await;
    assert_eq!(waiting(&broker).await, ALL - FIT);

    // Every settlement makes room for one more, whatever the decision.
    settle(first, Decision::Done).await;
    let second = next(&mut consumer).await;
    assert_eq!(waiting(&broker).await, ALL - FIT - 1);
    second.release();
    // The released message is delivered again, in the capacity that it freed.
    assert_eq!(waiting(&broker).await, ALL - FIT - 1);

    for _ in 0..ALL - 1 {
        settle(next(&mut consumer).await, Decision::Done).await;
    }
    assert_eq!(waiting(&broker).await, 0);
}

#[tokio::test]
async fn a_body_larger_than_the_window_is_delivered_alone() {
    let folder = TempDir::new().unwrap();
    let broker = open(&folder).await;
    let mut consumer = consume(&broker, 1000).await;
    let long = message(vec![b'x'; MAX_WINDOW_BYTES]);
    for message in [&long, &message("{}")] {
        publish(&broker, message).await.unwrap();
    }
    let first = next(&mut consumer).await;
    assert_eq!(first.message().id, long.id);
    assert_eq!(waiting(&broker).await, 1);
    settle(first, Decision::Done).await;
    settle(next(&mut consumer).await, Decision::Done).await;
}
