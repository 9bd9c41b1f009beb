//! The writer's state of one queue in memory: how far it has read, what was returned, who consumes.
//!
//! Invariant: every row of a sub-queue up to its `cursor` is leased, in `returned`, or gone.
//! `unread` counts the ready rows after it. A subscriber holds at most its window, and at most
//! [`MAX_WINDOW_BYTES`] plus one body.

use std::collections::VecDeque;

use super::{
    command::{Item, Leased, Subscription},
    table::{Key, ReadBudget, RowPage, SubQueueCounts, Table},
};
use crate::{Message, Queue};

/// Maximum number of rows that one read loads.
const READ_AT_ONCE: usize = 256;

/// A read of one row.
const ONE: ReadBudget = ReadBudget { rows: 1, bytes: 1 };

/// A consumer receives nothing more while the bodies it holds reach this size. The window counts
/// messages, so a backlog of long ones would use far more memory than intended.
pub(super) const MAX_WINDOW_BYTES: usize = 64 * 1024 * 1024;

struct Subscriber {
    subscription: Subscription,
    out: usize,
    bytes_out: usize,
}

impl Subscriber {
    fn room(&self) -> usize {
        if self.bytes_room() == 0 {
            return 0;
        }
        self.subscription.window - self.out
    }

    fn bytes_room(&self) -> usize {
        MAX_WINDOW_BYTES.saturating_sub(self.bytes_out)
    }
}

/// Rows that are delivered in order. A queue has one sub-queue, or two: the second holds retries
/// and snoozes.
struct SubQueue {
    /// The sub-queue's number in the file.
    code: i64,
    cursor: Key,
    /// Rows due by this time are counted.
    mark: i64,
    /// No row becomes due between `mark` and this time.
    next_due: Option<i64>,
    unread: u64,
}

impl SubQueue {
    fn advance(&mut self, now: i64, table: &Table) -> rusqlite::Result<()> {
        if self.next_due.is_some_and(|due| due <= now) {
            let came_due = table.count(self.code, self.mark, now)?;
            self.next_due = table.next_due(self.code, now)?;
            self.unread += came_due;
        }
        self.mark = now;
        Ok(())
    }

    fn read(&mut self, budget: ReadBudget, table: &Table) -> rusqlite::Result<Vec<(Key, Message)>> {
        let RowPage { rows, is_full, .. } =
            table.read(self.code, self.cursor, self.mark, budget)?;
        self.unread = if is_full {
            self.unread.saturating_sub(rows.len() as u64)
        } else {
            0
        };
        if let Some((key, _)) = rows.last() {
            self.cursor = *key;
        }
        Ok(rows)
    }

    fn expect_at(&mut self, due: i64) {
        self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
    }
}

pub(super) struct QueueState {
    queue: Queue,
    fresh: SubQueue,
    retries: Option<SubQueue>,
    /// Whether the next read is from `retries`, if both sub-queues have ready rows.
    retries_first: bool,
    /// Sequence numbers of leased rows that were given back; they are read again.
    returned: VecDeque<i64>,
    total: u64,
    bytes: u64,
    subscribers: Vec<Subscriber>,
}

