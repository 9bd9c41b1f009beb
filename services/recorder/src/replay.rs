//! Replays: puts dead letters, other messages, or answers back into their queues.
//!
//! Replays take turns. Each runs for a short while and then yields to the one that has waited
//! longest, so many or slow replays do not stop another.
//!
//! Invariant: a replayed message is marked only after the broker's confirm, and the cursor moves
//! only after the mark. A crash in between repeats at most one page, under the same ids.

mod answers;
mod page;

use std::{collections::BTreeSet, pin::pin, sync::Arc, time::Duration};

use backoff::backoff::Backoff;
use futures::{
    FutureExt, StreamExt,
    future::{Fuse, FusedFuture, join_all},
    stream::FuturesUnordered,
};
use roundtrip_broker::{PublishError, SharedBroker};
use roundtrip_journal::Journal;
use roundtrip_model::{Clock, LogThrottle, ReplayId, State, retry::reconnect};
use roundtrip_store::{
    Detail, MAX_ENTRIES, MAX_NAMED_SKIPS, MessageRecord, Progress, QueryError, Replay,
    ReplaySource, ReplayStatus, SharedStore, Skip, SkipReason, Unavailable,
};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::{
    answers::{Fate, from_answer},
    page::{Destination, Item, Work, before, delivery_has_ended, from_letter, from_message},
};
use crate::readdress::CurrentChannels;

/// The least time between two equal log lines of an outage.
const LOG_EVERY: Duration = Duration::from_mins(1);

/// How often the store is polled for a replay to run.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// The most replays that one process runs at once.
const AT_ONCE: usize = 4;

/// How long a replay runs before it yields. A replay that waits for its rate yields at once.
const TURN: Duration = Duration::from_secs(1);

/// A lease ends this much before its replay continues, as the store keeps whole milliseconds.
const SLACK: Duration = Duration::from_millis(5);

/// How long a page waits for a broker that accepts nothing before its replay yields.
const BROKER_PATIENCE: Duration = Duration::from_secs(5);

/// A lease that is not renewed for this long is taken over by another process.
const LEASE: Duration = Duration::from_secs(30);

/// The most letters replayed between two marks of the progress. A crash may duplicate this many.
const PAGE: u16 = 100;

/// With a rate, a page holds at most this fraction of a second's messages.
const PAGES_A_SECOND: u32 = 4;

pub(crate) struct Replayer {
    broker: SharedBroker,
    store: SharedStore,
    journal: Journal,
    clock: Arc<dyn Clock>,
    /// Locked while a page of dead letters is listed, put back and marked as replayed. So replays
    /// of this process whose filters overlap put a letter back only once.
    letters: Mutex<()>,
    broker_waits: LogThrottle,
    store_waits: LogThrottle,
}

struct LeasedReplay {
    replay_id: ReplayId,
    owner: String,
    source: ReplaySource,
    rate_per_second: Option<u32>,
    progress: Progress,
}

struct PutBack {
    replayed: u64,
    skips: Vec<Skip>,
    cursor: Option<String>,
    whole: bool,
}

