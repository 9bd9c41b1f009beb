//! Long histories of publishes, settlements and restarts, compared with a plain model.

use std::{collections::HashMap, path::Path, time::Duration};

use proptest::{prelude::*, sample::Index};
use roundtrip_model::{DeadReason, Decision, decision::DeadKind};
use tempfile::TempDir;

use super::{LIMIT, consume, message, next, open, publish, settle, timeout};
use crate::{Broker, Consumer, Delivery, Queue, embedded::Embedded};

#[derive(Debug, Clone)]
enum Step {
    Publish,
    Receive,
    Settle(Index, Verdict),
    /// A consumer is dropped with all deliveries in its window, and another one starts.
    Resubscribe,
    /// As after the death of the process, with its leases lost.
    Reopen,
}

#[derive(Debug, Clone, Copy)]
enum Verdict {
    Done,
    Retry,
    Snooze,
    Dead,
    Drop,
}

fn step() -> impl Strategy<Value = Step> {
    let verdict = prop_oneof![
        Just(Verdict::Done),
        Just(Verdict::Retry),
        Just(Verdict::Snooze),
        Just(Verdict::Dead),
        Just(Verdict::Drop),
    ];
    prop_oneof![
        8 => Just(Step::Publish),
        8 => Just(Step::Receive),
        6 => (any::<Index>(), verdict).prop_map(|(which, verdict)| Step::Settle(which, verdict)),
        1 => Just(Step::Resubscribe),
        1 => Just(Step::Reopen),
    ]
}

/// The expected state: for each message that is not done, its attempts and whether it is dead.
#[derive(Default)]
struct Model(HashMap<String, (u32, bool)>);

impl Model {
    fn working(&self) -> usize {
        self.0.values().filter(|(_, dead)| !dead).count()
    }
}

struct Run {
    broker: Embedded,
    consumer: Box<dyn Consumer>,
    held: Vec<Delivery>,
    model: Model,
}

const WINDOW: u16 = 4;

impl Run {
    async fn start(file: &Path) -> Self {
        let broker = open(file).await;
        let consumer = consume(&broker, WINDOW).await;
        Self {
            broker,
            consumer,
            held: Vec::new(),
            model: Model::default(),
        }
    }

    async fn step(&mut self, step: Step, file: &Path) {
        match step {
            Step::Publish => {
                let message = message("{}");
                publish(&self.broker, &message).await.expect("taken");
                self.model.0.insert(message.id, (0, false));
            }
            Step::Receive => self.receive().await,
            Step::Settle(_, _) if self.held.is_empty() => {}
            Step::Settle(which, verdict) => {
                let delivery = self.held.swap_remove(which.index(self.held.len()));
                self.settle(delivery, verdict).await;
            }
            Step::Resubscribe => self.consumer = consume(&self.broker, WINDOW).await,
            Step::Reopen => {
                self.broker.close().await;
                self.held.clear();
                self.broker = open(file).await;
                self.consumer = consume(&self.broker, WINDOW).await;
            }
        }
    }

    /// Receives if the model has a message to receive.
    async fn receive(&mut self) {
        let has_room = self.held.len() < usize::from(WINDOW);
        if self.model.working() > self.held.len() && has_room {
            let delivery = next(&mut self.consumer).await;
            let message = delivery.message();
            assert_eq!(
                self.model.0.get(&message.id),
                Some(&(message.attempts, false))
            );
            assert!(
                self.held.iter().all(|held| held.message().id != message.id),
                "doubled"
            );
            self.held.push(delivery);
        }
    }

    async fn settle(&mut self, delivery: Delivery, verdict: Verdict) {
        let id = delivery.message().id.clone();
        let decision = match verdict {
            Verdict::Done => Decision::Done,
            Verdict::Retry => Decision::RetryAfter(Duration::from_millis(2)),
            Verdict::Snooze => Decision::Snooze(Duration::ZERO),
            Verdict::Dead => Decision::DeadLetter(DeadReason::new(DeadKind::Refused, "no")),
            Verdict::Drop => return drop(delivery),
        };
        settle(delivery, decision).await;
        let (attempts, dead) = self.model.0.get_mut(&id).expect("it is in the model");
        match verdict {
            Verdict::Done => drop(self.model.0.remove(&id)),
            Verdict::Retry => *attempts += 1,
            Verdict::Dead => (*attempts, *dead) = (*attempts + 1, true),
            Verdict::Snooze | Verdict::Drop => {}
        }
    }

    /// Everything arrives once, as in the model, and then the queues are empty.
    async fn end(mut self) {
        self.held.clear();
        drop(self.consumer);
        for (queue, dead) in [(Queue::Outbound, false), (Queue::OutboundDead, true)] {
            let mut expected: HashMap<&str, u32> = self
                .model
                .0
                .iter()
                .filter(|(_, state)| state.1 == dead)
                .map(|(id, state)| (id.as_str(), state.0))
                .collect();
            let mut consumer = self.broker.consume(queue, WINDOW).await.expect("open");
            while !expected.is_empty() {
                let delivery = next(&mut consumer).await;
                let message = delivery.message();
                assert_eq!(expected.remove(message.id.as_str()), Some(message.attempts));
                settle(delivery, Decision::Done).await;
            }
            assert_eq!(self.broker.ready(queue).await.expect("open"), 0);
        }
        timeout(LIMIT, self.broker.close()).await.expect("closes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_history_loses_or_doubles_a_message(steps in prop::collection::vec(step(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let folder = TempDir::new().unwrap();
            let file = folder.path().join("broker.db");
            let mut run = Run::start(&file).await;
            for step in steps {
                run.step(step, &file).await;
            }
            run.end().await;
        });
    }
}