impl QueueState {
    /// A queue with one sub-queue, or with a second one for retries and snoozes.
    pub(super) fn new(
        queue: Queue,
        first: (i64, SubQueueCounts),
        other: Option<(i64, SubQueueCounts)>,
        bytes: u64,
        now: i64,
    ) -> Self {
        let total = first.1.total + other.as_ref().map_or(0, |(_, counts)| counts.total);
        let sub_queue = |(code, counts): (i64, SubQueueCounts)| SubQueue {
            code,
            cursor: Key::FIRST,
            mark: now,
            next_due: counts.next_due,
            unread: counts.ready,
        };
        Self {
            queue,
            fresh: sub_queue(first),
            retries: other.map(sub_queue),
            retries_first: false,
            returned: VecDeque::new(),
            total,
            bytes,
            subscribers: Vec::new(),
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn ready(&self) -> u64 {
        let unread: u64 = self.sub_queues().map(|sub_queue| sub_queue.unread).sum();
        unread + self.returned.len() as u64
    }

    /// Since when the row that is next is ready. With two sub-queues, or returned rows, it is the
    /// one that became ready first.
    pub(super) fn head_due(&self, table: &Table) -> rusqlite::Result<Option<i64>> {
        let mut first = match self.returned.front() {
            Some(seq) => table.read_one(*seq)?.map(|(key, _)| key.due),
            None => None,
        };
        for sub_queue in self.sub_queues().filter(|sub_queue| sub_queue.unread > 0) {
            let head = table.read(sub_queue.code, sub_queue.cursor, sub_queue.mark, ONE)?;
            let due = head.rows.first().map(|(key, _)| key.due);
            first = first.into_iter().chain(due).min();
        }
        Ok(first)
    }

    /// When the next delayed row becomes due, if a consumer waits for it.
    pub(super) fn wake_at(&self) -> Option<i64> {
        let next = self
            .sub_queues()
            .filter_map(|sub_queue| sub_queue.next_due)
            .min();
        next.filter(|_| self.room() > 0)
    }

    pub(super) fn advance(&mut self, now: i64, table: &Table) -> rusqlite::Result<()> {
        self.fresh.advance(now, table)?;
        self.retries
            .as_mut()
            .map_or(Ok(()), |sub_queue| sub_queue.advance(now, table))
    }

    fn sub_queues(&self) -> impl Iterator<Item = &SubQueue> {
        std::iter::once(&self.fresh).chain(&self.retries)
    }

    pub(super) fn subscribe(&mut self, subscription: Subscription) {
        self.subscribers.push(Subscriber {
            subscription,
            out: 0,
            bytes_out: 0,
        });
    }

    pub(super) fn unsubscribe(&mut self, consumer: u64) {
        self.subscribers
            .retain(|subscriber| subscriber.subscription.consumer != consumer);
    }

    pub(super) fn give_back(&mut self, leased: Leased) {
        self.returned.push_back(leased.seq);
        self.make_room(leased);
    }

    pub(super) fn forget(&mut self, leased: Leased) {
        self.total = self.total.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(leased.bytes as u64);
        self.make_room(leased);
    }

    pub(super) fn defer(&mut self, leased: Leased, due: i64) {
        let sub_queue = self.retries.as_mut().unwrap_or(&mut self.fresh);
        sub_queue.expect_at(due);
        self.make_room(leased);
    }

    pub(super) fn receive(&mut self, due: i64, bytes: usize) {
        self.total += 1;
        self.bytes += bytes as u64;
        self.fresh.expect_at(due);
    }

    /// A new row was committed. It goes straight to a consumer if no row waits before it.
    pub(super) fn publish(&mut self, key: Key, message: Message) {
        self.total += 1;
        self.bytes += message.body.len() as u64;
        if self.ready() == 0 && self.room() > 0 {
            self.fresh.cursor = key;
            self.lease(key.seq, message);
        } else {
            self.fresh.unread += 1;
        }
    }

    pub(super) fn hand_out(&mut self, table: &Table) -> rusqlite::Result<()> {
        while self.room() > 0 {
            if let Some(seq) = self.returned.front().copied() {
                let row = table.read_one(seq)?;
                self.returned.pop_front();
                if let Some((_, message)) = row {
                    self.lease(seq, message);
                }
            } else if self.sub_queues().any(|sub_queue| sub_queue.unread > 0) {
                self.read(table)?;
            } else {
                break;
            }
        }
        Ok(())
    }

    /// Reads the sub-queue whose turn it is. If both sub-queues have ready rows they share the
    /// capacity, so that neither waits behind the other.
    fn read(&mut self, table: &Table) -> rusqlite::Result<()> {
        let room = self.room();
        let bytes: usize = self.subscribers.iter().map(Subscriber::bytes_room).sum();
        let retries = self
            .retries
            .as_mut()
            .filter(|sub_queue| sub_queue.unread > 0);
        let (sub_queue, limit) = match retries {
            Some(retries) if self.fresh.unread == 0 => (retries, room),
            Some(retries) if self.retries_first => (retries, room.div_ceil(2)),
            Some(_) => (&mut self.fresh, room.div_ceil(2)),
            None => (&mut self.fresh, room),
        };
        let budget = ReadBudget {
            rows: limit.min(READ_AT_ONCE),
            bytes: bytes.div_ceil(if limit < room { 2 } else { 1 }),
        };
        let rows = sub_queue.read(budget, table)?;
        self.retries_first = !self.retries_first;
        for (key, message) in rows {
            self.lease(key.seq, message);
        }
        Ok(())
    }

    fn room(&self) -> usize {
        self.subscribers.iter().map(Subscriber::room).sum()
    }

    /// Leases a row to the subscriber with the fewest rows. One must have capacity.
    fn lease(&mut self, seq: i64, message: Message) {
        let with_room = self
            .subscribers
            .iter_mut()
            .filter(|subscriber| subscriber.room() > 0);
        let Some(subscriber) = with_room.min_by_key(|subscriber| subscriber.out) else {
            self.returned.push_back(seq);
            return;
        };
        let bytes = message.body.len();
        subscriber.out += 1;
        subscriber.bytes_out += bytes;
        let leased = Leased {
            queue: self.queue,
            seq,
            bytes,
            consumer: subscriber.subscription.consumer,
        };
        let Subscription {
            items, commands, ..
        } = &subscriber.subscription;
        let item = Item::new(message, leased, commands.clone());
        // The consumer may have just been dropped: then the item drops too and returns its row.
        let _ = items.try_send(item);
    }

    fn make_room(&mut self, leased: Leased) {
        let mut subscribers = self.subscribers.iter_mut();
        if let Some(subscriber) =
            subscribers.find(|other| other.subscription.consumer == leased.consumer)
        {
            subscriber.out = subscriber.out.saturating_sub(1);
            subscriber.bytes_out = subscriber.bytes_out.saturating_sub(leased.bytes);
        }
    }
}