impl Replayer {
    pub(crate) fn new(
        broker: SharedBroker,
        store: SharedStore,
        journal: Journal,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            broker,
            store,
            journal,
            clock,
            letters: Mutex::new(()),
            broker_waits: LogThrottle::every(LOG_EVERY),
            store_waits: LogThrottle::every(LOG_EVERY),
        }
    }

    pub(crate) async fn run(&self, stop: &CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.take_turns() => {}
        }
    }

    async fn take_turns(&self) {
        let mut turns = FuturesUnordered::new();
        // When the replays of this process that yielded continue.
        let mut due = BTreeSet::new();
        let mut look_at = Instant::now();
        // Polled beside the turns: a turn may hold the store's write lock.
        let mut claim = pin!(Fuse::terminated());
        loop {
            let may_claim = claim.is_terminated() && turns.len() < AT_ONCE;
            tokio::select! {
                Some(goes_on_at) = turns.next(), if !turns.is_empty() => {
                    due.extend(goes_on_at);
                    look_at = due.first().map_or(look_at, |first| look_at.min(*first));
                }
                claimed = &mut claim => if let Some((replay, owner)) = claimed {
                    turns.push(self.turn(replay, owner));
                } else {
                    let next = Instant::now() + POLL_EVERY;
                    look_at = due.first().map_or(next, |first| next.min(*first));
                },
                () = sleep_until(look_at), if may_claim => {
                    let now = Instant::now();
                    due.retain(|at| *at > now);
                    claim.set(self.claim().fuse());
                }
            }
        }
    }

    async fn claim(&self) -> Option<(Replay, String)> {
        let owner = uuid::Uuid::new_v4().simple().to_string();
        let claimed = self.store.claim_replay(&owner, self.clock.now(), LEASE);
        match claimed.await {
            Ok(claimed) => claimed.map(|replay| (replay, owner)),
            Err(error) => {
                if let Some(suppressed) = self.store_waits.due(Instant::now().into_std()) {
                    tracing::warn!(%error, suppressed, "replays wait for the store");
                }
                None
            }
        }
    }

    /// Runs a replay for a while. Returns when it continues, if it does.
    async fn turn(&self, replay: Replay, owner: String) -> Option<Instant> {
        let replay_id = replay.replay_id;
        match self.run_for_a_turn(replay, owner).await {
            Ok(goes_on_at) => goes_on_at,
            Err(error) => {
                if let Some(suppressed) = self.store_waits.due(Instant::now().into_std()) {
                    let message = "a replay waits until its lease expires";
                    tracing::warn!(%replay_id, %error, suppressed, "{message}");
                }
                None
            }
        }
    }

    async fn run_for_a_turn(
        &self,
        replay: Replay,
        owner: String,
    ) -> Result<Option<Instant>, QueryError> {
        let began = Instant::now();
        let is_new = replay.progress == Progress::default();
        let mut replay = LeasedReplay {
            replay_id: replay.replay_id,
            owner,
            source: before(replay.source, replay.created_at),
            rate_per_second: replay.rate_per_second,
            progress: replay.progress,
        };
        let replay_id = replay.replay_id;
        // Counts the letters marked after the cursor: a process may have crashed between the marks
        // and the count, and marked letters are not listed again.
        let cursor = replay.progress.cursor.as_deref();
        replay.progress.replayed += self.store.count_replayed(&replay_id, cursor).await?;
        if is_new {
            tracing::info!(%replay_id, "replay.started");
        }
        let limit = replay
            .rate_per_second
            .map_or(PAGE, |rate| {
                u16::try_from(rate / PAGES_A_SECOND).unwrap_or(PAGE)
            })
            .clamp(1, PAGE);
        loop {
            let page_began = Instant::now();
            let letters = match replay.source {
                ReplaySource::DeadLetters(_) => Some(self.letters.lock().await),
                ReplaySource::Messages(_) | ReplaySource::Answers(_) => None,
            };
            let mut items = self.page(&replay, limit).await?;
            if items.is_empty() {
                self.store
                    .end_replay(&replay_id, ReplayStatus::Done, self.clock.now())
                    .await?;
                let Progress {
                    replayed, skipped, ..
                } = replay.progress;
                tracing::info!(%replay_id, replayed, skipped, "replay.done");
                return Ok(None);
            }
            self.readdress(&mut items).await?;
            let Some(put_back) = self.put_back(&replay, &mut items).await? else {
                return Ok(None);
            };
            drop(letters);
            let progress = &mut replay.progress;
            progress.replayed += put_back.replayed;
            progress.skipped += as_u64(put_back.skips.len());
            let room = MAX_NAMED_SKIPS.saturating_sub(progress.skips.len());
            progress.skips.extend(put_back.skips.into_iter().take(room));
            if put_back.cursor.is_some() {
                progress.cursor = put_back.cursor;
            }
            let goes_on_at = if put_back.whole {
                page_began + took(put_back.replayed, replay.rate_per_second)
            } else {
                Instant::now() + BROKER_PATIENCE
            };
            let waits = goes_on_at.saturating_duration_since(Instant::now());
            let turn_is_over = !waits.is_zero() || began.elapsed() >= TURN;
            let held_for = if turn_is_over {
                waits.saturating_sub(SLACK)
            } else {
                LEASE
            };
            if !self.hold(&replay, held_for).await? {
                let replayed = replay.progress.replayed;
                tracing::info!(%replay_id, replayed, "replay.left");
                return Ok(None);
            }
            if turn_is_over {
                return Ok(Some(goes_on_at));
            }
        }
    }

    /// Stores the progress and extends the lease. `false` if the replay is no longer this process's
    /// to run.
    async fn hold(&self, replay: &LeasedReplay, held_for: Duration) -> Result<bool, Unavailable> {
        let until = self.clock.now() + held_for;
        let status = self
            .store
            .advance_replay(&replay.replay_id, &replay.owner, &replay.progress, until)
            .await?;
        Ok(status == Some(ReplayStatus::Running))
    }

    async fn page(&self, replay: &LeasedReplay, limit: u16) -> Result<Vec<Item>, QueryError> {
        let now = self.clock.now();
        let after = replay.progress.cursor.as_deref();
        match &replay.source {
            ReplaySource::DeadLetters(filter) => {
                let letters = self
                    .store
                    .dead_letters(filter, after, limit, Detail::Whole)
                    .await?;
                Ok(letters
                    .into_iter()
                    .map(|letter| from_letter(letter, now))
                    .collect())
            }
            ReplaySource::Messages(filter) => {
                let after = after.and_then(|id| id.parse().ok());
                let messages = self
                    .store
                    .messages(filter, after.as_ref(), limit, Detail::Whole)
                    .await?;
                let mut items = Vec::with_capacity(messages.len());
                for message in messages {
                    let is_under_way = self.is_under_way(&message).await?;
                    items.push(from_message(message, is_under_way, now));
                }
                Ok(items)
            }
            ReplaySource::Answers(filter) => {
                let after = after.and_then(|cursor| cursor.parse().ok());
                let answers = self
                    .store
                    .kept_answers(filter, after.as_ref(), limit)
                    .await?;
                let mut items = Vec::with_capacity(answers.len());
                for answer in answers {
                    let fate = Fate::read(&*self.store, &answer).await?;
                    items.push(from_answer(answer, &fate, replay.replay_id, now));
                }
                Ok(items)
            }
        }
    }

    /// Whether the message is still being delivered. A channel server may post its answer before it
    /// returns 2xx, so an answered message may be. Only its timeline tells.
    async fn is_under_way(&self, message: &MessageRecord) -> Result<bool, QueryError> {
        match message.state {
            State::Delivered | State::Overdue => return Ok(false),
            state if state.is_under_way() => return Ok(true),
            // If the cancellation was recorded late, the message may still be among those that wait.
            State::Cancelled => {
                let id = message.message_id.to_string();
                return Ok(self.store.waiting_message(&id).await?.is_some());
            }
            _ => {}
        }
        let timeline = self.store.message(&message.message_id).await?;
        Ok(timeline.is_some_and(|(_, entries)| {
            // A cut timeline may lack the end of the delivery.
            entries.len() < MAX_ENTRIES && !delivery_has_ended(&entries)
        }))
    }

    /// Addresses each message to the channel that has its channel's id now.
    async fn readdress(&self, items: &mut [Item]) -> Result<(), Unavailable> {
        let mut channels = CurrentChannels::of(&*self.store);
        for item in items {
            if let Work::Publish(Destination::Outbound(id), message) = &mut item.work {
                channels.readdress(id, message).await?;
            }
        }
        Ok(())
    }

    /// Publishes a page, as far as the broker accepts it, and skips what is too large for it. `None`
    /// if the lease was lost meanwhile.
    async fn put_back(
        &self,
        replay: &LeasedReplay,
        items: &mut [Item],
    ) -> Result<Option<PutBack>, Unavailable> {
        let replay_id = replay.replay_id;
        let patience_ends = Instant::now() + BROKER_PATIENCE;
        let mut waits = reconnect();
        let mut confirmed = vec![false; items.len()];
        loop {
            let missing = (0..items.len()).filter(|&index| !confirmed[index]);
            let published = missing.map(async |index| (index, self.publish(&items[index]).await));
            let mut refused = None;
            for (index, published) in join_all(published).await {
                match published {
                    Ok(()) => confirmed[index] = true,
                    // The broker would refuse it each time.
                    Err(PublishError::TooLarge) => {
                        items[index].work = Work::Skip(SkipReason::TooLarge);
                        confirmed[index] = true;
                    }
                    Err(error) => refused = Some(error),
                }
            }
            let Some(error) = refused else { break };
            if let Some(suppressed) = self.broker_waits.due(Instant::now().into_std()) {
                tracing::warn!(%replay_id, %error, suppressed, "a replay waits for the broker");
            }
            if Instant::now() >= patience_ends {
                break;
            }
            if !self.hold(replay, LEASE).await? {
                return Ok(None);
            }
            sleep(waits.next_backoff().unwrap_or(POLL_EVERY)).await;
        }
        let at = self.clock.now();
        let done = || items.iter().zip(&confirmed).filter(|(_, done)| **done);
        let entries = done().filter_map(|(item, _)| item.entry(replay_id, at));
        join_all(entries.map(|entry| self.journal.append(entry))).await;
        let dead_ids: Vec<String> = done()
            .filter(|(item, _)| matches!(item.work, Work::Publish(..)))
            .filter_map(|(item, _)| item.dead_id.clone())
            .collect();
        self.store.mark_replayed(&dead_ids, &replay_id).await?;
        // The cursor stops before the first refused item, so the next turn reads the published items
        // after it again. It counts dead letters and answers as replayed, and skips messages as under
        // way: all of these are in their queues by then.
        let reached = confirmed.iter().take_while(|done| **done).count();
        let mut skips = Vec::new();
        for Item { id, work, .. } in &items[..reached] {
            if let Work::Skip(reason) = *work {
                if reason != SkipReason::UnderWay {
                    tracing::warn!(%replay_id, id, ?reason, "replay.skipped");
                }
                let id = id.clone();
                skips.push(Skip { id, reason });
            }
        }
        Ok(Some(PutBack {
            replayed: as_u64(reached - skips.len()),
            skips,
            cursor: items[..reached].last().map(|item| item.cursor.clone()),
            whole: reached == items.len(),
        }))
    }

    async fn publish(&self, item: &Item) -> Result<(), PublishError> {
        match &item.work {
            Work::Publish(to, message) => self.broker.publish(to.route(), message.clone()).await,
            Work::Published | Work::Skip(_) => Ok(()),
        }
    }
}

fn as_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn took(count: u64, rate_per_second: Option<u32>) -> Duration {
    rate_per_second.map_or(Duration::ZERO, |rate| {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        Duration::from_secs_f64(f64::from(count) / f64::from(rate.max(1)))
    })
}

#[cfg(test)]
mod tests;
