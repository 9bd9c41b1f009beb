//! An ingress for unit tests: a scripted broker, the embedded store, and a clock that can be set.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Method, Request},
    routing::get,
};
use roundtrip_broker::{Queue, SharedBroker};
use roundtrip_doubles::FakeBroker;
use roundtrip_egress::Loopback;
use roundtrip_journal::Journal;
use roundtrip_model::{Clock, KeyHash, SealingKeys, SystemClock, TokenKeys};
use roundtrip_notices::Notices;
use roundtrip_store::{CachedChannels, SharedChannels, SharedSecrets, SharedStore};
use serde_json::{Value, json};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{CallbackAuth, Config, Ingress, KeySettings, Parts};

/// The longest response that is read.
const MAX_ANSWER: usize = 1 << 22;

/// 32 zero bytes.
pub(crate) const SEALING_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

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
        Self::with_limits(Config::default()).await
    }

    /// As [`Bench::new`], with these limits.
    pub(crate) async fn with_limits(limits: Config) -> Self {
        Self::made(limits, KeySettings::default()).await
    }

    /// With a channel `c`, and keys required.
    pub(crate) async fn in_production() -> Self {
        let keys = KeySettings {
            required: true,
            operator: Some(KeyHash::of(OPERATOR_KEY)),
            time_to_live: Duration::from_secs(5),
        };
        // So that the response to a client that follows a session ends.
        let limits = Config {
            max_follow: Duration::from_millis(1),
            ..Config::default()
        };
        Self::made(limits, keys).await
    }

    async fn made(limits: Config, keys: KeySettings) -> Self {
        // As in development: a route beside the API's.
        let more = Router::new().route("/dev/beside", get(async || "beside"));
        let folder = tempfile::tempdir().unwrap();
        let broker = Arc::new(FakeBroker::new(Queue::Outbound));
        let clock = Arc::new(SetClock::default());
        let config = roundtrip_store::Config {
            url: format!("sqlite:{}", folder.path().join("store.db").display()),
            ..roundtrip_store::Config::default()
        };
        let store = roundtrip_store::open(&config).await.unwrap();
        let channels = Arc::clone(&store) as SharedChannels;
        let guard = roundtrip_egress::Config::default().guard(Loopback::Refused);
        let sealing = SealingKeys::parse([SEALING_KEY]).unwrap();
        let channel_cache = CachedChannels::new(channels, &config)
            .with_secrets(Arc::clone(&store) as SharedSecrets, sealing.clone());
        let parts = Parts {
            broker: Arc::clone(&broker) as SharedBroker,
            store: Arc::clone(&store),
            channel_cache: Arc::new(channel_cache),
            journal: Journal::start(Arc::clone(&broker) as SharedBroker),
            tokens: TokenKeys::new([&[7; 32][..]]).unwrap(),
            callback_auth: CallbackAuth::Open,
            sealing,
            own_response_url: "http://gateway.example/webhook-response".into(),
            keys,
            guard: Arc::new(guard.unwrap()),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            notices: Notices::off(),
            stopping: CancellationToken::new(),
        };
        let bench = Self {
            broker,
            store,
            clock,
            router: Ingress::new(limits, parts).router(more),
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
