use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use roundtrip_broker::Handler;
use roundtrip_doubles::observed_journal;
use roundtrip_egress::{Egress, Loopback};
use roundtrip_model::{
    Channel, ChannelPatch, Decision, SealingKeys, Signer, SigningSecret, TokenKeys,
    retry::DEFAULT_SCHEDULE, token::MIN_SECRET_BYTES,
};
use roundtrip_notices::Notices;
use roundtrip_store::{
    CachedChannels, ChannelError, ChannelPage, Channels, DeliveryTarget, Filter, PageRequest,
    QueryError, SealedSecret, Secrets, SecretsError, Unavailable, Version, Versioned,
};
use rstest::rstest;
use serde_json::{Value, json};
use time::{OffsetDateTime, macros::datetime};
use tokio::{net::TcpListener, sync::mpsc};

use super::*;
use crate::{Config, ResponseUrls};

const NOW: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);
const MESSAGE: &str = r#"{"message_id":"msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f","channel_id":"slack-sim","session_id":"abc123","message":{"n":12345678901234567890.10},"response_url":"http://localhost:8000/webhook-response"}"#;

type Target = Result<DeliveryTarget, ChannelError>;

/// A store that reads every channel like this.
struct Store(Box<dyn Fn(&ChannelId) -> Target + Send + Sync>);

#[async_trait]
impl Channels for Store {
    async fn target(&self, id: &ChannelId) -> Target {
        self.0(id)
    }

    async fn get(&self, _: &ChannelId) -> Result<Versioned, ChannelError> {
        unreachable!("a dispatcher reads targets")
    }

    async fn set_paused(
        &self,
        id: &ChannelId,
        _: Option<&ChannelUid>,
        _: bool,
    ) -> Result<Versioned, ChannelError> {
        self.0(id)?;
        Err(Unavailable::new("it only reads").into())
    }

    async fn create(&self, _: &Channel) -> Result<Version, ChannelError> {
        unreachable!("a dispatcher only reads")
    }

    async fn update(
        &self,
        _: &ChannelId,
        _: &ChannelPatch,
        _: Option<&Version>,
    ) -> Result<Versioned, ChannelError> {
        Err(Unavailable::new("it only reads").into())
    }

    async fn delete(&self, _: &ChannelId, _: Option<&Version>) -> Result<(), ChannelError> {
        unreachable!("a dispatcher only reads")
    }

    async fn query(&self, _: &Filter, _: &PageRequest) -> Result<ChannelPage, QueryError> {
        unreachable!("a dispatcher only reads")
    }

    async fn ping(&self) -> Result<(), Unavailable> {
        unreachable!("a dispatcher only reads")
    }
}

/// A channel with this `uid` and endpoint.
fn target(uid: &str, endpoint_url: &Value) -> DeliveryTarget {
    let metadata = [("endpoint_url".to_owned(), endpoint_url.clone())];
    let uid = String::from(uid).into();
    DeliveryTarget::new(uid, &metadata.into_iter().collect())
}

fn store(target: impl Fn(&ChannelId) -> Target + Send + Sync + 'static) -> CachedChannels {
    let store = Store(Box::new(target));
    CachedChannels::new(Arc::new(store), &roundtrip_store::Config::default())
}

type Request = (HeaderMap, Bytes);

/// A channel server that answers every request with this status.
async fn channel_server(status: u16) -> (Value, mpsc::UnboundedReceiver<Request>) {
    let (sender, requests) = mpsc::unbounded_channel();
    let status = StatusCode::from_u16(status).unwrap();
    let answer = move |State(sender): State<mpsc::UnboundedSender<Request>>,
                       headers: HeaderMap,
                       body: Bytes| async move {
        let _ = sender.send((headers, body));
        (status, "from the channel")
    };
    let app = Router::new().fallback(answer).with_state(sender);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/incoming", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, app).await });
    (json!(url), requests)
}

fn dispatcher(channels: CachedChannels) -> Pipeline<Dispatcher> {
    let own = "https://gw.example/webhook-response".parse().unwrap();
    let keys = TokenKeys::new([&[7; MIN_SECRET_BYTES][..]]).unwrap();
    let response_urls = ResponseUrls::new(own, keys, Duration::from_hours(1));
    let (journal, _entries) = observed_journal();
    let egress = Egress::new(&roundtrip_egress::Config::default(), Loopback::Allowed).unwrap();
    let dispatcher = Dispatcher::pipeline(
        &Config::default(),
        Arc::new(channels),
        Arc::new(egress),
        response_urls,
        journal,
        Notices::off(),
        Arc::new(NOW),
    );
    dispatcher.unwrap()
}

