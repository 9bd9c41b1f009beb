//! The contents of a stopped gateway's queues and store.

use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use roundtrip_broker::{Delivery, Message, Queue, Route, SharedBroker, Status};
use roundtrip_model::{Clock, SystemClock};
use roundtrip_store::{DeadFilter, DeadQueue, Detail, SharedStore};
use rusqlite::Connection;
use tokio::time::timeout;

use super::{Setup, TestGateway};
use crate::wait;

/// How many dead letters are read at most from a queue, and on one page from the store.
const DEAD_WINDOW: u16 = 1000;

impl TestGateway {
    /// Stops the processes and reads the dead letters that were not replayed, from the dead queue
    /// and from the store.
    ///
    /// # Errors
    /// If a process does not end well, or the queue or the store cannot be read.
    pub async fn dead_letters(&mut self, queue: Queue) -> anyhow::Result<Vec<Message>> {
        let mut messages = self.in_dead_queue(queue).await?;
        let store = self.store().await?;
        let filter = DeadFilter {
            queue: Some(match queue {
                Queue::CallbacksDead => DeadQueue::Callbacks,
                _ => DeadQueue::Outbound,
            }),
            ..DeadFilter::default()
        };
        let mut after: Option<String> = None;
        loop {
            let page = store
                .dead_letters(&filter, after.as_deref(), DEAD_WINDOW, Detail::Whole)
                .await?;
            let Some(last) = page.last() else {
                return Ok(messages);
            };
            after = Some(last.dead_id.clone());
            for letter in page {
                // A recorder that was stopped between write and ack leaves a letter in both.
                if !messages.iter().any(|known| {
                    (&known.id, known.replay_count) == (&letter.parcel_id, letter.replay_count)
                }) {
                    messages.push(Message {
                        id: letter.parcel_id,
                        attempts: letter.attempts,
                        replay_count: letter.replay_count,
                        accepted_at: letter.accepted_at,
                        dead: Some(letter.reason),
                        body: letter.body,
                    });
                }
            }
        }
    }

    /// The store, for this process, past any proxy.
    async fn store(&self) -> anyhow::Result<SharedStore> {
        let mut config = roundtrip_store::Config {
            url: self.plan.store_url(self.folder.path()),
            ..roundtrip_store::Config::default()
        };
        if let Some(test_namespace) = &self.plan.test_namespace {
            config.database.clone_from(&test_namespace.name);
        }
        Ok(roundtrip_store::open(&config).await?)
    }

    async fn in_dead_queue(&mut self, queue: Queue) -> anyhow::Result<Vec<Message>> {
        let broker = self.broker().await?;
        let waiting = broker.ready(queue).await?.min(u64::from(DEAD_WINDOW));
        let mut consumer = broker.consume(queue, DEAD_WINDOW).await?;
        let mut messages = Vec::new();
        let mut deliveries = Vec::new();
        while u64::try_from(deliveries.len())? < waiting {
            let next = timeout(wait::WAIT_LIMIT, consumer.next()).await?;
            let delivery = next.context("the consumer ended")?;
            messages.push(delivery.message().clone());
            deliveries.push(delivery);
        }
        deliveries.into_iter().for_each(Delivery::release);
        drop(consumer);
        broker.close().await;
        Ok(messages)
    }

    /// Stops the processes, publishes a message with this id and body to the route, as a broken
    /// process or another version might, and restarts everything.
    ///
    /// # Errors
    /// If a process does not end well or start again, or the message is not taken.
    pub async fn slip_in(
        &mut self,
        route: Route<'_>,
        id: &str,
        body: &'static [u8],
    ) -> anyhow::Result<()> {
        let broker = self.broker().await?;
        let message = Message {
            id: id.to_owned(),
            attempts: 0,
            replay_count: 0,
            accepted_at: SystemClock.now(),
            dead: None,
            body: Bytes::from_static(body),
        };
        broker.publish(route, message).await?;
        broker.close().await;
        for name in self.names() {
            self.process(&name)?.restart().await?;
        }
        Ok(())
    }

    /// Stops the processes and counts the messages and answers in all queues together.
    ///
    /// # Errors
    /// If a process does not end well, or a queue cannot be asked.
    pub async fn enqueued(&mut self) -> anyhow::Result<u64> {
        if self.plan.setup == Setup::Embedded {
            self.stop_all().await?;
            let file = Connection::open(self.folder.path().join("broker.db"))?;
            // Includes messages that wait for their next attempt.
            let count = "SELECT count(*) FROM parcel WHERE id LIKE 'msg_%' OR id LIKE 'cb_%'";
            let enqueued: i64 = file.query_row(count, [], |row| row.get(0))?;
            return Ok(enqueued.unsigned_abs());
        }
        let broker = self.broker().await?;
        let mut enqueued = 0;
        let journal = [Queue::Journal, Queue::JournalDead];
        for queue in Queue::ALL {
            if journal.contains(&queue) {
                continue;
            }
            enqueued += broker.ready(queue).await?;
        }
        broker.close().await;
        Ok(enqueued)
    }

    /// Stops the processes and opens the broker in this one: the embedded broker's file belongs to
    /// one process at a time.
    async fn broker(&mut self) -> anyhow::Result<SharedBroker> {
        self.stop_all().await?;
        let mut config = roundtrip_broker::Config {
            url: self.plan.broker_url(self.folder.path()),
            ..roundtrip_broker::Config::default()
        };
        if let Some(test_namespace) = &self.plan.test_namespace {
            config.namespace.clone_from(&test_namespace.name);
        }
        let broker = roundtrip_broker::open(&config, Arc::new(SystemClock)).await?;
        wait::until("the broker", async || {
            (broker.status() == Status::Ready).then_some(())
        })
        .await?;
        Ok(broker)
    }
}
