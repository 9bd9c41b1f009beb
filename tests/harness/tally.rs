//! Counts messages by session: each message has its own session, named by the run and the message's
//! number.
//!
//! Invariant: late messages of an earlier run are not counted, and a message that arrives twice is
//! one message and one duplicate.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::bail;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

/// How many of a run's messages arrived, and how often.
#[derive(Debug)]
pub struct Tally {
    run: String,
    counts: Vec<AtomicU32>,
    /// When each message came first.
    arrivals: Vec<OnceLock<Instant>>,
    distinct: AtomicU64,
    total: AtomicU64,
    first_at: OnceLock<Instant>,
    full_at: OnceLock<Instant>,
    changed: Notify,
}

impl Tally {
    /// An empty tally for a run of so many messages.
    pub fn new(run: &str, messages: usize) -> Self {
        Self {
            run: run.to_owned(),
            counts: (0..messages).map(|_| AtomicU32::new(0)).collect(),
            arrivals: (0..messages).map(|_| OnceLock::new()).collect(),
            distinct: AtomicU64::new(0),
            total: AtomicU64::new(0),
            first_at: OnceLock::new(),
            full_at: OnceLock::new(),
            changed: Notify::new(),
        }
    }

    /// The session of a message of this run.
    pub fn session(&self, message: u64) -> String {
        format!("{}-{message}", self.run)
    }

    /// Counts one, by its session.
    pub fn count(&self, session: &str) {
        let number = session
            .strip_prefix(self.run.as_str())
            .and_then(|rest| rest.strip_prefix('-')?.parse::<usize>().ok());
        let place =
            number.and_then(|number| self.counts.get(number).zip(self.arrivals.get(number)));
        let Some((count, arrival)) = place else {
            return;
        };
        self.total.fetch_add(1, Ordering::AcqRel);
        if count.fetch_add(1, Ordering::AcqRel) == 0 {
            arrival.get_or_init(Instant::now);
            let distinct = self.distinct.fetch_add(1, Ordering::AcqRel) + 1;
            if distinct == 1 {
                self.first_at.get_or_init(Instant::now);
            }
            if distinct == self.messages() {
                self.full_at.get_or_init(Instant::now);
            }
            self.changed.notify_waiters();
        }
    }

    /// How many messages the run has.
    pub fn messages(&self) -> u64 {
        self.counts.len() as u64
    }

    /// How many messages came at least once.
    pub fn distinct(&self) -> u64 {
        self.distinct.load(Ordering::Acquire)
    }

    /// The arrivals beyond each message's first.
    pub fn duplicates(&self) -> u64 {
        // The total is counted first, so it is never the lesser of the two.
        let distinct = self.distinct();
        self.total.load(Ordering::Acquire) - distinct
    }

    /// When this message came first; nothing where it has not.
    pub fn arrived_at(&self, message: u64) -> Option<Instant> {
        let arrival = self.arrivals.get(usize::try_from(message).ok()?)?;
        arrival.get().copied()
    }

    /// When the first message came.
    pub fn first_at(&self) -> Option<Instant> {
        self.first_at.get().copied()
    }

    /// Waits until so many messages have come.
    pub async fn reach(&self, messages: u64, limit: Duration) -> anyhow::Result<()> {
        let reached = async {
            loop {
                let changed = self.changed.notified();
                if self.distinct() >= messages {
                    return;
                }
                changed.await;
            }
        };
        if timeout(limit, reached).await.is_err() {
            bail!(
                "{} of {messages} messages came within {limit:?}",
                self.distinct()
            );
        }
        Ok(())
    }

    /// Waits until every message has come, and says when the last one's first arrival was.
    pub async fn full(&self, limit: Duration) -> anyhow::Result<Instant> {
        self.reach(self.messages(), limit).await?;
        Ok(*self.full_at.get_or_init(Instant::now))
    }
}