fn message(body: &'static str, attempts: u32) -> Message {
    Message {
        id: "msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f".to_owned(),
        attempts,
        replay_count: 0,
        accepted_at: NOW,
        dead: None,
        waiting: None,
        body: bytes::Bytes::from_static(body.as_bytes()),
    }
}

/// What a dispatcher decides whose channel is at a server that answers with this status. The
/// default schedule has no further attempt.
async fn decide_after_the_last_attempt(status: u16) -> Decision {
    let (url, _requests) = channel_server(status).await;
    decide_the_last_attempt(store(move |_| Ok(target("now", &url)))).await
}

async fn decide_the_last_attempt(channels: CachedChannels) -> Decision {
    let dispatcher = dispatcher(channels);
    let attempts = u32::try_from(DEFAULT_SCHEDULE.len()).unwrap();
    dispatcher.handle(&message(MESSAGE, attempts)).await
}

#[track_caller]
fn reason(decision: Decision) -> DeadReason {
    match decision {
        Decision::DeadLetter(reason) | Decision::Reject(reason) => reason,
        other => panic!("{other:?}"),
    }
}

/// It may be delivered long after its acceptance.
#[tokio::test]
async fn the_token_of_a_scheduled_message_lasts_from_its_time() {
    let (url, mut requests) = channel_server(200).await;
    let dispatcher = dispatcher(store(move |_| Ok(target("now", &url))));
    let deliver_at = NOW + Duration::from_hours(10);
    let millis = roundtrip_model::millis::of(deliver_at);
    let body = MESSAGE
        .replace("http://localhost:8000/", "https://gw.example/")
        .replacen('{', &format!(r#"{{"deliver_at":{millis},"#), 1);
    let scheduled = Message {
        body: body.into(),
        ..message("", 0)
    };
    assert_eq!(dispatcher.handle(&scheduled).await, Decision::Done);
    let (_, body) = requests.recv().await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let url: Url = body["response_url"].as_str().unwrap().parse().unwrap();
    let (_, token) = url.query_pairs().next().unwrap();
    let keys = TokenKeys::new([&[7; MIN_SECRET_BYTES][..]]).unwrap();
    let ends_at = deliver_at + Duration::from_hours(1);
    assert!(keys.check(&token, ends_at - Duration::from_secs(1)).is_ok());
    assert!(keys.check(&token, ends_at).is_err());
}

/// The message's own limit, or else the channel's, if the answers come to the gateway.
#[rstest]
#[case::of_the_channel(None, "https://gw.example/webhook-response", Some(3))]
#[case::of_the_message(Some(5), "https://gw.example/webhook-response", Some(5))]
#[case::elsewhere(Some(5), "https://producer.example/", None)]
#[tokio::test]
async fn the_limit_of_a_message_precedes_that_of_its_channel(
    #[case] of_message: Option<u64>,
    #[case] response_url: &str,
    #[case] seconds: Option<u64>,
) {
    let metadata = json!({"endpoint_url": "http://h/", "delivery": {"answer_within": "3s"}});
    let metadata = metadata.as_object().unwrap().clone();
    let target = DeliveryTarget::new(String::from("now").into(), &metadata);
    let channels = Arc::new(store(move |_| Ok(target.clone())));
    let id = "slack-sim".parse().unwrap();
    let known = channels.get(&id).await.unwrap();
    let own = "https://gw.example/webhook-response".parse().unwrap();
    let keys = TokenKeys::new([&[7; MIN_SECRET_BYTES][..]]).unwrap();
    let role = Dispatcher {
        channels,
        response_urls: ResponseUrls::new(own, keys, Duration::from_hours(1)),
        max_in_flight: 1,
        snooze: Duration::ZERO,
        snoozes: Mutex::default(),
        notices: Notices::off(),
    };
    let payload = MESSAGE.replace("http://localhost:8000/webhook-response", response_url);
    let mut payload: OutboundMessage = serde_json::from_str(&payload).unwrap();
    payload.answer_within_ms = of_message.map(|seconds| seconds * 1000);
    let destination = Destination {
        url: "http://h/".parse().unwrap(),
        known,
    };
    let request = role
        .request(&message("", 0), &payload, &destination)
        .unwrap();
    let expected = seconds.map(|seconds| AnswerDue {
        within: Duration::from_secs(seconds),
        until: NOW + Duration::from_hours(1),
    });
    assert_eq!(request.answer, expected);
}

#[tokio::test]
async fn the_last_attempt_of_the_schedule_is_the_last() {
    let detail = "9 attempts failed; the last: answered 500: from the channel";
    assert_eq!(
        reason(decide_after_the_last_attempt(500).await),
        DeadReason::new(DeadKind::AttemptsExhausted, detail)
    );
}

#[tokio::test]
async fn a_message_whose_endpoint_is_gone_waits_also_after_its_last_attempt() {
    let waits = Decision::Snooze(Config::default().snooze);
    assert_eq!(decide_after_the_last_attempt(410).await, waits);
}

#[tokio::test]
async fn the_last_attempt_ends_a_message_whose_gone_channel_cannot_be_paused() {
    let (url, _requests) = channel_server(410).await;
    let was_read = AtomicBool::new(false);
    let is_deleted_after_the_first_read = store(move |id| {
        if was_read.swap(true, Ordering::Relaxed) {
            return Err(ChannelError::NotFound(id.clone()));
        }
        Ok(target("now", &url))
    });
    let dead = decide_the_last_attempt(is_deleted_after_the_first_read).await;
    assert_eq!(reason(dead).kind, DeadKind::AttemptsExhausted);
}

/// A dispatcher may have a deleted channel in its cache when the first message for its successor
/// comes.
#[tokio::test]
async fn a_message_for_a_channel_that_is_not_known_yet_is_no_dead_letter() {
    let (url, mut requests) = channel_server(200).await;
    let is_replaced = Arc::new(AtomicBool::new(false));
    let replaced = Arc::clone(&is_replaced);
    let dispatcher = dispatcher(store(move |_| {
        let is_replaced = replaced.load(Ordering::Relaxed);
        Ok(target(if is_replaced { "now" } else { "before" }, &url))
    }));
    let for_uid = |uid: &str| Message {
        body: MESSAGE
            .replacen('{', &format!(r#"{{"channel_uid":"{uid}","#), 1)
            .into(),
        ..message("", 0)
    };
    assert_eq!(dispatcher.handle(&for_uid("before")).await, Decision::Done);
    is_replaced.store(true, Ordering::Relaxed);
    assert_eq!(dispatcher.handle(&for_uid("now")).await, Decision::Done);
    let dead = dispatcher.handle(&for_uid("before")).await;
    assert_eq!(reason(dead).kind, DeadKind::UnknownChannel);
    for _ in 0..2 {
        assert!(requests.try_recv().is_ok());
    }
}

#[rstest]
#[case::no_url(|| Ok(target("now", &Value::Null)), "channel_metadata.endpoint_url: is required")]
#[case::no_channel(
    || Err(ChannelError::Unreadable { id: "slack-sim".to_owned(), problem: "its id is none".to_owned() }),
    "the stored document of 'slack-sim' is no channel: its id is none"
)]
#[tokio::test]
async fn a_message_whose_channel_cannot_be_posted_to_is_dead(
    #[case] target: fn() -> Target,
    #[case] detail: &str,
) {
    let dispatcher = dispatcher(store(move |_| target()));
    let decision = dispatcher.handle(&message(MESSAGE, 0)).await;
    let dead = DeadReason::new(DeadKind::BadEndpoint, detail);
    assert_eq!(reason(decision), dead);
}

/// A store with these secrets for every channel.
struct Sealed(Vec<SealedSecret>);

#[async_trait]
impl Secrets for Sealed {
    async fn secrets(&self, _: &ChannelId) -> Result<Vec<SealedSecret>, Unavailable> {
        Ok(self.0.clone())
    }

    async fn replace_secrets(
        &self,
        _: &ChannelId,
        _: &[SealedSecret],
        _: &[SealedSecret],
    ) -> Result<(), SecretsError> {
        unreachable!("a dispatcher only reads")
    }
}

#[tokio::test]
async fn a_delivery_is_signed_by_the_secrets_that_open() {
    let keys = || SealingKeys::parse(["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]).unwrap();
    let seal = |(byte, owner): (u8, &str)| SealedSecret {
        sealed: keys().seal(&[byte; 32], owner, [byte; 12]).unwrap(),
        until_ms: None,
    };
    let of_another_channel = (3, "another");
    let secrets = [(1, "slack-sim"), (2, "slack-sim"), of_another_channel].map(seal);
    let (url, mut requests) = channel_server(200).await;
    let channels = store(move |_| Ok(target("now", &url)))
        .with_secrets(Arc::new(Sealed(secrets.to_vec())), keys());
    let decision = dispatcher(channels).handle(&message(MESSAGE, 0)).await;
    assert_eq!(decision, Decision::Done);
    let (headers, body) = requests.recv().await.unwrap();
    let older = (SigningSecret::new([2; 32]), None);
    let signer = Signer::new(&SigningSecret::new([1; 32]), [older]);
    let id = headers["webhook-id"].to_str().unwrap();
    assert_eq!(headers["webhook-signature"], signer.sign(id, NOW, &body));
}
