//! Known channels, kept for a moment.
//!
//! A channel that is asked for is read again before its time is over, beside those who ask: nobody
//! waits for the store but for a channel that was not asked for lately.
//!
//! Invariant: while the store answers, a channel is never older than the cache's time to live.
//! While the store is away, the last that is known is served, however old. A channel that the
//! store says is gone is gone here too.
//!
//! Of a channel only what a delivery needs is kept, and the cache has a bound in bytes. On request it
//! also reads what signs the deliveries, and opens it once for the time to live.

use std::{
    collections::HashSet,
    fmt,
    ops::Range,
    sync::{
        Arc, Mutex as StdMutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use moka::{future::Cache, ops::compute::Op};
use roundtrip_model::{ChannelId, SealingKeys};
use tokio::{sync::Mutex, time::Instant, try_join};
use tracing::{info, warn};

use crate::{
    Config, DeliveryTarget, SharedChannels, SharedSecrets, StoreError,
    secrets::{self, Signing},
};

/// Reads channels through a short-lived cache.
pub struct CachedChannels {
    store: SharedChannels,
    secrets: Option<(SharedSecrets, SealingKeys)>,
    /// The channels whose secret did not open when they were read last, as many as are counted.
    unreadable: StdMutex<HashSet<ChannelId>>,
    known: Cache<ChannelId, Known>,
    time_to_live: Duration,
    /// Whether the last read found the store away.
    is_away: AtomicBool,
    /// Held by the one read that tries a store which is away; the others do not wait with it.
    trying: Mutex<()>,
}

/// A channel as it was read last.
#[derive(Debug)]
pub struct KnownChannel {
    /// Where its messages go, and how it wants them.
    pub target: DeliveryTarget,
    /// How its deliveries are signed; not at all where the cache does not read secrets.
    pub signing: Signing,
}

/// The most channels that are counted whose secret does not open.
const MAX_COUNTED: usize = 1000;

/// What an entry takes beside its URL and its schedule: a [`KnownChannel`] with the most secrets, its
/// id, and what the cache itself keeps of an entry.
const ENTRY_BYTES: usize = 2048;

impl KnownChannel {
    /// About how much memory it takes.
    fn bytes(&self) -> usize {
        let endpoint = self.target.endpoint.as_ref();
        let url = endpoint.map_or(0, |url| url.as_str().len());
        let schedule = self.target.settings.retry_schedule.as_deref();
        ENTRY_BYTES + url + schedule.map_or(0, size_of_val)
    }
}

/// When a channel is read again, as a share of its time to live; drawn, so that channels which were
/// read together are not read together for ever.
const READ_AGAIN: Range<f64> = 0.6..0.9;

/// What the last read of a channel brought. A failure is never fresh: it is only there for those
/// who waited for that very read.
#[derive(Clone)]
struct Known {
    read: Result<Arc<KnownChannel>, Arc<StoreError>>,
    again_from: Instant,
    fresh_until: Instant,
    /// Whether it is being read again, or was.
    read_again: Arc<AtomicBool>,
}

impl fmt::Debug for CachedChannels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedChannels")
            .field("time_to_live", &self.time_to_live)
            .finish_non_exhaustive()
    }
}

impl CachedChannels {
    /// Reads this store through a cache.
    #[must_use]
    pub fn new(store: SharedChannels, config: &Config) -> Self {
        Self {
            store,
            secrets: None,
            unreadable: StdMutex::default(),
            known: Cache::builder()
                .weigher(|_, known: &Known| {
                    let bytes = known
                        .read
                        .as_ref()
                        .map_or(ENTRY_BYTES, |known| known.bytes());
                    u32::try_from(bytes).unwrap_or(u32::MAX)
                })
                .max_capacity(config.cache_bytes)
                .build(),
            time_to_live: config.cache_ttl,
            is_away: AtomicBool::new(false),
            trying: Mutex::new(()),
        }
    }

    /// Finds out besides how deliveries are signed: by these secrets, which these keys open.
    #[must_use]
    pub fn with_secrets(mut self, secrets: SharedSecrets, keys: SealingKeys) -> Self {
        self.secrets = Some((secrets, keys));
        self
    }

