//! The thread that owns the file: receives commands, commits them in groups, delivers.
//!
//! Invariant: state in memory changes only after the commit; a failed commit changes nothing. While
//! the disk rejects writes, publishes are refused and settlements wait. Returning their messages
//! instead would deliver each of them again and again.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use roundtrip_files::sqlite;
use roundtrip_model::Clock;
use tokio::sync::oneshot;

use super::{
    command::{Command, Depth, Leased, Publish, Settling, Transaction},
    queue::QueueState,
    schema,
    table::{Change, Key, Table, code, retry_sub_queue},
    timeline::{self, Timeline},
};
use crate::{Config, OpenError, PublishError, Queue, Settlement, Status};

/// How often a disk that rejects writes is tried again.
const PROBE_EVERY: Duration = Duration::from_millis(250);

struct Placed {
    publish: Publish,
    key: Key,
}

struct Blocked {
    why: String,
    probe_at: Instant,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    messages: u64,
    bytes: u64,
}

impl Bounds {
    pub(super) const fn of(config: &Config) -> Self {
        Self {
            messages: config.max_backlog,
            bytes: config.max_backlog_bytes,
        }
    }
}

pub(super) struct Writer {
    table: Table,
    timeline: Timeline,
    /// Indexed as [`Queue::ALL`].
    queues: Vec<QueueState>,
    last_seq: i64,
    bounds: Bounds,
    /// Settlements that wait for the disk; the windows bound them.
    waiting: Vec<Settling>,
    blocked: Option<Blocked>,
    status: Arc<ArcSwap<Status>>,
}

impl Writer {
    pub(super) fn open(
        path: PathBuf,
        clock: &dyn Clock,
        bounds: Bounds,
        status: Arc<ArcSwap<Status>>,
    ) -> Result<Self, OpenError> {
        let timeline = Timeline::start(clock);
        let now = timeline.now();
        let table = Table::new(schema::open(&path, now)?);
        let queue = |queue| -> rusqlite::Result<QueueState> {
            let counts = |sub_queue| {
                table
                    .sub_queue_counts(sub_queue, now)
                    .map(|counts| (sub_queue, counts))
            };
            let other = Some(retry_sub_queue(queue)).filter(|sub_queue| *sub_queue != code(queue));
            let other = other.map(counts).transpose()?;
            let bytes = table.bytes(queue)?;
            Ok(QueueState::new(
                queue,
                counts(code(queue))?,
                other,
                bytes,
                now,
            ))
        };
        let load = || {
            let queues: rusqlite::Result<Vec<QueueState>> =
                Queue::ALL.into_iter().map(queue).collect();
            Ok((queues?, table.last_seq()?))
        };
        let (queues, last_seq) =
            load().map_err(|source: rusqlite::Error| sqlite::OpenError::File {
                path,
                source: source.into(),
            })?;
        Ok(Self {
            table,
            timeline,
            queues,
            last_seq,
            bounds,
            waiting: Vec::new(),
            blocked: None,
            status,
        })
    }

    /// Runs until a close command, and closes the file. Returns the sender to answer the close
    /// with, or `None` if every command sender was dropped.
    pub(super) fn run(mut self, commands: &Receiver<Command>) -> Option<oneshot::Sender<()>> {
        loop {
            let batch = self.collect(commands)?;
            let now = self.timeline.now();
            for queue in &mut self.queues {
                if let Err(error) = queue.advance(now, &self.table) {
                    self.blocked
                        .get_or_insert_with(|| block(&self.status, &error));
                }
            }
            self.write(batch.publishes, batch.settlings, now);
            if batch.close.is_some() {
                return batch.close;
            }
            for queue in &mut self.queues {
                if let Err(error) = queue.hand_out(&self.table) {
                    self.blocked
                        .get_or_insert_with(|| block(&self.status, &error));
                }
            }
            for (queue, reply) in batch.questions {
                let depth = self.depth(queue);
                let _ = reply.send(depth);
            }
        }
    }

