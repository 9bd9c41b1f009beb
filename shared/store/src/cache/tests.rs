use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use roundtrip_model::{Channel, ChannelPatch, ChannelUid};
use serde_json::json;
use tokio::{sync::Semaphore, time::advance};

use super::*;
use crate::{
    ChannelPage, Channels, Filter, PageRequest, QueryError, Unavailable, Version, Versioned,
};

const TTL: Duration = Duration::from_secs(5);

/// A store whose `get` returns what the test sets.
struct Fake {
    answer: std::sync::Mutex<ScriptedRead>,
    reads: AtomicUsize,
    /// Each read waits for a permit.
    may_read: Semaphore,
}

#[derive(Clone)]
enum ScriptedRead {
    Named(&'static str),
    Gone,
    Unavailable,
}

impl Fake {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            answer: std::sync::Mutex::new(ScriptedRead::Named("first")),
            reads: AtomicUsize::new(0),
            may_read: Semaphore::new(Semaphore::MAX_PERMITS),
        })
    }

    fn answers(&self, answer: ScriptedRead) {
        *self.answer.lock().unwrap() = answer;
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Channels for Fake {
    async fn target(&self, id: &ChannelId) -> Result<DeliveryTarget, ChannelError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.may_read.acquire().await.unwrap().forget();
        let answer = self.answer.lock().unwrap().clone();
        match answer {
            ScriptedRead::Named(name) => {
                let metadata = json!({"endpoint_url": format!("http://{name}/")});
                let uid = ChannelUid::from(name.to_owned());
                Ok(DeliveryTarget::new(uid, metadata.as_object().unwrap()))
            }
            ScriptedRead::Gone => Err(ChannelError::NotFound(id.clone())),
            ScriptedRead::Unavailable => Err(Unavailable::new("cut off").into()),
        }
    }

    async fn get(&self, _: &ChannelId) -> Result<Versioned, ChannelError> {
        unreachable!("the cache reads targets")
    }

    async fn set_paused(
        &self,
        _: &ChannelId,
        _: Option<&ChannelUid>,
        _: bool,
    ) -> Result<Versioned, ChannelError> {
        unreachable!("the cache only reads")
    }

    async fn create(&self, _: &Channel) -> Result<Version, ChannelError> {
        unreachable!("the cache only reads")
    }

    async fn update(
        &self,
        _: &ChannelId,
        _: &ChannelPatch,
        _: Option<&Version>,
    ) -> Result<Versioned, ChannelError> {
        unreachable!("the cache only reads")
    }

    async fn delete(&self, _: &ChannelId, _: Option<&Version>) -> Result<(), ChannelError> {
        unreachable!("the cache only reads")
    }

    async fn query(&self, _: &Filter, _: &PageRequest) -> Result<ChannelPage, QueryError> {
        unreachable!("the cache only reads")
    }

    async fn ping(&self) -> Result<(), Unavailable> {
        unreachable!("the cache only reads")
    }
}

fn cache(store: &Arc<Fake>) -> Arc<CachedChannels> {
    let config = Config {
        cache_ttl: TTL,
        ..Config::default()
    };
    let store = Arc::clone(store) as SharedChannels;
    Arc::new(CachedChannels::new(store, &config))
}

fn id() -> ChannelId {
    "c".parse().unwrap()
}

async fn name(cache: &Arc<CachedChannels>) -> String {
    host(&cache.get(&id()).await.unwrap())
}

