//! The contents of a stopped gateway's queues and store.

use std::collections::BTreeSet;

use anyhow::Context;
use bytes::Bytes;
use roundtrip_broker::{Delivery, Message, Queue, Route};
use roundtrip_model::{Clock, SystemClock};
use roundtrip_store::{DeadFilter, DeadQueue, Detail};
use rusqlite::Connection;
use tokio::time::timeout;

use super::TestGateway;
use crate::{stack::Engines, wait};

/// How many dead letters are read at most from a queue, and on one page from the store.
const DEAD_WINDOW: u16 = 1000;

impl TestGateway {
    /// Stops the processes and reads the dead letters that were not replayed, from the dead queue
    /// and from the store.
    pub async fn dead_letters(&mut self, queue: Queue) -> anyhow::Result<Vec<Message>> {
        let mut messages = self.in_dead_queue(queue).await?;
        let store = self.stack.open_store().await?;
        let filter = DeadFilter {
            queue: Some(match queue {
                Queue::CallbacksDead => DeadQueue::Callbacks,
                Queue::NoticesDead => DeadQueue::Notices,
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
                    (&known.id, known.replay_count) == (&letter.webhook_id, letter.replay_count)
                }) {
                    messages.push(Message {
                        id: letter.webhook_id,
                        attempts: letter.attempts,
                        replay_count: letter.replay_count,
                        accepted_at: letter.accepted_at,
                        dead: Some(letter.reason),
                        waiting: None,
                        body: letter.body,
                    });
                }
            }
        }
    }

    /// The ids of the messages that are dead letters.
    pub(super) async fn all_dead_letters(&mut self) -> anyhow::Result<BTreeSet<String>> {
        let dead = self.dead_letters(Queue::OutboundDead).await?;
        Ok(dead.into_iter().map(|message| message.id).collect())
    }

    async fn in_dead_queue(&mut self, queue: Queue) -> anyhow::Result<Vec<Message>> {
        self.stack.stop_all().await?;
        let broker = self.stack.open_broker().await?;
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
    pub async fn slip_in(
        &mut self,
        route: Route<'_>,
        id: &str,
        body: &'static [u8],
    ) -> anyhow::Result<()> {
        self.stack.stop_all().await?;
        let broker = self.stack.open_broker().await?;
        let message = Message {
            id: id.to_owned(),
            attempts: 0,
            replay_count: 0,
            accepted_at: SystemClock.now(),
            dead: None,
            waiting: None,
            body: Bytes::from_static(body),
        };
        broker.publish(route, message).await?;
        broker.close().await;
        self.start_all().await
    }

    /// Stops the processes and counts the messages and answers in all queues together, and on the
    /// embedded engines those that wait in the store. They run every role, so messages move there.
    pub async fn enqueued(&mut self) -> anyhow::Result<u64> {
        self.stack.stop_all().await?;
        if self.stack.plan().engines == Engines::Embedded {
            let file = Connection::open(self.folder.path().join("broker.db"))?;
            // Includes messages that wait for their next attempt.
            let count = "SELECT count(*) FROM parcel WHERE id LIKE 'msg_%' OR id LIKE 'cb_%'";
            let enqueued: i64 = file.query_row(count, [], |row| row.get(0))?;
            let file = Connection::open(self.folder.path().join("store.db"))?;
            let count = "SELECT count(*) FROM waiting";
            let waiting: i64 = file.query_row(count, [], |row| row.get(0))?;
            return Ok((enqueued + waiting).unsigned_abs());
        }
        let broker = self.stack.open_broker().await?;
        let mut enqueued = 0;
        for queue in Queue::ALL {
            if ![Queue::Journal, Queue::JournalDead].contains(&queue) {
                enqueued += broker.ready(queue).await?;
            }
        }
        broker.close().await;
        Ok(enqueued)
    }
}
