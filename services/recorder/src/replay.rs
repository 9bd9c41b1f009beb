//! Replays: puts dead letters, or messages, back into their queues.
//!
//! Invariant: what a replay has put back is confirmed by the broker before it is marked, and
//! marked before the cursor moves on. A crash in between puts back at most one page again, under
//! the same ids.

use std::{sync::Arc, time::Duration};

use backoff::backoff::Backoff;
use futures::future::join_all;
use roundtrip_broker::{Parcel, PublishError, Route, SharedBroker};
use roundtrip_journal::Journal;
use roundtrip_model::{
    ChannelId, Clock, Entry, EntryId, Event, MessageId, OutboundMessage, ReplayId, SessionId,
    retry::reconnect,
};
use roundtrip_store::{
    DeadFilter, DeadLetter, DeadQueue, Detail, MessageFilter, MessageRecord, Progress, Replay,
    ReplaySource, ReplayStatus, SharedStore, StoreError,
};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::readdress::CurrentChannels;

/// How often the store is asked for a replay to run.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// How long a replay is held without a sign of life, before another process takes it over.
const LEASE: Duration = Duration::from_secs(30);

/// The most letters that are put back between two marks of the progress: what a crash may double.
const PAGE: u16 = 100;

/// A page of a replay that has a rate is no more than this share of a second's.
const PAGES_A_SECOND: u32 = 4;

/// Runs replays.
pub(crate) struct Replayer {
    broker: SharedBroker,
    store: SharedStore,
    journal: Journal,
    clock: Arc<dyn Clock>,
    /// Tells this process' leases from others'.
    owner: String,
}

/// One thing to put back.
struct Item {
    /// What the cursor says after it.
    cursor: String,
    /// Nothing where its content is not known.
    parcel: Option<(Destination, Parcel)>,
    subject: Option<(MessageId, ChannelId, SessionId)>,
    dead_id: Option<String>,
}

/// The queue that it goes back to.
enum Destination {
    Outbound(ChannelId),
    Callbacks,
}

impl Destination {
    fn route(&self) -> Route<'_> {
        match self {
            Self::Outbound(channel_id) => Route::Outbound(channel_id),
            Self::Callbacks => Route::Callbacks,
        }
    }
}

impl Replayer {
    pub(crate) fn new(
        broker: SharedBroker,
        store: SharedStore,
        journal: Journal,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let owner = uuid::Uuid::new_v4().simple().to_string();
        Self {
            broker,
            store,
            journal,
            clock,
            owner,
        }
    }

