//! The role: works the journal and the dead queues, and runs replays.

use std::{sync::Arc, time::Duration};

use roundtrip_broker::{Closed, Handler, Queue, SharedBroker, Worker};
use roundtrip_journal::Journal;
use roundtrip_model::Clock;
use roundtrip_store::SharedStore;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config, dead::DeadLetterWriter, entries::JournalWriter, poison, replay::Replayer,
};

pub struct Recorder {
    config: Config,
    broker: SharedBroker,
    store: SharedStore,
    journal: Journal,
    clock: Arc<dyn Clock>,
}

impl Recorder {
    pub fn new(
        config: &Config,
        broker: SharedBroker,
        store: SharedStore,
        journal: Journal,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            config: config.clone(),
            broker,
            store,
            journal,
            clock,
        }
    }

    /// Works the journal and the dead queues, and runs replays, until `stop`. Work in progress then
    /// gets up to `drain` to end.
    pub async fn run(self, drain: Duration, stop: CancellationToken) -> Result<(), Closed> {
        let dead_letter_writer = |queue| {
            let store = Arc::clone(&self.store);
            let (journal, clock) = (self.journal.clone(), Arc::clone(&self.clock));
            Arc::new(DeadLetterWriter::new(queue, store, journal, clock))
        };
        let (outbound, callbacks) = (
            dead_letter_writer(roundtrip_store::DeadQueue::Outbound),
            dead_letter_writer(roundtrip_store::DeadQueue::Callbacks),
        );
        let replayer = Replayer::new(
            Arc::clone(&self.broker),
            Arc::clone(&self.store),
            self.journal.clone(),
            Arc::clone(&self.clock),
        );
        let batches = self.config.batches_at_once;
        let journal_writer = Arc::new(JournalWriter::start(Arc::clone(&self.store), batches));
        let letters = self.config.dead_letters_at_once;
        futures::future::try_join5(
            self.work(Queue::Journal, batches, journal_writer, drain, &stop),
            self.work(Queue::OutboundDead, letters, outbound, drain, &stop),
            self.work(Queue::CallbacksDead, letters, callbacks, drain, &stop),
            async {
                replayer.run(&stop).await;
                Ok(())
            },
            async {
                let look = || self.broker.ready(Queue::JournalDead);
                poison::watch(look, &stop, poison::log).await;
                Ok(())
            },
        )
        .await?;
        Ok(())
    }

    async fn work(
        &self,
        queue: Queue,
        at_once: u16,
        handler: Arc<dyn Handler>,
        drain: Duration,
        stop: &CancellationToken,
    ) -> Result<(), Closed> {
        let consumer = self.broker.consume(queue, at_once).await?;
        let worker = Worker {
            concurrency: usize::from(at_once),
            drain,
        };
        worker.run(consumer, handler, stop.clone()).await;
        Ok(())
    }
}
