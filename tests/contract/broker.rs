//! The contract suite that every engine of the broker must pass.
//!
//! Invariant: the cases are independent of the engine. [`broker_contract!`] lists them once and
//! makes a test of each for its harness, so an engine cannot skip one.
//!
//! A case proves that something does *not* happen by what happens instead: a later message arrives
//! first, or a count matches. Only if there is no such sign does it wait for a short quiet time.

mod bounds;
mod carrying;
mod fairness;
mod notes;
mod settling;

use std::{fmt, ops::RangeBounds, panic::AssertUnwindSafe, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use harness::wait;
use roundtrip_broker::{Config, Consumer, Delivery, Message, Queue, Route, SharedBroker, Status};
use roundtrip_model::{ChannelId, Decision, MessageId};
use time::macros::datetime;
use tokio::time::timeout;

pub(crate) use self::{bounds::*, carrying::*, fairness::*, notes::*, settling::*};

/// Everything that is bound to happen has happened within this time, even next to a build on every
/// core.
const LIMIT: Duration = Duration::from_mins(1);

/// How long a case waits to see that nothing happens, if there is no other sign.
const QUIET: Duration = Duration::from_millis(300);

/// A delay that is long enough to measure.
const DELAY: Duration = Duration::from_secs(1);

/// A delay that outlasts every case.
const LONG_DELAY: Duration = Duration::from_hours(1);

/// A change to the default configuration.
pub(crate) type Tweak = fn(&mut Config);

/// The configuration that a harness starts from. Its time limit is long, because a late confirm on
/// a busy machine breaks no promise.
pub(crate) fn patient() -> Config {
    Config {
        publish_timeout: LIMIT,
        ..Config::default()
    }
}

/// Makes brokers of one engine, each in a place of its own.
#[async_trait]
pub(crate) trait Harness: Default + Send {
    /// A broker in a fresh place, configured by [`patient`] and this change.
    async fn make(&mut self, tweak: Tweak) -> SharedBroker;

    /// Closes the last broker and opens its place again, as the next process would.
    async fn reopen(&mut self, broker: SharedBroker) -> SharedBroker;

    /// Removes every place that was made.
    async fn close(self);
}

/// Makes a test of every case for one engine. Call it in a module with the engine's name.
macro_rules! broker_contract {
    ($harness:ty) => {
        $crate::contract::broker::broker_contract! { @tests $harness;
            a_message_arrives_unchanged,
            a_waiting_consumer_gets_what_is_published,
            a_fresh_queue_keeps_its_order,
            the_next_message_tells_for_how_long_it_is_ready,
            an_acked_message_is_not_delivered_again,
            an_unsettled_message_is_delivered_again_after_reopening,
            a_dropped_delivery_is_delivered_again,
            a_retry_comes_after_its_delay_and_counts,
            a_snoozed_message_comes_after_its_delay_and_counts_no_attempt,
            a_delayed_message_does_not_delay_others,
            a_delay_outlasts_reopening,
            a_dead_message_lies_in_its_dead_queue,
            a_rejected_message_counts_no_attempt,
            a_waiting_message_lies_in_the_waiting_queue,
            a_dead_letter_can_be_published,
            a_dead_callback_lies_in_its_own_dead_queue,
            a_dead_letter_can_be_snoozed_and_removed,
            a_message_keeps_its_replay_count_in_every_queue,
            a_dead_journal_batch_lies_in_its_own_dead_queue,
            a_new_message_does_not_wait_behind_retries,
            a_retry_does_not_wait_behind_new_messages,
            a_window_is_hard,
            two_consumers_share_a_queue,
            a_dropped_consumer_returns_its_deliveries,
            ready_counts_neither_the_delayed_nor_the_handed_out,
            queues_are_apart,
            many_publishers_lose_nothing,
            a_large_body_arrives,
            every_shard_reaches_the_consumer,
            a_full_queue_refuses_publishes_and_keeps_its_messages,
            a_queue_that_holds_its_bytes_refuses_publishes,
            after_closing_publishes_are_refused,
            a_consumer_ends_with_its_broker,
            a_note_reaches_its_mailbox_alone,
        }
    };
    (@tests $harness:ty; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::contract::broker::run::<$harness>($crate::contract::broker::$case).await;
            }
        )*
    };
}

pub(crate) use broker_contract;

/// Runs one case and cleans up after it, even if it fails.
pub(crate) async fn run<H: Harness>(case: impl AsyncFnOnce(&mut Engine<H>)) {
    let mut engine = Engine(H::default());
    let outcome = AssertUnwindSafe(case(&mut engine)).catch_unwind().await;
    engine.0.close().await;
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// The engine under test.
pub(crate) struct Engine<H>(H);

impl<H: Harness> Engine<H> {
    async fn fresh(&mut self) -> SharedBroker {
        self.fresh_with(|_| {}).await
    }

    async fn fresh_with(&mut self, tweak: Tweak) -> SharedBroker {
        let broker = self.0.make(tweak).await;
        until_ready(&broker).await;
        broker
    }

    async fn reopen(&mut self, broker: SharedBroker) -> SharedBroker {
        let broker = self.0.reopen(broker).await;
        until_ready(&broker).await;
        broker
    }
}

async fn until_ready(broker: &SharedBroker) {
    let ready = wait::until("the broker to be ready", async || {
        (broker.status() == Status::Ready).then_some(())
    });
    let ready = ready.await;
    ready.unwrap_or_else(|error| panic!("{error}: {:?}", broker.status()));
}

async fn until_count(broker: &SharedBroker, queue: Queue, expected: u64) {
    until_counted(LIMIT, broker, queue, expected..=expected).await;
}

async fn until_counted(
    limit: Duration,
    broker: &SharedBroker,
    queue: Queue,
    expected: impl RangeBounds<u64> + fmt::Debug,
) {
    let mut last = None;
    let what = format!("{expected:?} ready messages in {}", queue.name());
    let counted = wait::until_within(limit, what, async || {
        last = broker.ready(queue).await.ok();
        last.filter(|last| expected.contains(last)).map(drop)
    });
    let counted = counted.await;
    counted.unwrap_or_else(|error| panic!("{error}: it has {last:?}"));
}

fn channel(name: &str) -> ChannelId {
    name.parse().expect("a channel id")
}

fn message(body: impl Into<Bytes>) -> Message {
    Message {
        id: MessageId::generate().to_string(),
        attempts: 0,
        replay_count: 0,
        accepted_at: datetime!(2026-11-23 12:34:56.789 UTC),
        dead: None,
        waiting: None,
        body: body.into(),
    }
}

fn numbered(number: u32) -> Message {
    message(format!(r#"{{"number":{number}}}"#))
}

async fn publish(broker: &SharedBroker, message: &Message) {
    publish_to(broker, &channel("c"), message).await;
}

async fn publish_to(broker: &SharedBroker, channel: &ChannelId, message: &Message) {
    let taken = broker
        .publish(Route::Outbound(channel), message.clone())
        .await;
    taken.expect("the broker takes it");
}

async fn consume(broker: &SharedBroker, queue: Queue, window: u16) -> Box<dyn Consumer> {
    broker
        .consume(queue, window)
        .await
        .expect("the broker is open")
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

async fn assert_quiet(consumer: &mut Box<dyn Consumer>) {
    let delivery = timeout(QUIET, consumer.next()).await;
    assert!(
        delivery.is_err(),
        "nothing should come, but did: {delivery:?}"
    );
}