    /// Runs replays, one at a time, until `stop`.
    pub(crate) async fn run(&self, stop: &CancellationToken) {
        let work = async {
            loop {
                match self
                    .store
                    .claim_replay(&self.owner, self.clock.now(), LEASE)
                    .await
                {
                    Ok(Some(replay)) => {
                        let id = replay.replay_id;
                        if let Err(error) = self.replay(replay).await {
                            tracing::warn!(%id, %error, "a replay waits for its lease to run out");
                        }
                    }
                    Ok(None) => sleep(POLL_EVERY).await,
                    Err(error) => {
                        tracing::debug!(%error, "the store was not asked for replays");
                        sleep(POLL_EVERY).await;
                    }
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    /// Runs one replay to its end, or until it is cancelled or another process has it.
    async fn replay(&self, replay: Replay) -> Result<(), StoreError> {
        let Replay {
            replay_id,
            rate_per_second,
            mut progress,
            created_at,
            ..
        } = replay;
        let source = before(replay.source, created_at);
        // A process that died between the two had marked what it had not yet counted: marked letters
        // are not listed again, and would never be counted.
        let cursor = progress.cursor.as_deref();
        progress.replayed += self.store.count_replayed(&replay_id, cursor).await?;
        let limit = rate_per_second
            .map_or(PAGE, |rate| {
                u16::try_from(rate / PAGES_A_SECOND).unwrap_or(PAGE)
            })
            .clamp(1, PAGE);
        tracing::info!(%replay_id, cursor = progress.cursor, "replay.started");
        loop {
            let page_began = Instant::now();
            let mut items = self
                .page(&source, progress.cursor.as_deref(), limit)
                .await?;
            let Some(last) = items.last() else {
                self.store
                    .end_replay(&replay_id, ReplayStatus::Done, self.clock.now())
                    .await?;
                tracing::info!(%replay_id, replayed = progress.replayed, "replay.done");
                return Ok(());
            };
            let cursor = last.cursor.clone();
            self.readdress(&mut items).await?;
            let put_back = self.put_back(replay_id, &progress, &items).await?;
            let Some(put_back) = put_back else {
                return Ok(());
            };
            let all = u64::try_from(items.len()).unwrap_or(u64::MAX);
            progress = Progress {
                replayed: progress.replayed + put_back,
                skipped: progress.skipped + (all - put_back),
                cursor: Some(cursor),
            };
            if !self.hold(replay_id, &progress).await? {
                tracing::info!(%replay_id, replayed = progress.replayed, "replay.left");
                return Ok(());
            }
            if let Some(rate) = rate_per_second {
                let share = f64::from(u32::try_from(put_back).unwrap_or(u32::MAX));
                let took = Duration::from_secs_f64(share / f64::from(rate.max(1)));
                sleep_until(page_began + took).await;
            }
        }
    }

    /// Renews the lease. `false` where the replay is no longer ours to run.
    async fn hold(&self, id: ReplayId, progress: &Progress) -> Result<bool, StoreError> {
        let until = self.clock.now() + LEASE;
        let status = self
            .store
            .advance_replay(&id, &self.owner, progress, until)
            .await?;
        Ok(status == Some(ReplayStatus::Running))
    }

    async fn page(
        &self,
        source: &ReplaySource,
        after: Option<&str>,
        limit: u16,
    ) -> Result<Vec<Item>, StoreError> {
        let now = self.clock.now();
        match source {
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
                Ok(messages
                    .into_iter()
                    .map(|message| from_message(message, now))
                    .collect())
            }
        }
    }

    /// Addresses each message to the channel that has its channel's id now.
    async fn readdress(&self, items: &mut [Item]) -> Result<(), StoreError> {
        let mut channels = CurrentChannels::of(&*self.store);
        for item in items {
            if let Some((Destination::Outbound(id), parcel)) = &mut item.parcel {
                channels.readdress(id, parcel).await?;
            }
        }
        Ok(())
    }

    /// Puts a page back and says how many of it; `None` where the replay was lost meanwhile.
    async fn put_back(
        &self,
        replay_id: ReplayId,
        progress: &Progress,
        items: &[Item],
    ) -> Result<Option<u64>, StoreError> {
        let known: Vec<&Item> = items.iter().filter(|item| item.parcel.is_some()).collect();
        let mut waiting: Vec<&Item> = known.clone();
        let mut waits = reconnect();
        while !waiting.is_empty() {
            let published = join_all(waiting.iter().map(|item| self.publish(item))).await;
            let refused: Vec<&Item> = waiting
                .iter()
                .zip(&published)
                .filter(|(_, published)| published.is_err())
                .map(|(item, _)| *item)
                .collect();
            if let Some(error) = published
                .iter()
                .find_map(|published| published.as_ref().err())
            {
                tracing::warn!(%replay_id, %error, left = refused.len(), "a replay waits for the broker");
                if !self.hold(replay_id, progress).await? {
                    return Ok(None);
                }
                sleep(waits.next_backoff().unwrap_or(POLL_EVERY)).await;
            }
            waiting = refused;
        }
        let at = self.clock.now();
        for item in &known {
            if let Some(entry) = replayed(item, replay_id, at) {
                self.journal.append(entry).await;
            }
        }
        let dead_ids: Vec<String> = known
            .iter()
            .filter_map(|item| item.dead_id.clone())
            .collect();
        self.store.mark_replayed(&dead_ids, &replay_id).await?;
        Ok(Some(u64::try_from(known.len()).unwrap_or(u64::MAX)))
    }

    async fn publish(&self, item: &Item) -> Result<(), PublishError> {
        match &item.parcel {
            Some((to, parcel)) => self.broker.publish(to.route(), parcel.clone()).await,
            None => Ok(()),
        }
    }
}

/// What was there when the replay was asked for: what it brings back and dies again is left.
fn before(source: ReplaySource, created_at: OffsetDateTime) -> ReplaySource {
    let bound = |until: Option<OffsetDateTime>| {
        Some(until.map_or(created_at, |until| until.min(created_at)))
    };
    match source {
        ReplaySource::DeadLetters(filter) => ReplaySource::DeadLetters(DeadFilter {
            until: bound(filter.until),
            ..filter
        }),
        ReplaySource::Messages(filter) => ReplaySource::Messages(MessageFilter {
            until: bound(filter.until),
            ..filter
        }),
    }
}

/// `accepted_at` is the replay's own time: the message's age counts from here anew.
fn from_letter(letter: DeadLetter, now: OffsetDateTime) -> Item {
    let destination = match letter.queue {
        DeadQueue::Outbound => letter.channel_id.clone().map(Destination::Outbound),
        // An answer that nobody can read has no session.
        DeadQueue::Callbacks => letter
            .session_id
            .is_some()
            .then_some(Destination::Callbacks),
    };
    let parcel = Parcel {
        id: letter.parcel_id,
        tries: 0,
        round: letter.round + 1,
        accepted_at: now,
        dead: None,
        body: letter.body,
    };
    let subject = letter
        .message_id
        .zip(letter.channel_id)
        .zip(letter.session_id);
    Item {
        cursor: letter.dead_id.clone(),
        parcel: destination.map(|destination| (destination, parcel)),
        subject: subject.map(|((message, channel), session)| (message, channel, session)),
        dead_id: Some(letter.dead_id),
    }
}

fn from_message(record: MessageRecord, now: OffsetDateTime) -> Item {
    let MessageRecord {
        message_id,
        channel_id,
        session_id,
        round,
        content,
        ..
    } = record;
    let parcel = content.and_then(|content| {
        let message = OutboundMessage {
            message_id,
            channel_id: channel_id.clone(),
            channel_uid: None,
            session_id: session_id.clone(),
            message: content.message,
            response_url: content.response_url,
        };
        let body = serde_json::to_vec(&message).ok()?;
        let parcel = Parcel {
            id: message_id.to_string(),
            tries: 0,
            round: round + 1,
            accepted_at: now,
            dead: None,
            body: body.into(),
        };
        Some((Destination::Outbound(channel_id.clone()), parcel))
    });
    Item {
        cursor: message_id.to_string(),
        parcel,
        subject: Some((message_id, channel_id, session_id)),
        dead_id: None,
    }
}

fn replayed(item: &Item, replay_id: ReplayId, at: OffsetDateTime) -> Option<Entry> {
    let (message_id, channel_id, session_id) = item.subject.clone()?;
    let (_, parcel) = item.parcel.as_ref()?;
    Some(Entry {
        entry_id: EntryId::generate(),
        message_id,
        channel_id,
        session_id,
        round: parcel.round,
        at,
        event: Event::Replayed { replay_id },
    })
}