fn host(known: &KnownChannel) -> String {
    let endpoint = known.target.endpoint.as_ref().unwrap();
    endpoint.host_str().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_channel_is_read_again_when_its_time_is_over() {
    let store = Fake::new();
    let cache = cache(&store);
    assert_eq!(name(&cache).await, "first");
    store.answers(ScriptedRead::Named("second"));
    advance(TTL / 2).await;
    assert_eq!(name(&cache).await, "first");
    advance(TTL / 2).await;
    assert_eq!(name(&cache).await, "second");
    assert_eq!(store.reads(), 2);
}

#[tokio::test(start_paused = true)]
async fn many_who_ask_at_once_are_one_read() {
    let store = Fake::new();
    let cache = cache(&store);
    for round in 1..=2 {
        store.may_read.forget_permits(Semaphore::MAX_PERMITS);
        let all = futures::future::join_all((0..100).map(|_| name(&cache)));
        let release = async {
            tokio::task::yield_now().await;
            store.may_read.add_permits(1);
        };
        let (names, ()) = tokio::join!(all, release);
        assert_eq!(names, vec!["first"; 100]);
        assert_eq!(store.reads(), round);
        // Now the channel is cached and stale.
        advance(TTL).await;
    }
}

#[tokio::test(start_paused = true)]
async fn through_an_outage_the_last_known_is_served_at_any_age() {
    let store = Fake::new();
    let cache = cache(&store);
    assert_eq!(name(&cache).await, "first");
    store.answers(ScriptedRead::Unavailable);
    for _ in 0..3 {
        advance(Duration::from_hours(24)).await;
        assert_eq!(name(&cache).await, "first");
    }
    store.answers(ScriptedRead::Named("second"));
    advance(TTL).await;
    assert_eq!(name(&cache).await, "second");
}

#[tokio::test(start_paused = true)]
async fn during_an_outage_few_calls_read_the_store() {
    let store = Fake::new();
    let cache = cache(&store);
    name(&cache).await;
    store.answers(ScriptedRead::Unavailable);
    advance(TTL).await;
    for _ in 0..100 {
        name(&cache).await;
    }
    assert_eq!(store.reads(), 2);
}

#[tokio::test(start_paused = true)]
async fn one_read_probes_an_unavailable_store_and_others_do_not_wait() {
    let store = Fake::new();
    let cache = cache(&store);
    name(&cache).await;
    store.answers(ScriptedRead::Unavailable);
    advance(TTL).await;
    name(&cache).await;
    advance(TTL).await;

    store.may_read.forget_permits(Semaphore::MAX_PERMITS);
    let id = id();
    let trying = cache.get(&id);
    tokio::pin!(trying);
    assert!(futures::poll!(&mut trying).is_pending());
    assert_eq!(name(&cache).await, "first");
    store.may_read.add_permits(1);
    assert_eq!(host(&trying.await.unwrap()), "first");
}

#[tokio::test(start_paused = true)]
async fn an_uncached_channel_is_unavailable_with_the_store() {
    let store = Fake::new();
    let cache = cache(&store);
    store.answers(ScriptedRead::Unavailable);
    let refused = cache.get(&id()).await;
    assert!(
        matches!(refused, Err(ChannelError::Unavailable(_))),
        "{refused:?}"
    );
    store.answers(ScriptedRead::Named("first"));
    assert_eq!(name(&cache).await, "first");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_channel_is_read_again() {
    let store = Fake::new();
    let cache = cache(&store);
    name(&cache).await;
    store.answers(ScriptedRead::Gone);
    advance(TTL).await;
    let gone = cache.get(&id()).await;
    assert!(matches!(gone, Err(ChannelError::NotFound(_))), "{gone:?}");
    // Nothing is left to serve during an outage.
    store.answers(ScriptedRead::Unavailable);
    let unavailable = cache.get(&id()).await;
    assert!(
        matches!(unavailable, Err(ChannelError::Unavailable(_))),
        "{unavailable:?}"
    );
    store.answers(ScriptedRead::Named("new"));
    assert_eq!(name(&cache).await, "new");
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_channel_is_read_again() {
    let store = Fake::new();
    let cache = cache(&store);
    name(&cache).await;
    store.answers(ScriptedRead::Named("second"));
    cache.forget(&id()).await;
    assert_eq!(name(&cache).await, "second");
}

#[tokio::test(start_paused = true)]
async fn a_used_channel_is_read_again_before_it_expires() {
    let store = Fake::new();
    let cache = cache(&store);
    name(&cache).await;
    store.answers(ScriptedRead::Named("second"));
    store.may_read.forget_permits(Semaphore::MAX_PERMITS);
    advance(TTL.mul_f64(READ_AGAIN.end)).await;
    // No caller waits for that read, and there is one for any number of callers.
    for _ in 0..100 {
        assert_eq!(name(&cache).await, "first");
    }
    store.may_read.add_permits(1);
    while name(&cache).await != "second" {
        tokio::task::yield_now().await;
    }
    assert_eq!(store.reads(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_background_read_removes_a_deleted_channel() {
    let store = Fake::new();
    let cache = cache(&store);
    name(&cache).await;
    store.answers(ScriptedRead::Gone);
    advance(TTL.mul_f64(READ_AGAIN.end)).await;
    while cache.get(&id()).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(matches!(
        cache.get(&id()).await,
        Err(ChannelError::NotFound(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_failed_background_read_keeps_the_channel() {
    let store = Fake::new();
    let cache = cache(&store);
    name(&cache).await;
    store.answers(ScriptedRead::Unavailable);
    advance(TTL.mul_f64(READ_AGAIN.end)).await;
    while store.reads() < 2 {
        assert_eq!(name(&cache).await, "first");
        tokio::task::yield_now().await;
    }
    assert_eq!(name(&cache).await, "first");
}

#[tokio::test(start_paused = true)]
async fn a_forced_read_updates_the_cache() {
    let store = Fake::new();
    let cache = cache(&store);
    name(&cache).await;
    store.answers(ScriptedRead::Named("second"));
    assert_eq!(host(&cache.get_now(&id()).await.unwrap()), "second");
    assert_eq!(name(&cache).await, "second");
    assert_eq!(store.reads(), 2);
    // During an outage it fails, because the caller asked for more than the cached channel.
    store.answers(ScriptedRead::Unavailable);
    assert!(matches!(
        cache.get_now(&id()).await,
        Err(ChannelError::Unavailable(_))
    ));
    assert_eq!(name(&cache).await, "second");
}

#[tokio::test]
async fn known_channels_take_no_more_memory_than_they_may() {
    let config = Config {
        cache_bytes: 100 * ENTRY_BYTES as u64,
        ..Config::default()
    };
    // A URL as long as it may be weighs almost as much as the rest of its entry.
    let long = format!("h/{}", "x".repeat(2_000)).leak();
    for (name, expected) in [("short", 95..=100), (long, 45..=51)] {
        let store = Fake::new();
        store.answers(ScriptedRead::Named(name));
        let cache = Arc::new(CachedChannels::new(store as SharedChannels, &config));
        for channel in 0..500 {
            cache
                .get(&format!("c{channel}").parse().unwrap())
                .await
                .unwrap();
        }
        cache.known.run_pending_tasks().await;
        assert!(cache.known.weighted_size() <= config.cache_bytes);
        let entries = cache.known.entry_count();
        assert!(expected.contains(&entries), "{entries}");
    }
}
