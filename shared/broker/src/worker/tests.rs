//! The worker loop's promises, against a consumer that records each settlement.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use roundtrip_model::{DeadReason, Decision, decision::DeadKind};
use time::OffsetDateTime;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{Handler, Worker};
use crate::{Consumer, Delivery, Message, PublishError, Queue, Settle, SettleError, Settlement};

/// Everything that is bound to happen has happened within this time. The clock is paused in these
/// tests, so it passes at once while all tasks wait.
const LIMIT: Duration = Duration::from_hours(1);

const DRAIN: Duration = Duration::from_secs(25);

/// How a message was settled.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    Settled(Settlement),
    Released,
}

type Fates = mpsc::UnboundedReceiver<(String, Fate)>;

/// Delivers these messages, then waits forever, or ends.
struct Scripted {
    messages: VecDeque<String>,
    then_ends: bool,
    settles: bool,
    received: watch::Sender<usize>,
    fates: mpsc::UnboundedSender<(String, Fate)>,
}

#[async_trait]
impl Consumer for Scripted {
    async fn next(&mut self) -> Option<Delivery> {
        let Some(id) = self.messages.pop_front() else {
            if !self.then_ends {
                std::future::pending::<()>().await;
            }
            return None;
        };
        self.received.send_modify(|received| *received += 1);
        let lease = TestLease {
            id: id.clone(),
            settles: self.settles,
            fates: self.fates.clone(),
        };
        let message = Message {
            id,
            attempts: 2,
            replay_count: 0,
            accepted_at: OffsetDateTime::UNIX_EPOCH,
            dead: None,
            waiting: None,
            body: Bytes::new(),
        };
        Some(Delivery::new(message, Box::new(lease)))
    }
}

struct TestLease {
    id: String,
    settles: bool,
    fates: mpsc::UnboundedSender<(String, Fate)>,
}

#[async_trait]
impl Settle for TestLease {
    async fn settle(
        self: Box<Self>,
        _: Message,
        settlement: Settlement,
    ) -> Result<(), SettleError> {
        if !self.settles {
            return Err(PublishError::Refused("full".to_owned()).into());
        }
        let _ = self.fates.send((self.id, Fate::Settled(settlement)));
        Ok(())
    }

    fn release(self: Box<Self>) {
        let _ = self.fates.send((self.id, Fate::Released));
    }
}

/// Waits for the gate; panics on the messages named `panics`.
struct Gated {
    gate: Semaphore,
    now: AtomicUsize,
    most: watch::Sender<usize>,
}

impl Gated {
    fn new(open_for: usize) -> Arc<Self> {
        let (gate, most) = (Semaphore::new(open_for), watch::Sender::new(0));
        Arc::new(Self {
            gate,
            now: AtomicUsize::new(0),
            most,
        })
    }

    fn open(&self) {
        self.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    }
}

#[async_trait]
impl Handler for Gated {
    async fn handle(&self, message: &Message) -> Decision {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.send_modify(|most| *most = (*most).max(now));
        let permit = self.gate.acquire().await.expect("the gate is there");
        permit.forget();
        // So that another delivery could exceed the limit.
        tokio::task::yield_now().await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        assert!(message.id != "panics", "scripted");
        Decision::Done
    }

    async fn panicked(&self, _: &Message) -> Decision {
        Decision::DeadLetter(DeadReason::new(DeadKind::Refused, "panicked"))
    }
}

struct Run {
    handler: Arc<Gated>,
    received: watch::Receiver<usize>,
    fates: Fates,
    stop: CancellationToken,
    worker: tokio::task::JoinHandle<()>,
}

impl Run {
    fn start(concurrency: usize, handler: Arc<Gated>, script: impl FnOnce(&mut Scripted)) -> Self {
        let (sender, fates) = mpsc::unbounded_channel();
        let (counter, received) = watch::channel(0);
        let mut consumer = Scripted {
            messages: VecDeque::new(),
            then_ends: false,
            settles: true,
            received: counter,
            fates: sender,
        };
        script(&mut consumer);
        let stop = CancellationToken::new();
        let worker = Worker {
            queue: Queue::Outbound,
            concurrency,
            drain: DRAIN,
        };
        let worker = tokio::spawn(worker.run(
            Box::new(consumer),
            Arc::clone(&handler) as Arc<dyn Handler>,
            stop.clone(),
        ));
        Self {
            handler,
            received,
            fates,
            stop,
            worker,
        }
    }

