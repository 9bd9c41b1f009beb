//! A snapshot of all active keys, read every few seconds.
//!
//! It holds all keys, not only those in use. So a made-up key is refused without a store call, and
//! strangers cannot fill the snapshot.
//!
//! Invariant: only a call with an unknown key waits for the store, as the key may be new. At most
//! [`MAX_WAITING`] such calls wait at once. They share one read, and reads are at least [`PAUSE`]
//! apart. While the store is unavailable, the last snapshot is used until it is too old.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use roundtrip_model::{ApiKey, ApiKeyId, Clock, LogThrottle, RateLimiter, config::chain};
use roundtrip_store::{ApiKeys, MAX_ACTIVE_KEYS};
use time::OffsetDateTime;
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

use crate::{metrics::KEY_ENDS, problem::Problem};

/// The least time between two reads.
const PAUSE: Duration = Duration::from_millis(250);

/// The most calls that wait at once for an unknown key; further ones treat it as unknown.
const MAX_WAITING: usize = 64;

const WAIT: Duration = Duration::from_secs(5);

/// Refused calls are logged at most this often.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Logged by every read while there are too many keys.
static FULL: LogThrottle = LogThrottle::every(Duration::from_mins(10));

/// The store is unavailable, and the last snapshot is too old or lacks the key.
#[derive(Debug)]
pub(super) struct Unavailable;

pub(crate) struct ApiKeySnapshot {
    signals: Arc<ReadSignals>,
    state: watch::Receiver<State>,
    waiting: Semaphore,
    max_age: Duration,
    reader: JoinHandle<()>,
}

impl Drop for ApiKeySnapshot {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl fmt::Debug for ApiKeySnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeySnapshot").finish_non_exhaustive()
    }
}

struct ReadSignals {
    /// Requests a read before the next one is due.
    wanted: Notify,
    begun: AtomicU64,
    /// The refused calls since the last log line.
    refused: AtomicU64,
}

#[derive(Clone, Default)]
struct State {
    keys: Arc<HashMap<ApiKeyId, Arc<CachedKey>>>,
    /// When the read of these keys started. `None`: no read has succeeded yet.
    read_at: Option<Instant>,
    /// How many reads have ended, successful or not.
    ended: u64,
    is_unavailable: bool,
}

pub(crate) struct CachedKey {
    pub(crate) key: ApiKey,
    rate: Option<(u32, Mutex<RateLimiter>)>,
}

impl CachedKey {
    fn new(key: ApiKey, default_rate: Option<u32>) -> Self {
        let rate = key.rate_per_second.or(default_rate);
        let rate = rate.map(|per_second| {
            let rate = RateLimiter::new(per_second.into(), Instant::now().into_std());
            (per_second, Mutex::new(rate))
        });
        Self { key, rate }
    }

