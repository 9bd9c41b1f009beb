//! The consumer.

use std::sync::mpsc;

use async_trait::async_trait;
use tokio::sync::mpsc as queue;
use tokio_util::sync::CancellationToken;

use super::command::{Command, Item, Subscription};
use crate::{Closed, Consumer, Delivery, Queue};

pub(super) struct Receiver {
    items: queue::Receiver<Item>,
    queue: Queue,
    id: u64,
    commands: mpsc::Sender<Command>,
    closed: CancellationToken,
}

impl Receiver {
    pub(super) fn subscribe(
        queue: Queue,
        id: u64,
        window: usize,
        commands: mpsc::Sender<Command>,
        closed: CancellationToken,
    ) -> Result<Self, Closed> {
        // The writer never leases more than the window, so this channel is never full.
        let (sender, items) = queue::channel(window);
        let subscription = Subscription {
            queue,
            consumer: id,
            window,
            items: sender,
            commands: commands.clone(),
        };
        if closed.is_cancelled() {
            return Err(Closed);
        }
        commands
            .send(Command::Subscribe(subscription))
            .map_err(|_| Closed)?;
        Ok(Self {
            items,
            queue,
            id,
            commands,
            closed,
        })
    }
}

#[async_trait]
impl Consumer for Receiver {
    async fn next(&mut self) -> Option<Delivery> {
        let item = tokio::select! {
            biased;
            () = self.closed.cancelled() => None,
            item = self.items.recv() => item,
        };
        item.map(Item::into_delivery)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Before the items drop: each returns its row, which would otherwise be leased to this
        // consumer again.
        let _ = self.commands.send(Command::Unsubscribe {
            queue: self.queue,
            consumer: self.id,
        });
    }
}
