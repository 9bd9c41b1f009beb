//! An ingress for unit tests: a scripted broker, the embedded store, and a clock that can be set.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Method, Request},
    routing::get,
};
use roundtrip_broker::{
    Broker, Closed, Consumer, Message, PublishError, Queue, Route, SharedBroker, Status,
};
use roundtrip_egress::Loopback;
use roundtrip_journal::Journal;
use roundtrip_model::{Clock, KeyHash, SealingKeys, SystemClock, TokenKeys};
use roundtrip_store::{CachedChannels, SharedChannels, SharedStore};
use serde_json::{Value, json};
use tempfile::TempDir;
use time::OffsetDateTime;
use tower::ServiceExt;

use crate::{CallbackAuth, Config, Ingress, KeySettings, Parts};

/// The longest response that is read.
const MAX_ANSWER: usize = 1 << 22;

/// 32 zero bytes.
const SEALING_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// What the broker does with the next messages.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Mood {
    #[default]
    Takes,
    IsUnavailable,
    /// Takes them, but the confirm is lost.
    Unconfirmed,
    NeverAnswers,
}

#[derive(Debug, Default)]
pub(crate) struct FakeBroker {
    mood: Mutex<Mood>,
    taken: Mutex<Vec<String>>,
}

impl FakeBroker {
    pub(crate) fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap_or_else(PoisonError::into_inner) = mood;
    }

    /// The ids of the messages that were enqueued.
    pub(crate) fn taken(&self) -> Vec<String> {
        self.taken.lock().unwrap().clone()
    }
}

#[async_trait]
impl Broker for FakeBroker {
    async fn publish(&self, route: Route<'_>, message: Message) -> Result<(), PublishError> {
        if route.queue() != Queue::Outbound {
            return Ok(());
        }
        let mood = *self.mood.lock().unwrap();
        // Lets the waiting requests start.
        tokio::task::yield_now().await;
        match mood {
            Mood::IsUnavailable => return Err(PublishError::Unavailable("scripted".to_owned())),
            Mood::NeverAnswers => return std::future::pending().await,
            Mood::Takes | Mood::Unconfirmed => self.taken.lock().unwrap().push(message.id),
        }
        match mood {
            Mood::Unconfirmed => Err(PublishError::Unconfirmed),
            _ => Ok(()),
        }
    }

    async fn consume(&self, _queue: Queue, _window: u16) -> Result<Box<dyn Consumer>, Closed> {
        Err(Closed)
    }

    fn status(&self) -> Status {
        Status::Ready
    }

    async fn ready(&self, _queue: Queue) -> Result<u64, PublishError> {
        Ok(0)
    }

    async fn close(&self) {}
}

/// The machine's clock plus an offset. Not an arbitrary time: the store forgets old rows.
#[derive(Debug, Default)]
pub(crate) struct SetClock(AtomicI64);

impl SetClock {
    pub(crate) fn advance(&self, by: Duration) {
        let seconds = i64::try_from(by.as_secs()).unwrap();
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }
}

impl Clock for SetClock {
    fn now(&self) -> OffsetDateTime {
        SystemClock.now() + time::Duration::seconds(self.0.load(Ordering::Relaxed))
    }
}

pub(crate) struct Bench {
    pub(crate) broker: Arc<FakeBroker>,
    pub(crate) store: SharedStore,
    pub(crate) clock: Arc<SetClock>,
    router: Router,
    _folder: TempDir,
}

/// The operator's key in the configuration, where keys are required.
pub(crate) const OPERATOR_KEY: &str = "the-operators-own-key-of-32-bytes-or-more";

pub(crate) struct TestResponse {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl TestResponse {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }
}

impl Bench {
    /// With a channel `c`, and no keys required.
    pub(crate) async fn new() -> Self {
        Self::made(KeySettings::default()).await
    }

    /// With a channel `c`, and keys required.
    pub(crate) async fn in_production() -> Self {
        Self::made(KeySettings {
            required: true,
            operator: Some(KeyHash::of(OPERATOR_KEY)),
            time_to_live: Duration::from_secs(5),
        })
        .await
    }

    async fn made(keys: KeySettings) -> Self {
        // As in development: a route beside the API's.
        let more = Router::new().route("/dev/beside", get(async || "beside"));
        let folder = tempfile::tempdir().unwrap();
        let broker = Arc::new(FakeBroker::default());
        let clock = Arc::new(SetClock::default());
        let config = roundtrip_store::Config {
            url: format!("sqlite:{}", folder.path().join("store.db").display()),
            ..roundtrip_store::Config::default()
        };
        let store = roundtrip_store::open(&config).await.unwrap();
        let channels = Arc::clone(&store) as SharedChannels;
        let guard = roundtrip_egress::Config::default().guard(Loopback::Refused);
        let parts = Parts {
            broker: Arc::clone(&broker) as SharedBroker,
            store: Arc::clone(&store),
            channel_cache: Arc::new(CachedChannels::new(channels, &config)),
            journal: Journal::start(Arc::clone(&broker) as SharedBroker),
            tokens: TokenKeys::new([&[7; 32][..]]).unwrap(),
            callback_auth: CallbackAuth::Open,
            sealing: SealingKeys::parse([SEALING_KEY]).unwrap(),
            own_response_url: "http://gateway.example/webhook-response".into(),
            keys,
            guard: Arc::new(guard.unwrap()),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
        };
        let bench = Self {
            broker,
            store,
            clock,
            router: Ingress::new(Config::default(), parts).router(more),
            _folder: folder,
        };
        bench.add_channel("c").await;
        bench
    }

    pub(crate) async fn add_channel(&self, id: &str) {
        let metadata = json!({"endpoint_url": "http://h/"});
        let channel = json!({"channel_id": id, "channel_metadata": metadata});
        let channel = serde_json::from_value(channel).unwrap();
        self.store.create(&channel).await.unwrap();
    }

    /// Posts JSON, unless the headers name another type.
    pub(crate) async fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<String>,
    ) -> TestResponse {
        self.request(Method::POST, path, headers, body).await
    }

    /// Makes any request, as [`Bench::post`] does.
    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<String>,
    ) -> TestResponse {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/json");
        }
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "localhost");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.into())).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = to_bytes(body, MAX_ANSWER).await.unwrap();
        TestResponse {
            status: head.status.as_u16(),
            headers: head.headers,
            text: String::from_utf8(body.to_vec()).unwrap(),
        }
    }
}
