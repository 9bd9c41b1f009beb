//! New parcels and those that were put off come in turn, however many of the others wait.

use std::time::Duration;

use futures::future::join_all;
use roundtrip_model::Decision;

use super::{
    DELAY, Engine, Harness, consume, next, numbered, publish, settle, until_count, until_counted,
};
use crate::{Consumer, Parcel, Queue, SharedBroker};

/// How many wait.
const BACKLOG: u16 = 2000;

/// Within this they all have come back: the tier gives them back some at a time, and other cases
/// run beside this one.
const BACKLOG_LIMIT: Duration = Duration::from_mins(2);

/// How many are received at once.
const WINDOW: u16 = 10;

/// The most deliveries until the one that came last is handed out. With neither in the other's way
/// it comes after a few windows' worth, on a busy machine after some more. Behind the backlog it
/// would come last of all.
const SOON: u16 = BACKLOG / 2;

/// Backoffs of a channel that was away come due by the thousand; whoever else is written to must
/// not notice.
pub async fn a_new_parcel_does_not_wait_behind_retries<H: Harness>(engine: &mut Engine<H>) {
    let broker = engine.fresh().await;
    put_off(&broker, BACKLOG).await;
    // A busy broker may double some: delivery is at least once.
    let all = u64::from(BACKLOG)..;
    until_counted(BACKLOG_LIMIT, &broker, Queue::Outbound, all).await;
    let mut consumer = consume(&broker, Queue::Outbound, WINDOW).await;
    settle(next(&mut consumer).await, Decision::Done).await;
    let new = numbered(0);
    publish(&broker, &new).await;
    assert_comes_soon(&mut consumer, &new).await;
}

/// Nor must a stream of new ones keep what failed from being tried again.
pub async fn a_retry_does_not_wait_behind_new_parcels<H: Harness>(engine: &mut Engine<H>) {
    let broker = engine.fresh().await;
    let retry = put_off(&broker, 1).await.remove(0);
    until_count(&broker, Queue::Outbound, 1).await;
    let new: Vec<Parcel> = (0..BACKLOG.into()).map(numbered).collect();
    join_all(new.iter().map(|parcel| publish(&broker, parcel))).await;
    let mut consumer = consume(&broker, Queue::Outbound, WINDOW).await;
    assert_comes_soon(&mut consumer, &retry).await;
}

/// Publishes these many and puts them off, all for the same short time.
async fn put_off(broker: &SharedBroker, parcels: u16) -> Vec<Parcel> {
    let sent: Vec<Parcel> = (0..parcels.into()).map(numbered).collect();
    join_all(sent.iter().map(|parcel| publish(broker, parcel))).await;
    let mut consumer = consume(broker, Queue::Outbound, parcels).await;
    let mut held = Vec::new();
    for _ in &sent {
        held.push(next(&mut consumer).await);
    }
    // So that none comes back to it.
    drop(consumer);
    let settling = held
        .into_iter()
        .map(|delivery| settle(delivery, Decision::RetryAfter(DELAY)));
    join_all(settling).await;
    sent
}

async fn assert_comes_soon(consumer: &mut Box<dyn Consumer>, parcel: &Parcel) {
    for _ in 0..SOON {
        let delivery = next(consumer).await;
        let found = delivery.parcel().id == parcel.id;
        settle(delivery, Decision::Done).await;
        if found {
            return;
        }
    }
    panic!("not among the first {SOON}");
}
