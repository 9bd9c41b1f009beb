//! What the contract suite cannot see: the file, the disk, the time of day, and long histories.

mod file;
mod history;
mod window;

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use roundtrip_model::{ChannelId, Decision, MessageId};
use time::{OffsetDateTime, macros::datetime};
use tokio::time::timeout;

use super::Embedded;
use crate::{Broker, Config, Consumer, Delivery, Message, OpenError, PublishError, Queue, Route};

/// Everything that is bound to happen has happened within this time.
const LIMIT: Duration = Duration::from_mins(1);

const NOON: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);

async fn try_open(file: &Path, now: OffsetDateTime) -> Result<Embedded, OpenError> {
    Embedded::open(file.to_owned(), &Config::default(), Arc::new(now)).await
}

async fn open(file: &Path) -> Embedded {
    open_at(file, NOON).await
}

async fn open_at(file: &Path, now: OffsetDateTime) -> Embedded {
    try_open(file, now)
        .await
        .unwrap_or_else(|error| panic!("{error}"))
}

fn message(body: impl Into<Bytes>) -> Message {
    Message {
        id: MessageId::generate().to_string(),
        attempts: 0,
        replay_count: 0,
        accepted_at: NOON,
        dead: None,
        waiting: None,
        body: body.into(),
    }
}

async fn publish(broker: &Embedded, message: &Message) -> Result<(), PublishError> {
    let channel: ChannelId = "c".parse().expect("a channel id");
    broker
        .publish(Route::Outbound(&channel), message.clone())
        .await
}

async fn next(consumer: &mut Box<dyn Consumer>) -> Delivery {
    let delivery = timeout(LIMIT, consumer.next()).await;
    delivery
        .expect("a message within the limit")
        .expect("the broker is open")
}

async fn settle(delivery: Delivery, decision: Decision) {
    let settled = timeout(LIMIT, delivery.settle(decision)).await;
    settled
        .expect("settled within the limit")
        .expect("the lease holds");
}

async fn consume(broker: &Embedded, window: u16) -> Box<dyn Consumer> {
    broker
        .consume(Queue::Outbound, window)
        .await
        .expect("the broker is open")
}
