//! What the writer knows of one queue, in memory: how far it has read, what came back, who
//! receives.
//!
//! Invariant: every row up to `cursor` is leased, or in `returned`, or gone. `unread` counts the
//! ready rows after it. No subscriber has more than its window out.

use std::{collections::VecDeque, sync::mpsc};

use tokio::sync::mpsc as queue;

use super::{
    consumer::{Item, Leased},
    table::{Held, Key, Table},
    writer::Command,
};
use crate::{Parcel, Queue};

/// The most rows that one read takes into memory.
const READ_AT_ONCE: usize = 256;

/// One consumer, as the writer sees it.
pub(super) struct Subscriber {
    id: u64,
    window: usize,
    out: usize,
    items: queue::Sender<Item>,
    commands: mpsc::Sender<Command>,
}

impl Subscriber {
    pub(super) fn new(
        id: u64,
        window: usize,
        items: queue::Sender<Item>,
        commands: mpsc::Sender<Command>,
    ) -> Self {
        Self {
            id,
            window,
            out: 0,
            items,
            commands,
        }
    }

    fn room(&self) -> usize {
        self.window - self.out
    }
}

pub(super) struct QueueState {
    queue: Queue,
    cursor: Key,
    /// The time up to which rows that came due were counted.
    mark: i64,
    /// No row comes due between `mark` and this.
    next_due: Option<i64>,
    unread: u64,
    /// Sequence numbers of what was leased and given back; they are read anew.
    returned: VecDeque<i64>,
    /// All rows: ready, delayed and leased.
    total: u64,
    subscribers: Vec<Subscriber>,
}

impl QueueState {
    pub(super) fn new(queue: Queue, held: &Held, now: i64) -> Self {
        Self {
            queue,
            cursor: Key::FIRST,
            mark: now,
            next_due: held.next_due,
            unread: held.ready,
            returned: VecDeque::new(),
            total: held.total,
            subscribers: Vec::new(),
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn ready(&self) -> u64 {
        self.unread + self.returned.len() as u64
    }

    /// When the next delayed row comes due, where somebody waits for it.
    pub(super) fn wake_at(&self) -> Option<i64> {
        self.next_due.filter(|_| self.room() > 0)
    }

    /// Counts what has come due.
    pub(super) fn advance(&mut self, now: i64, table: &Table) -> rusqlite::Result<()> {
        if self.next_due.is_some_and(|due| due <= now) {
            let came_due = table.count(self.queue, self.mark, now)?;
            self.next_due = table.next_due(self.queue, now)?;
            self.unread += came_due;
        }
        self.mark = now;
        Ok(())
    }

    pub(super) fn subscribe(&mut self, subscriber: Subscriber) {
        self.subscribers.push(subscriber);
    }

    pub(super) fn unsubscribe(&mut self, consumer: u64) {
        self.subscribers
            .retain(|subscriber| subscriber.id != consumer);
    }

    /// A leased row is ready again.
    pub(super) fn give_back(&mut self, leased: Leased) {
        self.returned.push_back(leased.seq);
        self.make_room(leased.consumer);
    }

    /// A leased row has left the queue.
    pub(super) fn forget(&mut self, leased: Leased) {
        self.total = self.total.saturating_sub(1);
        self.make_room(leased.consumer);
    }

    /// A leased row is delayed.
    pub(super) fn defer(&mut self, leased: Leased, due: i64) {
        self.expect_at(due);
        self.make_room(leased.consumer);
    }

    /// A row came from another queue, and comes due at `due`.
    pub(super) fn receive(&mut self, due: i64) {
        self.total += 1;
        self.expect_at(due);
    }

    /// A new row was committed. It goes straight to a consumer where nothing waits before it.
    pub(super) fn publish(&mut self, key: Key, parcel: Parcel) {
        self.total += 1;
        if self.ready() == 0 && self.room() > 0 {
            self.cursor = key;
            self.lease(key.seq, parcel);
        } else {
            self.unread += 1;
        }
    }

    /// Hands out what is ready to those that have room.
    pub(super) fn hand_out(&mut self, table: &Table) -> rusqlite::Result<()> {
        while self.room() > 0 {
            if let Some(seq) = self.returned.front().copied() {
                let row = table.read_one(seq)?;
                self.returned.pop_front();
                if let Some((_, parcel)) = row {
                    self.lease(seq, parcel);
                }
            } else if self.unread > 0 {
                self.read(table)?;
            } else {
                break;
            }
        }
        Ok(())
    }

    fn read(&mut self, table: &Table) -> rusqlite::Result<()> {
        let limit = self.room().min(READ_AT_ONCE);
        let rows = table.read(self.queue, self.cursor, self.mark, limit)?;
        self.unread = match rows.len() {
            full if full == limit => self.unread.saturating_sub(limit as u64),
            _ => 0,
        };
        for (key, parcel) in rows {
            self.cursor = key;
            self.lease(key.seq, parcel);
        }
        Ok(())
    }

    fn room(&self) -> usize {
        self.subscribers.iter().map(Subscriber::room).sum()
    }

    /// Gives a row to the subscriber that has the fewest. There must be room.
    fn lease(&mut self, seq: i64, parcel: Parcel) {
        let with_room = self
            .subscribers
            .iter_mut()
            .filter(|subscriber| subscriber.room() > 0);
        let Some(subscriber) = with_room.min_by_key(|subscriber| subscriber.out) else {
            self.returned.push_back(seq);
            return;
        };
        subscriber.out += 1;
        let leased = Leased {
            queue: self.queue,
            seq,
            consumer: subscriber.id,
        };
        let item = Item::new(parcel, leased, subscriber.commands.clone());
        // A consumer that was dropped this moment: the item drops too, and so gives itself back.
        let _ = subscriber.items.try_send(item);
    }

    fn make_room(&mut self, consumer: u64) {
        if let Some(subscriber) = self.subscribers.iter_mut().find(|s| s.id == consumer) {
            subscriber.out = subscriber.out.saturating_sub(1);
        }
    }

    fn expect_at(&mut self, due: i64) {
        self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
    }
}