    async fn until_under_way(&self, expected: usize) {
        let mut most = self.handler.most.subscribe();
        let reached = timeout(LIMIT, most.wait_for(|most| *most >= expected)).await;
        reached
            .expect("under way in time")
            .expect("the handler is there");
    }

    async fn fate(&mut self) -> (String, Fate) {
        timeout(LIMIT, self.fates.recv())
            .await
            .expect("a fate in time")
            .expect("a fate")
    }

    async fn end(self) -> Vec<(String, Fate)> {
        timeout(LIMIT, self.worker)
            .await
            .expect("it ends in time")
            .expect("it ends well");
        let mut fates = self.fates;
        std::iter::from_fn(|| fates.try_recv().ok()).collect()
    }
}

fn named(names: &[&str]) -> VecDeque<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn done(name: &str) -> (String, Fate) {
    (name.to_owned(), Fate::Settled(Settlement::Ack))
}

#[tokio::test(start_paused = true)]
async fn concurrency_is_reached_and_never_exceeded_not_even_by_receiving() {
    let run = Run::start(4, Gated::new(0), |script| {
        script.messages = (0..50).map(|number| number.to_string()).collect();
        script.then_ends = true;
    });
    run.until_under_way(4).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(*run.received.borrow(), 4);
    run.handler.open();
    let handler = Arc::clone(&run.handler);
    assert_eq!(run.end().await.len(), 50);
    assert_eq!(*handler.most.borrow(), 4);
}

#[tokio::test(start_paused = true)]
async fn the_handler_decides_about_its_panic_and_the_loop_goes_on() {
    let handler = Gated::new(100);
    let run = Run::start(1, handler, |script| {
        script.messages = named(&["panics", "next"]);
        script.then_ends = true;
    });
    let reason = DeadReason::new(DeadKind::Refused, "panicked");
    let panicked = Fate::Settled(Settlement::Dead {
        reason,
        attempts: 3,
    });
    assert_eq!(
        run.end().await,
        [("panics".to_owned(), panicked), done("next")]
    );
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_cannot_be_settled_ends_nothing() {
    let run = Run::start(1, Gated::new(100), |script| {
        script.messages = named(&["1", "2", "3"]);
        script.then_ends = true;
        script.settles = false;
    });
    let received = run.received.clone();
    run.end().await;
    assert_eq!(*received.borrow(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_what_is_under_way_and_receives_no_more() {
    let mut run = Run::start(2, Gated::new(0), |script| {
        script.messages = named(&["1", "2", "3", "4"]);
    });
    run.until_under_way(2).await;
    run.stop.cancel();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!run.worker.is_finished(), "it did not wait");
    run.handler.open();
    let mut fates = [run.fate().await, run.fate().await];
    fates.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(fates, [done("1"), done("2")]);
    let received = run.received.clone();
    assert_eq!(run.end().await, []);
    assert_eq!(*received.borrow(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_a_loop_that_waits_for_a_message() {
    let run = Run::start(2, Gated::new(0), |_| {});
    tokio::task::yield_now().await;
    run.stop.cancel();
    assert_eq!(run.end().await, []);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_outlasts_the_drain_returns_uncounted() {
    let run = Run::start(2, Gated::new(0), |script| {
        script.messages = named(&["1", "2"]);
    });
    run.until_under_way(2).await;
    let from = tokio::time::Instant::now();
    run.stop.cancel();
    let mut fates = run.end().await;
    fates.sort_by(|one, other| one.0.cmp(&other.0));
    let released = |name: &str| (name.to_owned(), Fate::Released);
    assert_eq!(fates, [released("1"), released("2")]);
    assert_eq!(from.elapsed(), DRAIN);
}

#[tokio::test(start_paused = true)]
async fn an_ended_consumer_is_drained() {
    let run = Run::start(2, Gated::new(0), |script| {
        script.messages = named(&["1"]);
        script.then_ends = true;
    });
    run.until_under_way(1).await;
    run.handler.open();
    assert_eq!(run.end().await, [done("1")]);
}
