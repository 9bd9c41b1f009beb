//! A short-lived cache of channels.
//!
//! A channel in use is read again in the background before its time to live ends. Callers wait for
//! the store only for a channel that was not used recently.
//!
//! Invariant: while the store is available, a channel is never older than the cache's time to live.
//! While it is unavailable, the last known channel is served, however old. A deleted channel is
//! removed from the cache too.
//!
//! The cache is bounded in bytes and keeps only what a delivery needs. On request it also reads the
//! signing secrets, and decrypts each once for the time to live; and until when a channel is held.

use std::{
    collections::HashSet,
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use moka::{future::Cache, ops::compute::Op};
use roundtrip_model::{ChannelId, SealingKeys, config::chain};
use time::OffsetDateTime;
use tokio::{sync::Mutex, time::Instant, try_join};
use tracing::{info, warn};

use crate::{
    ChannelError, Config, DeliveryTarget, SharedChannels, SharedSecrets, WaitingRoom,
    secrets::{self, Signing},
};

pub struct CachedChannels {
    store: SharedChannels,
    secrets: Option<(SharedSecrets, SealingKeys)>,
    waiting: Option<Arc<dyn WaitingRoom>>,
    /// The channels whose secret could not be decrypted at the last read, up to [`MAX_COUNTED`].
    unreadable: parking_lot::Mutex<HashSet<ChannelId>>,
    known: Cache<ChannelId, CachedRead>,
    time_to_live: Duration,
    is_unavailable: AtomicBool,
    /// Held by the only read that probes an unavailable store. The other reads do not wait for it.
    trying: Mutex<()>,
}

#[derive(Debug)]
pub struct KnownChannel {
    pub target: DeliveryTarget,
    /// How deliveries are signed; unsigned if the cache does not read secrets.
    pub signing: Signing,
    /// Until when the channel is held; see [`WaitingRoom::held_until`]. `None` if the cache does not
    /// read it.
    pub held_until: Option<OffsetDateTime>,
}

/// The most channels that [`CachedChannels::unreadable_secrets`] counts.
const MAX_COUNTED: usize = 1000;

/// The size of an entry without its URL and its schedule: its id, a [`KnownChannel`] with the most
/// secrets, and the cache's own data.
const ENTRY_BYTES: usize = 2048;

impl KnownChannel {
    fn bytes(&self) -> usize {
        let endpoint = self.target.endpoint.as_ref();
        let url = endpoint.map_or(0, |url| url.as_str().len());
        let schedule = self.target.settings.retry_schedule.as_deref();
        ENTRY_BYTES + url + schedule.map_or(0, size_of_val)
    }
}

/// When a channel is read again, as a fraction of its time to live. Random, so that channels that
/// were read together do not stay in step.
const READ_AGAIN: Range<f64> = 0.6..0.9;

/// The result of a channel's last read. A failure is never fresh: it is only for the callers that
/// waited for that read.
#[derive(Clone)]
struct CachedRead {
    read: Result<Arc<KnownChannel>, ChannelError>,
    again_from: Instant,
    fresh_until: Instant,
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
    #[must_use]
    pub fn new(store: SharedChannels, config: &Config) -> Self {
        Self {
            store,
            secrets: None,
            waiting: None,
            unreadable: parking_lot::Mutex::default(),
            known: Cache::builder()
                .weigher(|_, known: &CachedRead| {
                    let bytes = known
                        .read
                        .as_ref()
                        .map_or(ENTRY_BYTES, |known| known.bytes());
                    u32::try_from(bytes).unwrap_or(u32::MAX)
                })
                .max_capacity(config.cache_bytes)
                .build(),
            time_to_live: config.cache_ttl,
            is_unavailable: AtomicBool::new(false),
            trying: Mutex::new(()),
        }
    }

    /// Also reads the signing secrets from this store, and decrypts them with these keys.
    #[must_use]
    pub fn with_secrets(mut self, secrets: SharedSecrets, keys: SealingKeys) -> Self {
        self.secrets = Some((secrets, keys));
        self
    }

    /// Also reads until when channels are held.
    #[must_use]
    pub fn with_held_until(mut self, waiting: Arc<dyn WaitingRoom>) -> Self {
        self.waiting = Some(waiting);
        self
    }

    /// How many channels have a secret that cannot be decrypted, up to [`MAX_COUNTED`]. Their
    /// messages are snoozed.
    pub fn unreadable_secrets(&self) -> usize {
        self.unreadable.lock().len()
    }

    /// The store itself, for reads that must bypass the cache.
    #[must_use]
    pub fn store(&self) -> &SharedChannels {
        &self.store
    }

    /// The channel with this id. The store is unavailable only for a channel that is not in the
    /// cache.
    pub async fn get(self: &Arc<Self>, id: &ChannelId) -> Result<Arc<KnownChannel>, ChannelError> {
        let last = self.known.get(id).await;
        if let Some(known) = &last
            && let Ok(channel) = &known.read
        {
            let now = Instant::now();
            let is_fresh = now < known.fresh_until;
            if is_fresh && now >= known.again_from && !known.read_again.swap(true, Relaxed) {
                tokio::spawn(Arc::clone(self).refresh(id.clone(), known.clone()));
            }
            if is_fresh || (self.is_unavailable() && self.trying.try_lock().is_err()) {
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
                Err(error)
            }
        }
    }

    /// The channel with this id, read from the store, for a caller that needs a newer one than the
    /// cache has.
    pub async fn get_now(&self, id: &ChannelId) -> Result<Arc<KnownChannel>, ChannelError> {
        let read = Arc::new(self.read_now(id).await?);
        self.known
            .insert(id.clone(), self.fresh(Ok(Arc::clone(&read))))
            .await;
        Ok(read)
    }

    /// Removes a channel from the cache, after this process wrote it. A read that has already
    /// started may still return the old channel, for at most the time to live.
    pub async fn forget(&self, id: &ChannelId) {
        self.known.invalidate(id).await;
    }

    /// Reads a channel again while it is still fresh. If it was removed meanwhile it stays removed,
    /// because this read may be older than the write.
    async fn refresh(self: Arc<Self>, id: ChannelId, last: CachedRead) {
        let known = self.read(&id, None).await;
        self.known
            .entry_by_ref(&id)
            .and_compute_with(|entry| async move {
                let is_last = |known: &CachedRead| Arc::ptr_eq(&known.read_again, &last.read_again);
                match (&known.read, entry) {
                    (_, None) => Op::Nop,
                    (_, Some(entry)) if !is_last(entry.value()) => Op::Nop,
                    (Ok(_), _) => Op::Put(known),
                    // The cached channel stays. The next caller after its time to live tries the
                    // store.
                    (Err(ChannelError::Unavailable(_)), _) => Op::Nop,
                    (Err(_), _) => Op::Remove,
                }
            })
            .await;
    }

    async fn read(&self, id: &ChannelId, last: Option<Arc<KnownChannel>>) -> CachedRead {
        // Only taken while the store is unavailable, so that normal reads run concurrently.
        let _trying = if self.is_unavailable() {
            self.trying.try_lock().ok()
        } else {
            None
        };
        let read = match (self.read_now(id).await, last) {
            (Ok(found), _) => {
                self.note_unavailable(None);
                Ok(Arc::new(found))
            }
            (Err(error @ ChannelError::Unavailable(_)), last) => {
                self.note_unavailable(Some(&error));
                last.ok_or(error)
            }
            (Err(error), _) => {
                self.note_unavailable(None);
                Err(error)
            }
        };
        self.fresh(read)
    }

    fn fresh(&self, read: Result<Arc<KnownChannel>, ChannelError>) -> CachedRead {
        let now = Instant::now();
        CachedRead {
            again_from: now + self.time_to_live.mul_f64(rand::random_range(READ_AGAIN)),
            // This also holds for a stale channel, so that an unavailable store is not asked at
            // every call.
            fresh_until: now + self.time_to_live,
            read,
            read_again: Arc::default(),
        }
    }

    async fn read_now(&self, id: &ChannelId) -> Result<KnownChannel, ChannelError> {
        let read = try_join!(
            self.store.target(id),
            self.read_signing(id),
            self.read_held_until(id)
        );
        let known = read.map(|(target, signing, held_until)| KnownChannel {
            target,
            signing,
            held_until,
        });
        self.count_unreadable(id, &known);
        known
    }

    async fn read_signing(&self, id: &ChannelId) -> Result<Signing, ChannelError> {
        let Some((secrets, keys)) = &self.secrets else {
            return Ok(Signing::Unsigned);
        };
        Ok(secrets::open(id, &secrets.secrets(id).await?, keys))
    }

    async fn read_held_until(
        &self,
        id: &ChannelId,
    ) -> Result<Option<OffsetDateTime>, ChannelError> {
        let Some(waiting) = &self.waiting else {
            return Ok(None);
        };
        Ok(waiting.held_until(id).await?)
    }

    fn count_unreadable(&self, id: &ChannelId, read: &Result<KnownChannel, ChannelError>) {
        let mut unreadable = self.unreadable.lock();
        match read {
            Err(ChannelError::Unavailable(_)) => {}
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

    /// Removes a failure, because the channel may be created at any time.
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

    pub fn is_unavailable(&self) -> bool {
        self.is_unavailable.load(Relaxed)
    }

    fn note_unavailable(&self, error: Option<&ChannelError>) {
        let was_unavailable = self.is_unavailable.swap(error.is_some(), Relaxed);
        match (was_unavailable, error) {
            (false, Some(error)) => {
                warn!(
                    error = chain(error),
                    "the store is unavailable; cached channels stay in use"
                );
            }
            (true, None) => info!("the store is available again"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
