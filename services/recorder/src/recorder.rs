//! The role: works the journal, the dead queues and the waiting queue, runs replays, finds overdue
//! messages, erases contents, and watches the length of the queues.

use std::{sync::Arc, time::Duration};

use futures::{join, try_join};
use roundtrip_broker::{Closed, Handler, Queue, SharedBroker, Worker};
use roundtrip_journal::Journal;
use roundtrip_model::Clock;
use roundtrip_notices::Notices;
use roundtrip_store::{DeadQueue, SharedStore};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config, dead::DeadLetterWriter, entries::JournalWriter, erasures::Eraser, notices,
    overdue::OverdueFinder, poison, replay::Replayer, waiting::WaitingWriter,
};

pub struct Recorder {
    config: Config,
    broker: SharedBroker,
    store: SharedStore,
    journal: Journal,
    clock: Arc<dyn Clock>,
    notices: Notices,
    content_retention: Option<Duration>,
}

impl Recorder {
    /// Contents are kept for `content_retention`, or as long as the rest.
    pub fn new(
        config: &Config,
        broker: SharedBroker,
        store: SharedStore,
        journal: Journal,
        clock: Arc<dyn Clock>,
        notices: Notices,
        content_retention: Option<Duration>,
    ) -> Self {
        Self {
            config: config.clone(),
            broker,
            store,
            journal,
            clock,
            notices,
            content_retention,
        }
    }

    /// Works its queues, runs replays, finds overdue messages and erases contents, until `stop`.
    /// Work in progress then gets up to `drain` to end.
    pub async fn run(self, drain: Duration, stop: CancellationToken) -> Result<(), Closed> {
        let letters = self.config.dead_letters_at_once;
        let dead_letter_writer = |queue| {
            let store = Arc::clone(&self.store);
            let (journal, clock) = (self.journal.clone(), Arc::clone(&self.clock));
            let writer = DeadLetterWriter::start(queue, store, letters, journal, clock);
            Arc::new(writer)
        };
        let outbound = dead_letter_writer(DeadQueue::Outbound);
        let callbacks = dead_letter_writer(DeadQueue::Callbacks);
        let dead_notices = dead_letter_writer(DeadQueue::Notices);
        let replayer = Replayer::new(
            Arc::clone(&self.broker),
            Arc::clone(&self.store),
            self.journal.clone(),
            Arc::clone(&self.clock),
        );
        let overdue = OverdueFinder::new(
            Arc::clone(&self.broker),
            Arc::clone(&self.store),
            self.journal.clone(),
            Arc::clone(&self.clock),
        );
        let eraser = Eraser::new(
            Arc::clone(&self.store),
            Arc::clone(&self.clock),
            self.content_retention,
        );
        let batches = self.config.batches_at_once;
        let journal_writer = JournalWriter::start(
            Arc::clone(&self.store),
            batches,
            self.notices.clone(),
            Arc::clone(&self.clock),
        );
        let messages = self.config.waiting_messages_at_once;
        let waiting_writer = Arc::new(WaitingWriter::start(Arc::clone(&self.store), messages));
        let queues = async {
            try_join!(
                self.work(
                    Queue::Journal,
                    batches,
                    Arc::new(journal_writer),
                    drain,
                    &stop
                ),
                self.work(Queue::OutboundDead, letters, outbound, drain, &stop),
                self.work(Queue::CallbacksDead, letters, callbacks, drain, &stop),
                self.work(Queue::NoticesDead, letters, dead_notices, drain, &stop),
                self.work(Queue::Waiting, messages, waiting_writer, drain, &stop),
            )
        };
        let look = || self.broker.ready(Queue::JournalDead);
        let unreadable = poison::watch(look, &stop, poison::log);
        let high = self.config.high_backlog;
        let backlog = notices::watch_backlog(&self.broker, high, &self.notices, &stop);
        let (queues, (), (), (), (), ()) = join!(
            queues,
            replayer.run(&stop),
            overdue.run(&stop),
            eraser.run(&stop),
            unreadable,
            backlog
        );
        queues.map(drop)
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
            queue,
            concurrency: usize::from(at_once),
            drain,
        };
        worker.run(consumer, handler, stop.clone()).await;
        Ok(())
    }
}