    pub(super) fn take_rate(&self, now: Instant) -> Result<(), Problem> {
        let Some((per_second, rate)) = &self.rate else {
            return Ok(());
        };
        let mut rate = rate.lock();
        if rate.take(now.into_std()) {
            return Ok(());
        }
        let wait = rate.blocked_for(now.into_std()).unwrap_or_default();
        Err(Problem::rate_limited(*per_second, wait))
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    /// How long a snapshot is used before the next read.
    pub(crate) time_to_live: Duration,
    /// How long a snapshot is used while the store is unavailable.
    pub(crate) max_age: Duration,
    /// The rate of a key that has none of its own.
    pub(crate) default_rate: Option<u32>,
}

impl ApiKeySnapshot {
    /// Starts to read. Must be called within a runtime.
    pub(crate) fn start(store: Arc<dyn ApiKeys>, clock: Arc<dyn Clock>, reading: Reading) -> Self {
        let signals = Arc::new(ReadSignals {
            wanted: Notify::new(),
            begun: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let (sender, state) = watch::channel(State::default());
        let reader = Reader {
            store,
            clock,
            reading,
            signals: Arc::clone(&signals),
            sender,
        };
        Self {
            signals,
            state,
            waiting: Semaphore::new(MAX_WAITING),
            max_age: reading.max_age,
            reader: tokio::spawn(reader.run()),
        }
    }

    /// The active key with this id. `None` only if it certainly does not exist.
    pub(super) async fn find(&self, id: ApiKeyId) -> Result<Option<Arc<CachedKey>>, Unavailable> {
        if let Some(key) = self.look(id)? {
            return Ok(Some(key));
        }
        // The key may be newer than the snapshot.
        if let Ok(_permit) = self.waiting.try_acquire() {
            self.read_again().await;
        }
        match self.look(id)? {
            None if self.may_be_incomplete() => Err(Unavailable),
            found => Ok(found),
        }
    }

    /// Whether an active key has this id, without a read of the store.
    pub(super) fn has(&self, id: ApiKeyId) -> bool {
        matches!(self.look(id), Ok(Some(_)))
    }

    /// Why no key can be used now, if none can.
    pub(super) fn unready(&self) -> Option<&'static str> {
        match self.state.borrow().read_at {
            Some(read_at) if read_at.elapsed() <= self.max_age => None,
            Some(_) => Some("the API keys in memory are too old, and the store is unavailable"),
            None => Some("the API keys have not been read yet"),
        }
    }

    /// Waits, up to a limit, for the end of a read that starts after this call.
    pub(super) async fn read_again(&self) {
        let begun = self.signals.begun.load(Ordering::SeqCst);
        self.signals.wanted.notify_one();
        let mut state = self.state.clone();
        let next = state.wait_for(|state| state.ended > begun);
        // A time-out shows in the lookup that follows.
        let _ = timeout(WAIT, next).await;
    }

    /// Counts a call without a valid key. The reader logs the count.
    pub(super) fn count_refusal(&self) {
        self.signals.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a missing key may exist: the store is unavailable, or nothing has been read yet.
    fn may_be_incomplete(&self) -> bool {
        let state = self.state.borrow();
        state.is_unavailable || state.read_at.is_none()
    }

    fn look(&self, id: ApiKeyId) -> Result<Option<Arc<CachedKey>>, Unavailable> {
        let state = self.state.borrow();
        match state.read_at {
            Some(read_at) if read_at.elapsed() <= self.max_age => {
                Ok(state.keys.get(&id).map(Arc::clone))
            }
            Some(_) => Err(Unavailable),
            // The process has just started.
            None => Ok(None),
        }
    }
}

struct Reader {
    store: Arc<dyn ApiKeys>,
    clock: Arc<dyn Clock>,
    reading: Reading,
    signals: Arc<ReadSignals>,
    sender: watch::Sender<State>,
}

impl Reader {
    async fn run(self) {
        let mut logged_at = Instant::now();
        loop {
            let began = Instant::now();
            self.signals.begun.fetch_add(1, Ordering::SeqCst);
            let read = self.store.active_keys(self.clock.now()).await;
            self.update(began, read);
            if logged_at.elapsed() >= LOG_EVERY {
                logged_at = began;
                self.log_refusals();
            }
            sleep_until(began + PAUSE).await;
            let old = sleep_until(began + self.reading.time_to_live);
            tokio::select! {
                () = old => {}
                () = self.signals.wanted.notified() => {}
            }
        }
    }

    fn update(&self, began: Instant, read: Result<Vec<ApiKey>, roundtrip_store::Unavailable>) {
        // Built outside the lock, so that no call waits for it.
        let before = Arc::clone(&self.sender.borrow().keys);
        let read = read.map(|keys| {
            let first_end = keys.iter().filter_map(ApiKey::ends_at).min();
            KEY_ENDS.set((), first_end.and_then(since_1970));
            Arc::new(self.cached(keys, &before))
        });
        self.sender.send_modify(|state| {
            state.ended += 1;
            match read {
                Ok(keys) => {
                    if state.is_unavailable {
                        tracing::info!("the store is available again; the API keys were read");
                    }
                    state.is_unavailable = false;
                    state.read_at = Some(began);
                    state.keys = keys;
                }
                Err(error) => {
                    if !state.is_unavailable {
                        tracing::warn!(
                            error = chain(&error),
                            "the store is unavailable; the API keys that were read last stay in use"
                        );
                    }
                    state.is_unavailable = true;
                }
            }
        });
    }

    /// Keeps a known key's entry: a new one would reset its rate limit at each read.
    fn cached(
        &self,
        keys: Vec<ApiKey>,
        before: &HashMap<ApiKeyId, Arc<CachedKey>>,
    ) -> HashMap<ApiKeyId, Arc<CachedKey>> {
        if keys.len() == usize::from(MAX_ACTIVE_KEYS)
            && let Some(suppressed) = FULL.due(std::time::Instant::now())
        {
            tracing::warn!(suppressed, "the limit on active API keys is reached");
        }
        let cached = |key: ApiKey| match before.get(&key.key_id) {
            Some(cached) if cached.key == key => Arc::clone(cached),
            _ => Arc::new(CachedKey::new(key, self.reading.default_rate)),
        };
        keys.into_iter()
            .map(|key| (key.key_id, cached(key)))
            .collect()
    }

    fn log_refusals(&self) {
        let refused = self.signals.refused.swap(0, Ordering::Relaxed);
        if refused > 0 {
            tracing::warn!(refused, "calls without a valid API key were refused");
        }
    }
}

fn since_1970(at: OffsetDateTime) -> Option<Duration> {
    u64::try_from(at.unix_timestamp())
        .ok()
        .map(Duration::from_secs)
}

#[cfg(test)]
mod tests;