    /// How many channels have a secret that does not open, up to [`MAX_COUNTED`]: their messages wait.
    pub fn unreadable_secrets(&self) -> usize {
        let unreadable = self.unreadable.lock();
        unreadable.unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The store itself, for what may not come from the cache.
    #[must_use]
    pub fn store(&self) -> &SharedChannels {
        &self.store
    }

    /// The channel with this id.
    ///
    /// # Errors
    /// As for [`crate::Channels::target`]; [`StoreError::Away`] only where the channel is not known.
    pub async fn get(self: &Arc<Self>, id: &ChannelId) -> Result<Arc<KnownChannel>, StoreError> {
        let last = self.known.get(id).await;
        if let Some(known) = &last
            && let Ok(channel) = &known.read
        {
            let now = Instant::now();
            let is_fresh = now < known.fresh_until;
            if is_fresh && now >= known.again_from && !known.read_again.swap(true, Relaxed) {
                tokio::spawn(Arc::clone(self).refresh(id.clone(), known.clone()));
            }
            if is_fresh || (self.is_away() && self.trying.try_lock().is_err()) {
                return Ok(Arc::clone(channel));
            }
        }
        let last = last.and_then(|last| last.read.ok());
        let entry = self
            .known
            .entry_by_ref(id)
            .or_insert_with_if(self.read(id, last), |known| {
                known.read.is_err() || known.fresh_until <= Instant::now()
            })
            .await;
        match entry.into_value().read {
            Ok(channel) => Ok(channel),
            Err(error) => {
                self.drop_failure(id).await;
                Err(shared(&error))
            }
        }
    }

    /// The channel with this id as it is now, for a caller to whom the known one is not the right one.
    ///
    /// # Errors
    /// As for [`crate::Channels::target`].
    pub async fn get_now(&self, id: &ChannelId) -> Result<Arc<KnownChannel>, StoreError> {
        let read = Arc::new(self.read_now(id).await?);
        self.known
            .insert(id.clone(), self.fresh(Ok(Arc::clone(&read))))
            .await;
        Ok(read)
    }

    /// Forgets what is known of a channel, after it was written in this process. A read that is
    /// under way may still bring the old; it lasts no longer than the time to live.
    pub async fn forget(&self, id: &ChannelId) {
        self.known.invalidate(id).await;
    }

    /// Reads a channel again that is fresh still. What was forgotten meanwhile stays forgotten: this
    /// read may have come before the write.
    async fn refresh(self: Arc<Self>, id: ChannelId, last: Known) {
        let known = self.read(&id, None).await;
        self.known
            .entry_by_ref(&id)
            .and_compute_with(|entry| async move {
                let is_last = |known: &Known| Arc::ptr_eq(&known.read_again, &last.read_again);
                match (&known.read, entry) {
                    (_, None) => Op::Nop,
                    (_, Some(entry)) if !is_last(entry.value()) => Op::Nop,
                    (Ok(_), _) => Op::Put(known),
                    // What is known serves on; who asks when its time is over tries the store.
                    (Err(error), _) if matches!(**error, StoreError::Away(_)) => Op::Nop,
                    (Err(_), _) => Op::Remove,
                }
            })
            .await;
    }

    /// Reads the store, and falls back on what was known before.
    async fn read(&self, id: &ChannelId, last: Option<Arc<KnownChannel>>) -> Known {
        // Taken only while the store is away, so that healthy reads go side by side.
        let _trying = if self.is_away() {
            self.trying.try_lock().ok()
        } else {
            None
        };
        let read = match (self.read_now(id).await, last) {
            (Ok(found), _) => {
                self.note_away(None);
                Ok(Arc::new(found))
            }
            (Err(error @ StoreError::Away(_)), last) => {
                self.note_away(Some(&error));
                last.ok_or_else(|| Arc::new(error))
            }
            (Err(error), _) => {
                self.note_away(None);
                Err(Arc::new(error))
            }
        };
        self.fresh(read)
    }

    fn fresh(&self, read: Result<Arc<KnownChannel>, Arc<StoreError>>) -> Known {
        let now = Instant::now();
        Known {
            again_from: now + self.time_to_live.mul_f64(rand::random_range(READ_AGAIN)),
            // Also for what is served for want of better: the store is not asked at every call.
            fresh_until: now + self.time_to_live,
            read,
            read_again: Arc::default(),
        }
    }

    async fn read_now(&self, id: &ChannelId) -> Result<KnownChannel, StoreError> {
        let Some((secrets, keys)) = &self.secrets else {
            return Ok(KnownChannel {
                target: self.store.target(id).await?,
                signing: Signing::Unsigned,
            });
        };
        let read = try_join!(self.store.target(id), secrets.secrets(id));
        let known = read.map(|(target, sealed)| KnownChannel {
            target,
            signing: secrets::open(id, &sealed, keys),
        });
        self.count_unreadable(id, &known);
        known
    }

    fn count_unreadable(&self, id: &ChannelId, read: &Result<KnownChannel, StoreError>) {
        let unreadable = self.unreadable.lock();
        let mut unreadable = unreadable.unwrap_or_else(PoisonError::into_inner);
        match read {
            Err(StoreError::Away(_)) => {}
            Ok(known) if matches!(known.signing, Signing::Impossible) => {
                if unreadable.len() < MAX_COUNTED {
                    unreadable.insert(id.clone());
                }
            }
            _ => {
                unreadable.remove(id);
            }
        }
    }

    /// A failure is not kept: what is not there may come at any time.
    async fn drop_failure(&self, id: &ChannelId) {
        self.known
            .entry_by_ref(id)
            .and_compute_with(|entry| async move {
                match entry {
                    Some(entry) if entry.value().read.is_err() => Op::Remove,
                    _ => Op::Nop,
                }
            })
            .await;
    }

    fn is_away(&self) -> bool {
        self.is_away.load(Relaxed)
    }

    /// Says once when an outage begins and once when it ends.
    fn note_away(&self, error: Option<&StoreError>) {
        let was_away = self.is_away.swap(error.is_some(), Relaxed);
        match (was_away, error) {
            (false, Some(error)) => {
                warn!(
                    ?error,
                    "the store is away; known channels are served as they were"
                );
            }
            (true, None) => info!("the store is back"),
            _ => {}
        }
    }
}

/// The same error, for one of several who waited for the one read.
fn shared(error: &Arc<StoreError>) -> StoreError {
    match &**error {
        StoreError::NotFound(id) => StoreError::NotFound(id.clone()),
        StoreError::Unreadable { id, problem } => StoreError::Unreadable {
            id: id.clone(),
            problem: problem.clone(),
        },
        // `get` answers with no other.
        _ => StoreError::Away(Box::new(Shared(Arc::clone(error)))),
    }
}

/// An error that several were given.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Shared(Arc<StoreError>);

#[cfg(test)]
mod tests;
