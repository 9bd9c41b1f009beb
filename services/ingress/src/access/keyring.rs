//! The keys that are active, all of them, read every few seconds.
//!
//! All of them and not those that are asked for: what a stranger makes up is then known to be
//! nobody's without a look into the store, and there is nothing that a stranger could fill.
//!
//! Invariant: no call waits for the store, but one with a key that is not known, which may have
//! been made a moment ago; and of those no more than [`MAX_WAITING`] at once, for one read that
//! they share, of which there are no more than one in [`PAUSE`]. While the store is away the keys
//! are used as they were read, until they are too old.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use roundtrip_isolation::Rate;
use roundtrip_model::{ApiKey, ApiKeyId, Clock, LogThrottle};
use roundtrip_store::{ApiKeys, MAX_ACTIVE_KEYS, StoreError};
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

/// The least time from one read to the next.
const PAUSE: Duration = Duration::from_millis(250);

/// The most calls that wait at once for a key that is not known; the others take it for nobody's.
const MAX_WAITING: usize = 64;

/// How long a call waits. Longer than two reads may take by the store's usual time limit.
const WAIT: Duration = Duration::from_secs(5);

/// How often refused calls are logged, at the most.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Met by every read of the keys.
static FULL: LogThrottle = LogThrottle::every(Duration::from_mins(10));

/// The store is away, and what it last said is too old or does not have the key.
#[derive(Debug)]
pub(super) struct Away;

/// Has the keys.
pub(crate) struct Keyring {
    shared: Arc<Shared>,
    state: watch::Receiver<State>,
    waiting: Semaphore,
    max_age: Duration,
    reader: JoinHandle<()>,
}

impl Drop for Keyring {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").finish_non_exhaustive()
    }
}

struct Shared {
    /// Asks the reader not to wait until the keys are old.
    wanted: Notify,
    /// How many reads have begun.
    begun: AtomicU64,
    /// The calls that were refused since this was last logged.
    refused: AtomicU64,
}

/// What the reader has found.
#[derive(Clone, Default)]
struct State {
    keys: Arc<HashMap<ApiKeyId, Arc<Known>>>,
    /// When the read began that brought them; none where none has yet.
    read_at: Option<Instant>,
    /// How many reads have ended, whatever they brought.
    ended: u64,
    is_away: bool,
}

/// A key that is active, and how much it is used.
pub(crate) struct Known {
    pub(crate) key: ApiKey,
    rate: Option<Mutex<Rate>>,
}

impl Known {
    fn new(key: ApiKey, default_rate: Option<u32>) -> Self {
        let rate = key.rate_per_second.or(default_rate);
        let rate = rate.map(|rate| Mutex::new(Rate::new(rate.into(), Instant::now())));
        Self { key, rate }
    }

    /// Takes one call from the key's rate, or says how long until there is one.
    pub(super) fn blocked_for(&self, now: Instant) -> Option<Duration> {
        let rate = self.rate.as_ref()?;
        let mut rate = rate.lock().unwrap_or_else(PoisonError::into_inner);
        let blocked = rate.blocked_for(now);
        if blocked.is_none() {
            rate.take(now);
        }
        blocked
    }
}

/// How keys are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    /// How long they are used before they are read again.
    pub(crate) time_to_live: Duration,
    /// How long they are used while the store is away.
    pub(crate) max_age: Duration,
    /// The rate of a key that has none of its own.
    pub(crate) default_rate: Option<u32>,
}

