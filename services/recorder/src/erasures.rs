//! Erases contents: of sessions whose erasure was requested, and of what has become too old.
//!
//! Invariant: an erasure is repeated until the store says that it has ended, so a process that dies
//! leaves the rest to the next one. Several recorders may erase the same, because the steps are
//! idempotent.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::join;
use roundtrip_model::{ChannelId, Clock, LogThrottle, StoredChannel, config::chain};
use roundtrip_store::{
    AnswerFilter, ChannelError, DeadFilter, Detail, Filter, MAX_ERASED_AT_ONCE, MAX_PAGE,
    MessageFilter, PageRequest, QueryError, SharedStore, Unavailable,
};
use serde_json::json;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How often the store is polled for erasures of sessions.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// How often contents that have become too old are erased.
const AGES_EVERY: Duration = Duration::from_mins(1);

/// How often everything is checked again. The checks in between cover only what has become too old
/// since the last one. The whole check also finds what was recorded late, and what a changed setting
/// includes.
const WHOLE_EVERY: Duration = Duration::from_hours(1);

/// The most erasures that are read at once.
const AT_ONCE: u16 = 10;

/// The least time between two log lines of an outage.
const LOG_EVERY: Duration = Duration::from_mins(1);

const STEP: usize = MAX_ERASED_AT_ONCE as usize;

pub(crate) struct Eraser {
    store: SharedStore,
    clock: Arc<dyn Clock>,
    /// How long contents are kept, unless their channel has its own setting.
    content_retention: Option<Duration>,
    /// Whether contents were erased because of their age, perhaps by an earlier process, and the store has
    /// not yet overwritten the disk space that they used.
    overwrite_due: AtomicBool,
    waits: LogThrottle,
}

/// The contents that have become too old since `since`, or all that are too old if it is `None`.
#[derive(Clone, Copy)]
struct Aged {
    now: OffsetDateTime,
    since: Option<OffsetDateTime>,
    retention: Duration,
}

impl Aged {
    fn from(&self) -> Option<OffsetDateTime> {
        Some(self.since? - self.retention)
    }

    fn until(&self) -> OffsetDateTime {
        self.now - self.retention
    }
}

impl Eraser {
    pub(crate) fn new(
        store: SharedStore,
        clock: Arc<dyn Clock>,
        content_retention: Option<Duration>,
    ) -> Self {
        Self {
            store,
            clock,
            content_retention,
            overwrite_due: AtomicBool::new(true),
            waits: LogThrottle::every(LOG_EVERY),
        }
    }

    pub(crate) async fn run(&self, stop: &CancellationToken) {
        // Apart, so that a requested erasure does not wait for what is old.
        let erasing = join(self.erase_sessions(), self.erase_old());
        stop.run_until_cancelled(erasing).await;
    }

    async fn erase_sessions(&self) {
        loop {
            self.report(self.sessions().await.map_err(Into::into));
            sleep(POLL_EVERY).await;
        }
    }

    async fn erase_old(&self) {
        let mut whole_at = Instant::now();
        let mut since = None;
        loop {
            let now = Instant::now();
            if now >= whole_at {
                since = None;
            }
            let began = self.clock.now();
            let erased = self.aged(began, since).await;
            if erased.is_ok() {
                if since.is_none() {
                    whole_at = now + WHOLE_EVERY;
                }
                since = Some(began);
            }
            self.report(erased);
            sleep(AGES_EVERY).await;
        }
    }

    fn report(&self, erased: Result<(), QueryError>) {
        if let Err(error) = erased
            && let Some(suppressed) = self.waits.due(Instant::now().into_std())
        {
            let error = chain(&error);
            tracing::warn!(error, suppressed, "contents wait for their erasure");
        }
    }

    /// One that fails does not keep the others from their end. It is tried again.
    async fn sessions(&self) -> Result<(), Unavailable> {
        let mut all = Ok(());
        for erasure in self.store.unfinished_erasures(AT_ONCE).await? {
            let erased = self.store.erase_session(&erasure, self.clock.now()).await;
            if erased.is_ok() {
                let session_id = erasure.session_id.as_str();
                let requested_at = erasure.requested_at;
                tracing::info!(session_id, %requested_at, "session.erased");
            }
            all = all.and(erased);
        }
        all
    }