    /// Waits for a command or the next timer, then takes all waiting commands.
    fn collect(&mut self, commands: &Receiver<Command>) -> Option<Transaction> {
        let mut batch = Transaction::default();
        let first = match self.patience() {
            None => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(patience) => commands.recv_timeout(patience),
        };
        match first {
            Ok(command) => self.take(command, &mut batch),
            Err(RecvTimeoutError::Timeout) => return Some(batch),
            Err(RecvTimeoutError::Disconnected) => return None,
        }
        while !batch.is_full() {
            let Ok(command) = commands.try_recv() else {
                break;
            };
            self.take(command, &mut batch);
        }
        Some(batch)
    }

    fn patience(&self) -> Option<Duration> {
        if let Some(blocked) = &self.blocked {
            return Some(blocked.probe_at.saturating_duration_since(Instant::now()));
        }
        let next = self.queues.iter().filter_map(QueueState::wake_at).min()?;
        let millis = next.saturating_sub(self.timeline.now());
        Some(Duration::from_millis(u64::try_from(millis).unwrap_or(0)))
    }

    fn take(&mut self, command: Command, batch: &mut Transaction) {
        match command {
            Command::Publish(publish) => {
                batch.bytes += publish.message.body.len();
                batch.publishes.push(publish);
            }
            Command::Settle(settling) => batch.settlings.push(settling),
            Command::Release(leased) => self.queue(leased.queue).give_back(leased),
            Command::Subscribe(subscription) => {
                self.queue(subscription.queue).subscribe(subscription);
            }
            Command::Unsubscribe { queue, consumer } => self.queue(queue).unsubscribe(consumer),
            Command::Look { queue, reply } => batch.questions.push((queue, reply)),
            Command::Close(reply) => batch.close = Some(reply),
            #[cfg(test)]
            Command::Run(run) => run(self.table.connection()),
        }
    }

    fn write(&mut self, publishes: Vec<Publish>, settlings: Vec<Settling>, now: i64) {
        if self.blocked.is_some() {
            self.waiting.extend(settlings);
            self.refuse(publishes);
            self.probe(now);
            return;
        }
        let placed = self.place(publishes, now);
        if placed.is_empty() && settlings.is_empty() {
            return;
        }
        match self.commit(&placed, &settlings, now) {
            Ok(()) => {
                self.settled(settlings, now);
                self.published(placed);
            }
            Err(error) => {
                self.blocked = Some(block(&self.status, &error));
                self.waiting.extend(settlings);
                self.refuse(placed.into_iter().map(|placed| placed.publish));
            }
        }
    }

    /// Gives each publish its position. Refuses a publish to a full queue, and drops one whose
    /// caller has given up.
    fn place(&mut self, publishes: Vec<Publish>, now: i64) -> Vec<Placed> {
        let totals = self
            .queues
            .iter()
            .map(|queue| (queue.total(), queue.bytes()));
        let mut totals: Vec<(u64, u64)> = totals.collect();
        let mut placed = Vec::with_capacity(publishes.len());
        for publish in publishes {
            let (messages, bytes) = &mut totals[publish.queue as usize];
            if *messages >= self.bounds.messages || *bytes >= self.bounds.bytes {
                let full = format!(
                    "the queue {} is full: {messages} messages, {bytes} bytes",
                    publish.queue.name()
                );
                let _ = publish.reply.send(Err(PublishError::Refused(full)));
            } else if !publish.reply.is_closed() {
                *messages += 1;
                *bytes += publish.message.body.len() as u64;
                self.last_seq += 1;
                placed.push(Placed {
                    publish,
                    key: Key {
                        due: now,
                        seq: self.last_seq,
                    },
                });
            }
        }
        placed
    }

    fn commit(
        &mut self,
        placed: &[Placed],
        settlings: &[Settling],
        now: i64,
    ) -> rusqlite::Result<()> {
        let inserts = placed.iter().map(|Placed { publish, key }| Change::Insert {
            queue: publish.queue,
            key: *key,
            message: &publish.message,
        });
        let changes = settlings.iter().map(|settling| change(settling, now));
        self.table.commit(changes.chain(inserts))
    }

    fn published(&mut self, placed: Vec<Placed>) {
        for Placed { publish, key } in placed {
            let Publish {
                queue,
                message,
                reply,
                room,
            } = publish;
            let _ = reply.send(Ok(()));
            drop(room);
            self.queue(queue).publish(key, message);
        }
    }