impl Keyring {
    /// Begins to read. Must be called within a runtime.
    pub(crate) fn start(store: Arc<dyn ApiKeys>, clock: Arc<dyn Clock>, reading: Reading) -> Self {
        let shared = Arc::new(Shared {
            wanted: Notify::new(),
            begun: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let (told, state) = watch::channel(State::default());
        let reader = Reader {
            store,
            clock,
            reading,
            shared: Arc::clone(&shared),
            told,
        };
        Self {
            shared,
            state,
            waiting: Semaphore::new(MAX_WAITING),
            max_age: reading.max_age,
            reader: tokio::spawn(reader.run()),
        }
    }

    /// The active key with this id; none where there certainly is none.
    pub(super) async fn find(&self, id: ApiKeyId) -> Result<Option<Arc<Known>>, Away> {
        if let Some(known) = self.look(id)? {
            return Ok(Some(known));
        }
        // It may be newer than what was read.
        if let Ok(_permit) = self.waiting.try_acquire() {
            self.read_again().await;
        }
        match self.look(id)? {
            None if self.knows_no_better() => Err(Away),
            found => Ok(found),
        }
    }

    /// Why no key may be used now; none where some can be.
    pub(super) fn unready(&self) -> Option<&'static str> {
        match self.state.borrow().read_at {
            Some(read_at) if read_at.elapsed() <= self.max_age => None,
            Some(_) => Some("the API keys that were read are too old: the store is away"),
            None => Some("the API keys were not read yet"),
        }
    }

    /// Waits, for a while, until a read has ended that began after this call.
    pub(super) async fn read_again(&self) {
        let begun = self.shared.begun.load(Ordering::SeqCst);
        self.shared.wanted.notify_one();
        let mut state = self.state.clone();
        let next = state.wait_for(|state| state.ended > begun);
        // Whether it came in time shows in what is found then.
        let _ = timeout(WAIT, next).await;
    }

    /// Somebody came with no key, or none that is good. The reader logs how many.
    pub(super) fn count_refusal(&self) {
        self.shared.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a key that was not found may be there all the same.
    fn knows_no_better(&self) -> bool {
        let state = self.state.borrow();
        state.is_away || state.read_at.is_none()
    }

    fn look(&self, id: ApiKeyId) -> Result<Option<Arc<Known>>, Away> {
        let state = self.state.borrow();
        match state.read_at {
            Some(read_at) if read_at.elapsed() <= self.max_age => {
                Ok(state.keys.get(&id).map(Arc::clone))
            }
            Some(_) => Err(Away),
            // The process has just started.
            None => Ok(None),
        }
    }
}

/// Reads the keys, over and over.
struct Reader {
    store: Arc<dyn ApiKeys>,
    clock: Arc<dyn Clock>,
    reading: Reading,
    shared: Arc<Shared>,
    told: watch::Sender<State>,
}

impl Reader {
    async fn run(self) {
        let mut logged_at = Instant::now();
        loop {
            let began = Instant::now();
            self.shared.begun.fetch_add(1, Ordering::SeqCst);
            let read = self.store.active_keys(self.clock.now()).await;
            self.tell(began, read);
            if logged_at.elapsed() >= LOG_EVERY {
                logged_at = began;
                self.log_refusals();
            }
            sleep_until(began + PAUSE).await;
            let old = sleep_until(began + self.reading.time_to_live);
            tokio::select! {
                () = old => {}
                () = self.shared.wanted.notified() => {}
            }
        }
    }

    fn tell(&self, began: Instant, read: Result<Vec<ApiKey>, StoreError>) {
        // Made before anybody has to wait for it.
        let before = Arc::clone(&self.told.borrow().keys);
        let read = read.map(|keys| Arc::new(self.known(keys, &before)));
        self.told.send_modify(|state| {
            state.ended += 1;
            match read {
                Ok(keys) => {
                    if state.is_away {
                        tracing::info!("the store is back; the API keys were read");
                    }
                    state.is_away = false;
                    state.read_at = Some(began);
                    state.keys = keys;
                }
                Err(error) => {
                    if !state.is_away {
                        tracing::warn!(
                            ?error,
                            "the store is away; API keys are used as they were last read"
                        );
                    }
                    state.is_away = true;
                }
            }
        });
    }

    /// A key that was known stays the same one, or its rate would begin anew with each read.
    fn known(
        &self,
        keys: Vec<ApiKey>,
        before: &HashMap<ApiKeyId, Arc<Known>>,
    ) -> HashMap<ApiKeyId, Arc<Known>> {
        if keys.len() == usize::from(MAX_ACTIVE_KEYS)
            && let Some(suppressed) = FULL.due(std::time::Instant::now())
        {
            tracing::warn!(suppressed, "as many API keys are active as there can be");
        }
        let known = |key: ApiKey| match before.get(&key.key_id) {
            Some(known) if known.key == key => Arc::clone(known),
            _ => Arc::new(Known::new(key, self.reading.default_rate)),
        };
        keys.into_iter()
            .map(|key| (key.key_id, known(key)))
            .collect()
    }

    fn log_refusals(&self) {
        let refused = self.shared.refused.swap(0, Ordering::Relaxed);
        if refused > 0 {
            tracing::warn!(
                refused,
                "calls came without a key, or with one that is not good"
            );
        }
    }
}

#[cfg(test)]
mod tests;