    /// Erases what has become too old since `since`, by the setting of each channel.
    async fn aged(
        &self,
        now: OffsetDateTime,
        since: Option<OffsetDateTime>,
    ) -> Result<(), QueryError> {
        let mut erased = 0;
        let aged = |retention| Aged {
            now,
            since,
            retention,
        };
        let with_own = json!({"channel_metadata.delivery.content_retention": {"$exists": true}});
        let Ok(with_own) = Filter::parse(&with_own) else {
            return Ok(());
        };
        let mut page = PageRequest::default();
        loop {
            let found = self.store.query(&with_own, &page).await?;
            for StoredChannel { channel_id, .. } in &found.channels {
                if let Some(own) = self.own_retention(channel_id).await? {
                    erased += self.erase_aged(Some(channel_id), aged(own)).await?;
                }
            }
            page.cursor = found.next;
            if page.cursor.is_none() {
                break;
            }
        }
        if let Some(retention) = self.content_retention {
            erased += self.erase_aged(None, aged(retention)).await?;
            erased += self.erase_answers(aged(retention)).await?;
        }
        if erased > 0 {
            tracing::info!(erased, "contents.erased");
        }
        if self.overwrite_due.load(Ordering::Relaxed) {
            self.store.overwrite_erased().await?;
            self.overwrite_due.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// How long a channel asks to keep its contents, if it asks.
    async fn own_retention(&self, channel: &ChannelId) -> Result<Option<Duration>, Unavailable> {
        match self.store.target(channel).await {
            Ok(target) => Ok(target.settings.content_retention),
            Err(ChannelError::Unavailable(error)) => Err(error),
            // A deleted channel asks for nothing.
            Err(_) => Ok(None),
        }
    }

    /// Erases the contents of one channel, or of every channel without an own setting.
    async fn erase_aged(
        &self,
        channel: Option<&ChannelId>,
        aged: Aged,
    ) -> Result<usize, QueryError> {
        let filter = MessageFilter {
            channel: channel.cloned(),
            since: aged.from(),
            until: Some(aged.until()),
            ..MessageFilter::default()
        };
        let mut erased = 0;
        let mut after = None;
        loop {
            let store = &self.store;
            let page = store.messages(&filter, after.as_ref(), MAX_PAGE, Detail::Outline);
            let page = page.await?;
            let mut included = Included::new(self, channel);
            let mut ids = Vec::new();
            for message in &page {
                if message.contents_erased_at.is_none()
                    && included.includes(Some(&message.channel_id)).await?
                {
                    ids.push(message.message_id);
                }
            }
            for step in ids.chunks(STEP) {
                self.overwrite_due.store(true, Ordering::Relaxed);
                store.erase_messages(step, aged.now).await?;
            }
            erased += ids.len();
            after = page.last().map(|last| last.message_id);
            if page.len() < usize::from(MAX_PAGE) {
                break;
            }
        }
        Ok(erased + self.erase_letters(channel, aged).await?)
    }

    /// Erases answers without a message, which are of no channel.
    async fn erase_answers(&self, aged: Aged) -> Result<usize, QueryError> {
        let filter = AnswerFilter {
            without_message: true,
            since: aged.from(),
            until: Some(aged.until()),
            ..AnswerFilter::default()
        };
        let mut erased = 0;
        let mut after = None;
        loop {
            let page = self.store.kept_answers(&filter, after.as_ref(), MAX_PAGE);
            let page = page.await?;
            let Some(last) = page.last() else {
                return Ok(erased);
            };
            after = Some(last.cursor());
            let kept = page
                .iter()
                .filter(|answer| answer.contents_erased_at.is_none());
            let ids: Vec<_> = kept.map(|answer| answer.callback_id).collect();
            for step in ids.chunks(STEP) {
                self.overwrite_due.store(true, Ordering::Relaxed);
                self.store.erase_answers(step, aged.now).await?;
            }
            erased += ids.len();
        }
    }

    async fn erase_letters(
        &self,
        channel: Option<&ChannelId>,
        aged: Aged,
    ) -> Result<usize, QueryError> {
        let filter = DeadFilter {
            channel: channel.cloned(),
            since: aged.from(),
            until: Some(aged.until()),
            ..DeadFilter::default()
        };
        let mut erased = 0;
        let mut after: Option<String> = None;
        loop {
            let store = &self.store;
            let page = store.dead_letters(&filter, after.as_deref(), MAX_PAGE, Detail::Outline);
            let page = page.await?;
            let mut included = Included::new(self, channel);
            let mut ids = Vec::new();
            for letter in &page {
                if letter.contents_erased_at.is_none()
                    && included.includes(letter.channel_id.as_ref()).await?
                {
                    ids.push(letter.dead_id.clone());
                }
            }
            for step in ids.chunks(STEP) {
                self.overwrite_due.store(true, Ordering::Relaxed);
                store.erase_dead_letters(step, aged.now).await?;
            }
            erased += ids.len();
            after = page.last().map(|last| last.dead_id.clone());
            if page.len() < usize::from(MAX_PAGE) {
                return Ok(erased);
            }
        }
    }
}

/// The channels whose contents are erased, as far as one page names them.
struct Included<'a> {
    eraser: &'a Eraser,
    /// `None`: every channel without an own setting.
    only: Option<&'a ChannelId>,
    known: HashMap<ChannelId, bool>,
}

impl<'a> Included<'a> {
    fn new(eraser: &'a Eraser, only: Option<&'a ChannelId>) -> Self {
        Self {
            eraser,
            only,
            known: HashMap::new(),
        }
    }

    async fn includes(&mut self, channel: Option<&ChannelId>) -> Result<bool, Unavailable> {
        let (None, Some(channel)) = (self.only, channel) else {
            return Ok(true);
        };
        if let Some(is_included) = self.known.get(channel) {
            return Ok(*is_included);
        }
        let is_included = self.eraser.own_retention(channel).await?.is_none();
        self.known.insert(channel.clone(), is_included);
        Ok(is_included)
    }
}
