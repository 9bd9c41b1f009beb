use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use roundtrip_model::{KeyBounds, KeyRole, NewKey, SystemClock};
use roundtrip_store::{KeyError, Unavailable};
use time::OffsetDateTime;

use super::*;

const TIME_TO_LIVE: Duration = Duration::from_secs(5);
const MAX_AGE: Duration = Duration::from_mins(10);

/// A store of keys that can be unavailable and counts its reads.
#[derive(Default)]
struct Store {
    keys: Mutex<Vec<ApiKey>>,
    reads: AtomicU64,
    is_unavailable: AtomicBool,
}

impl Store {
    fn add(&self, rate_per_second: Option<u32>) -> ApiKeyId {
        let new = NewKey {
            name: "n".to_owned(),
            role: KeyRole::Viewer,
            channels: None,
            rate_per_second,
            expires_at: None,
        };
        let (key, _) = new.make([0; 32], SystemClock.now()).unwrap();
        let id = key.key_id;
        self.keys.lock().push(key);
        id
    }

    fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    fn set_unavailable(&self, is_unavailable: bool) {
        self.is_unavailable.store(is_unavailable, Ordering::Relaxed);
    }
}

#[async_trait]
impl ApiKeys for Store {
    async fn active_keys(&self, _: OffsetDateTime) -> Result<Vec<ApiKey>, Unavailable> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if self.is_unavailable.load(Ordering::Relaxed) {
            return Err(Unavailable::new("scripted"));
        }
        Ok(self.keys.lock().clone())
    }

    async fn create_key(&self, _: &ApiKey) -> Result<(), KeyError> {
        unreachable!("a snapshot makes no keys")
    }

    async fn key(&self, _: &ApiKeyId) -> Result<Option<ApiKey>, Unavailable> {
        unreachable!("a snapshot reads all keys at once")
    }

    async fn keys(
        &self,
        _: &KeyBounds,
        _: Option<&ApiKeyId>,
        _: u16,
    ) -> Result<Vec<ApiKey>, Unavailable> {
        unreachable!("a snapshot reads only active keys")
    }

    async fn revoke_key(
        &self,
        _: &ApiKeyId,
        _: OffsetDateTime,
    ) -> Result<Option<ApiKey>, Unavailable> {
        unreachable!("a snapshot revokes no key")
    }
}

fn key_snapshot(store: &Arc<Store>) -> ApiKeySnapshot {
    let reading = Reading {
        time_to_live: TIME_TO_LIVE,
        max_age: MAX_AGE,
        default_rate: None,
    };
    let store = Arc::clone(store) as Arc<dyn ApiKeys>;
    ApiKeySnapshot::start(store, Arc::new(SystemClock), reading)
}

async fn has(key_snapshot: &ApiKeySnapshot, id: ApiKeyId) -> bool {
    key_snapshot.find(id).await.unwrap().is_some()
}

#[tokio::test(start_paused = true)]
async fn a_known_key_costs_no_read() {
    let store = Arc::new(Store::default());
    let id = store.add(None);
    let key_snapshot = key_snapshot(&store);
    assert!(has(&key_snapshot, id).await);
    let reads = store.reads();
    for _ in 0..1000 {
        assert!(has(&key_snapshot, id).await);
    }
    assert_eq!(store.reads(), reads);
}

#[tokio::test(start_paused = true)]
async fn a_new_key_is_found() {
    let store = Arc::new(Store::default());
    let key_snapshot = key_snapshot(&store);
    assert!(!has(&key_snapshot, ApiKeyId::generate()).await);
    let id = store.add(None);
    assert!(has(&key_snapshot, id).await);
}

#[tokio::test(start_paused = true)]
async fn a_revoked_key_is_refused_within_the_time_to_live() {
    let store = Arc::new(Store::default());
    let id = store.add(None);
    let key_snapshot = key_snapshot(&store);
    assert!(has(&key_snapshot, id).await);
    store.keys.lock().clear();
    tokio::time::sleep(TIME_TO_LIVE + PAUSE).await;
    assert!(!has(&key_snapshot, id).await);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_invented_keys_causes_few_reads_and_delays_no_call() {
    let store = Arc::new(Store::default());
    let key_snapshot = Arc::new(key_snapshot(&store));
    let began = Instant::now();
    let found = futures::future::join_all((0..10_000).map(|_| {
        let key_snapshot = Arc::clone(&key_snapshot);
        tokio::spawn(async move { has(&key_snapshot, ApiKeyId::generate()).await })
    }))
    .await;
    assert!(found.into_iter().all(|found| !found.unwrap()));
    assert!(began.elapsed() < 4 * PAUSE, "{:?}", began.elapsed());
    assert!(store.reads() <= 5, "{}", store.reads());
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_unavailable_keys_are_used_until_they_are_too_old() {
    let store = Arc::new(Store::default());
    let (id, unknown) = (store.add(None), ApiKeyId::generate());
    let key_snapshot = key_snapshot(&store);
    assert!(has(&key_snapshot, id).await);
    store.set_unavailable(true);
    tokio::time::sleep(MAX_AGE / 2).await;
    assert!(has(&key_snapshot, id).await);
    // Another process with access to the store may have made it.
    assert!(key_snapshot.find(unknown).await.is_err());
    tokio::time::sleep(MAX_AGE).await;
    assert!(key_snapshot.find(id).await.is_err());
    store.set_unavailable(false);
    tokio::time::sleep(TIME_TO_LIVE + PAUSE).await;
    assert!(has(&key_snapshot, id).await);
    assert!(!has(&key_snapshot, unknown).await);
}

#[tokio::test(start_paused = true)]
async fn before_the_first_read_every_lookup_is_unavailable() {
    let store = Arc::new(Store::default());
    store.set_unavailable(true);
    let key_snapshot = key_snapshot(&store);
    assert!(key_snapshot.find(ApiKeyId::generate()).await.is_err());
    let id = store.add(None);
    store.set_unavailable(false);
    assert!(has(&key_snapshot, id).await);
}

#[tokio::test(start_paused = true)]
async fn a_rate_goes_on_when_keys_are_read_again() {
    let store = Arc::new(Store::default());
    let id = store.add(Some(10));
    let key_snapshot = key_snapshot(&store);
    let known = key_snapshot.find(id).await.unwrap().unwrap();
    let now = Instant::now();
    assert!((0..10).all(|_| known.take_rate(now).is_ok()));
    let reads = store.reads();
    key_snapshot.read_again().await;
    assert!(store.reads() > reads);
    let known = key_snapshot.find(id).await.unwrap().unwrap();
    assert!(known.take_rate(now).is_err());
    assert!(known.take_rate(now + Duration::from_secs(1)).is_ok());
}