    fn settled(&mut self, settlings: Vec<Settling>, now: i64) {
        for Settling {
            leased,
            settlement,
            reply,
        } in settlings
        {
            match settlement {
                Settlement::Ack => self.queue(leased.queue).forget(leased),
                Settlement::Defer { delay, .. } => {
                    let due = now + timeline::delay_millis(delay);
                    self.queue(leased.queue).defer(leased, due);
                }
                Settlement::Wait { .. } => self.moved(leased, Queue::Waiting, now),
                Settlement::Dead { .. } => self.moved(leased, leased.queue.dead(), now),
            }
            // The receiver may have been dropped; that is fine.
            let _ = reply.send(());
        }
    }

    fn moved(&mut self, leased: Leased, to: Queue, now: i64) {
        self.queue(leased.queue).forget(leased);
        let due = now + timeline::delay_millis(Duration::ZERO);
        self.queue(to).receive(due, leased.bytes);
    }

    fn refuse(&self, publishes: impl IntoIterator<Item = Publish>) {
        let why = self.blocked.as_ref().map_or("", |blocked| &blocked.why);
        for publish in publishes {
            let _ = publish
                .reply
                .send(Err(PublishError::Refused(why.to_owned())));
        }
    }

    /// Tries a disk that rejected writes: first the waiting settlements, which may need no space,
    /// then the probe.
    fn probe(&mut self, now: i64) {
        let not_yet = self
            .blocked
            .as_ref()
            .is_some_and(|blocked| blocked.probe_at > Instant::now());
        if not_yet {
            return;
        }
        let waiting = std::mem::take(&mut self.waiting);
        match self.commit(&[], &waiting, now) {
            Ok(()) => self.settled(waiting, now),
            Err(_) => self.waiting = waiting,
        }
        match self.table.probe() {
            Ok(()) if self.waiting.is_empty() => {
                tracing::info!("the broker's disk accepts messages again");
                self.status.store(Arc::new(Status::Ready));
                self.blocked = None;
            }
            _ => {
                if let Some(blocked) = &mut self.blocked {
                    blocked.probe_at = Instant::now() + PROBE_EVERY;
                }
            }
        }
    }

    fn depth(&self, queue: Queue) -> Depth {
        let state = &self.queues[queue as usize];
        // A disk that fails is reported by the next read of a message.
        let head_due = state.head_due(&self.table).ok().flatten();
        let head_age = head_due.map(|due| self.timeline.now().saturating_sub(due));
        Depth {
            ready: state.ready(),
            head_age: head_age.map(|millis| Duration::from_millis(millis.max(0).unsigned_abs())),
        }
    }

    fn queue(&mut self, queue: Queue) -> &mut QueueState {
        &mut self.queues[queue as usize]
    }
}

fn change(settling: &Settling, now: i64) -> Change<'_> {
    let seq = settling.leased.seq;
    let bytes = settling.leased.bytes;
    let moved = |queue, attempts, dead, waiting| Change::Move {
        from: settling.leased.queue,
        queue,
        bytes,
        key: Key {
            due: now + timeline::delay_millis(Duration::ZERO),
            seq,
        },
        attempts,
        dead,
        waiting,
    };
    match &settling.settlement {
        Settlement::Ack => Change::Delete {
            queue: settling.leased.queue,
            seq,
            bytes,
        },
        Settlement::Defer { delay, attempts } => {
            let delay = timeline::delay_millis(*delay);
            Change::Defer {
                sub_queue: retry_sub_queue(settling.leased.queue),
                key: Key {
                    due: now + delay,
                    seq,
                },
                delay,
                attempts: *attempts,
            }
        }
        Settlement::Wait { waiting, attempts } => {
            moved(Queue::Waiting, *attempts, None, Some(waiting))
        }
        Settlement::Dead { reason, attempts } => {
            moved(settling.leased.queue.dead(), *attempts, Some(reason), None)
        }
    }
}

fn block(status: &ArcSwap<Status>, error: &rusqlite::Error) -> Blocked {
    let why = match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => "the disk is full".to_owned(),
        _ => format!("the disk failed: {error}"),
    };
    tracing::error!(%why, "the broker's disk accepts no writes; publishes are refused");
    status.store(Arc::new(Status::Blocked(why.clone())));
    Blocked {
        why,
        probe_at: Instant::now() + PROBE_EVERY,
    }
}
