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
use roundtrip_egress::{Egress, Loopback};
use roundtrip_journal::Journal;
use roundtrip_model::{
    Channel, ChannelPatch, SealingKeys, Signer, SigningSecret, TokenKeys, journal::After,
    token::MIN_SECRET_BYTES,
};
use roundtrip_store::{
    CachedChannels, ChannelPage, Channels, DeliveryTarget, Filter, PageRequest, SealedSecret,
    Secrets, Version, Versioned,
};
use rstest::rstest;
use serde_json::{Value, json};
use time::{OffsetDateTime, macros::datetime};
use tokio::{net::TcpListener, sync::mpsc};

use super::*;
use crate::{Config, ResponseUrls};

/// By how much each snoozed message comes back later than the one before it.
const ONE_AT_THE_PACE: Duration = Duration::from_millis(5);

const NOW: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);
const MESSAGE: &str = r#"{"message_id":"msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f","channel_id":"slack-sim","session_id":"abc123","message":{"n":12345678901234567890.10},"response_url":"http://localhost:8000/webhook-response"}"#;

#[derive(Debug)]
struct Noon;

impl Clock for Noon {
    fn now(&self) -> OffsetDateTime {
        NOW
    }
}

/// A store that gives the same answer for every channel.
enum Store {
    Holds(Channel),
    /// The same, but another channel has this id once the flag is set.
    Replaces(Channel, Arc<AtomicBool>),
    HoldsNothing,
    HoldsNoChannel,
    IsUnavailable,
}

#[async_trait]
impl Channels for Store {
    async fn target(&self, id: &ChannelId) -> Result<DeliveryTarget, StoreError> {
        match self {
            Self::Holds(channel) => Ok(DeliveryTarget::new(
                String::from("now").into(),
                &channel.channel_metadata,
            )),
            Self::Replaces(channel, is_replaced) => {
                let is_replaced = is_replaced.load(Ordering::Relaxed);
                let uid = if is_replaced { "now" } else { "before" };
                let uid = String::from(uid).into();
                Ok(DeliveryTarget::new(uid, &channel.channel_metadata))
            }
            Self::HoldsNothing => Err(StoreError::NotFound(id.clone())),
            Self::HoldsNoChannel => Err(StoreError::Unreadable {
                id: id.to_string(),
                problem: "its id is none".to_owned(),
            }),
            Self::IsUnavailable => Err(StoreError::Unavailable("no server".into())),
        }
    }

    async fn get(&self, _: &ChannelId) -> Result<Versioned, StoreError> {
        unreachable!("a dispatcher reads targets")
    }

    async fn set_paused(
        &self,
        id: &ChannelId,
        _: Option<&ChannelUid>,
        _: bool,
    ) -> Result<Versioned, StoreError> {
        Err(StoreError::NotFound(id.clone()))
    }

    async fn create(&self, _: &Channel) -> Result<Version, StoreError> {
        unreachable!("a dispatcher only reads")
    }

    async fn update(
        &self,
        _: &ChannelId,
        _: &ChannelPatch,
        _: Option<&Version>,
    ) -> Result<Versioned, StoreError> {
        Err(StoreError::Unavailable("it only reads".into()))
    }

    async fn delete(&self, _: &ChannelId, _: Option<&Version>) -> Result<(), StoreError> {
        unreachable!("a dispatcher only reads")
    }

    async fn query(&self, _: &Filter, _: &PageRequest) -> Result<ChannelPage, StoreError> {
        unreachable!("a dispatcher only reads")
    }

    async fn ping(&self) -> Result<(), StoreError> {
        unreachable!("a dispatcher only reads")
    }
}

type Request = (HeaderMap, Bytes);

/// A channel server that answers every request with this status, and a store with its channel.
async fn channel_server(status: u16) -> (Store, mpsc::UnboundedReceiver<Request>) {
    let (sender, requests) = mpsc::unbounded_channel();
    let status = StatusCode::from_u16(status).unwrap();
    let answer = move |State(sender): State<mpsc::UnboundedSender<Request>>,
                       headers: HeaderMap,
                       body: Bytes| async move {
        let _ = sender.send((headers, body));
        (status, "said the channel")
    };
    let app = Router::new().fallback(answer).with_state(sender);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/incoming", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, app).await });
    (Store::Holds(channel(&json!(url))), requests)
}

fn channel(endpoint_url: &Value) -> Channel {
    serde_json::from_value(json!({
        "channel_id": "slack-sim",
        "channel_metadata": {"endpoint_url": endpoint_url},
    }))
    .unwrap()
}

fn token_keys() -> TokenKeys {
    TokenKeys::new([&[7; MIN_SECRET_BYTES][..]]).unwrap()
}

fn dispatcher(store: Store) -> Pipeline<Dispatcher> {
    observed(store).0
}

/// A dispatcher, and the entries it journals.
fn observed(store: Store) -> (Pipeline<Dispatcher>, mpsc::UnboundedReceiver<Entry>) {
    knowing(CachedChannels::new(
        Arc::new(store),
        &roundtrip_store::Config::default(),
    ))
}

fn knowing(channels: CachedChannels) -> (Pipeline<Dispatcher>, mpsc::UnboundedReceiver<Entry>) {
    let own = "https://gw.example/webhook-response".parse().unwrap();
    let response_urls = ResponseUrls::new(own, token_keys(), Duration::from_hours(1));
    let (journal, entries) = Journal::observed();
    let egress = Egress::new(&roundtrip_egress::Config::default(), Loopback::Allowed).unwrap();
    let dispatcher = Dispatcher::pipeline(
        &Config::default(),
        Arc::new(channels),
        Arc::new(egress),
        response_urls,
        journal,
        Arc::new(Noon),
    );
    (dispatcher.unwrap(), entries)
}

fn message(body: &'static str, attempts: u32) -> Message {
    Message {
        id: "msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f".to_owned(),
        attempts,
        replay_count: 0,
        accepted_at: NOW,
        dead: None,
        body: bytes::Bytes::from_static(body.as_bytes()),
    }
}

async fn decide(store: Store, attempts: u32) -> Decision {
    dispatcher(store).handle(&message(MESSAGE, attempts)).await
}

#[track_caller]
fn reason(decision: Decision) -> DeadReason {
    match decision {
        Decision::DeadLetter(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_message_is_delivered_as_the_producer_gave_it() {
    let (store, mut requests) = channel_server(200).await;
    assert_eq!(decide(store, 0).await, Decision::Done);
    let (headers, body) = requests.recv().await.unwrap();
    assert_eq!(
        body,
        r#"{"session_id":"abc123","message":{"n":12345678901234567890.10},"response_url":"http://localhost:8000/webhook-response"}"#
    );
    assert_eq!(
        headers["webhook-id"],
        "msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f"
    );
    assert_eq!(headers["webhook-timestamp"], "1795435200");
}

#[tokio::test]
async fn an_answer_to_the_gateway_brings_the_message_back() {
    let (store, mut requests) = channel_server(200).await;
    let own = MESSAGE.replace("http://localhost:8000", "https://gw.example");
    let sent = Message {
        body: own.into(),
        replay_count: 3,
        ..message("", 0)
    };
    assert_eq!(dispatcher(store).handle(&sent).await, Decision::Done);
    let (_, body) = requests.recv().await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let url = Url::parse(body["response_url"].as_str().unwrap()).unwrap();
    let (_, token) = url.query_pairs().last().expect("a token");
    let keys = token_keys();
    let proven = keys.check(&token, NOW).unwrap();
    let claims = proven.claims(&"abc123".parse().unwrap()).unwrap();
    assert_eq!(claims.channel_id.as_str(), "slack-sim");
    assert_eq!(
        (claims.message_id.to_string(), claims.replay_count),
        (sent.id, 3)
    );
}

#[rstest]
#[case::delivered(200, After::Arrived)]
#[case::refused(
    422,
    After::Dead(DeadReason::new(DeadKind::Refused, "answered 422: said the channel"))
)]
#[tokio::test]
async fn an_attempt_is_in_the_journal_before_it_is_decided(
    #[case] status: u16,
    #[case] next: After,
) {
    let (store, _requests) = channel_server(status).await;
    let (dispatcher, mut entries) = observed(store);
    let sent = Message {
        replay_count: 2,
        ..message(MESSAGE, 4)
    };
    dispatcher.handle(&sent).await;
    let entry = entries.try_recv().expect("an entry by now");
    assert_eq!(
        (entry.message_id.to_string(), entry.replay_count),
        (sent.id, 2)
    );
    let Event::Attempted(attempt) = entry.event else {
        panic!("{entry:?}")
    };
    assert_eq!((attempt.attempt, attempt.status), (5, Some(status)));
    assert_eq!(attempt.excerpt, "said the channel");
    assert_eq!(attempt.next, next);
    assert!(entries.try_recv().is_err(), "one entry and no other");
}

#[tokio::test]
async fn the_last_attempt_of_the_schedule_is_the_last() {
    let (store, mut requests) = channel_server(500).await;
    let attempts = u32::try_from(DEFAULT_ATTEMPTS).unwrap();
    let reason = reason(decide(store, attempts).await);
    assert_eq!(reason.kind, DeadKind::AttemptsExhausted);
    assert_eq!(
        reason.detail,
        "9 attempts failed; the last: answered 500: said the channel"
    );
    assert!(requests.try_recv().is_ok());
}

const DEFAULT_ATTEMPTS: usize = roundtrip_model::retry::DEFAULT_SCHEDULE.len();

#[tokio::test]
async fn a_refused_message_is_dead_with_what_the_channel_said() {
    let (store, _requests) = channel_server(400).await;
    assert_eq!(
        reason(decide(store, 0).await),
        DeadReason::new(DeadKind::Refused, "answered 400: said the channel")
    );
}

#[tokio::test]
async fn a_message_whose_endpoint_is_gone_waits_also_after_its_last_attempt() {
    let (store, _requests) = channel_server(410).await;
    let attempts = u32::try_from(DEFAULT_ATTEMPTS).unwrap();
    let waits = Decision::Snooze(Config::default().snooze);
    assert_eq!(decide(store, attempts).await, waits);
}

#[tokio::test]
async fn while_the_store_is_unavailable_messages_wait_without_an_attempt() {
    assert_eq!(
        decide(Store::IsUnavailable, 3).await,
        Decision::Snooze(Config::default().snooze + ONE_AT_THE_PACE)
    );
}

#[tokio::test]
async fn a_message_for_no_channel_is_dead() {
    assert_eq!(
        reason(decide(Store::HoldsNothing, 0).await),
        DeadReason::new(
            DeadKind::UnknownChannel,
            "there is no channel with the id 'slack-sim'"
        )
    );
}

#[rstest]
#[case::this_one("now", true)]
#[case::an_earlier_one("before", false)]
#[tokio::test]
async fn a_message_goes_to_the_channel_that_it_was_accepted_for(
    #[case] uid: &str,
    #[case] is_delivered: bool,
) {
    let (store, mut requests) = channel_server(200).await;
    let body = MESSAGE.replacen('{', &format!(r#"{{"channel_uid":"{uid}","#), 1);
    let sent = Message {
        body: body.into(),
        ..message("", 0)
    };
    let decision = dispatcher(store).handle(&sent).await;
    if is_delivered {
        assert_eq!(decision, Decision::Done);
    } else {
        assert_eq!(reason(decision).kind, DeadKind::UnknownChannel);
    }
    assert_eq!(requests.try_recv().is_ok(), is_delivered);
}

/// A dispatcher may have a deleted channel in its cache when the first message for its successor
/// comes.
#[tokio::test]
async fn a_message_for_a_channel_that_is_not_known_yet_is_no_dead_letter() {
    let (store, mut requests) = channel_server(200).await;
    let Store::Holds(channel) = store else {
        panic!("a channel")
    };
    let is_replaced = Arc::new(AtomicBool::new(false));
    let (dispatcher, _entries) = observed(Store::Replaces(channel, Arc::clone(&is_replaced)));
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
#[case::no_url(Store::Holds(channel(&Value::Null)), "channel_metadata.endpoint_url: is required")]
#[case::no_channel(
    Store::HoldsNoChannel,
    "the stored document of 'slack-sim' is no channel: its id is none"
)]
#[tokio::test]
async fn a_message_whose_channel_cannot_be_posted_to_is_dead(
    #[case] store: Store,
    #[case] detail: &str,
) {
    assert_eq!(
        reason(decide(store, 0).await),
        DeadReason::new(DeadKind::BadEndpoint, detail)
    );
}

/// Such a channel was written past the API, or by an API that allowed more.
#[tokio::test]
async fn a_message_whose_channel_may_not_be_connected_to_is_dead_after_one_look() {
    let store = Store::Holds(channel(&json!("http://169.254.169.254/latest/")));
    assert_eq!(
        reason(decide(store, 0).await),
        DeadReason::new(
            DeadKind::EndpointRefused,
            "the endpoint must not lead to a link-local address that egress.allow does not list"
        )
    );
}

/// A store with these secrets for every channel.
struct Sealed(Vec<SealedSecret>);

#[async_trait]
impl Secrets for Sealed {
    async fn secrets(&self, _: &ChannelId) -> Result<Vec<SealedSecret>, StoreError> {
        Ok(self.0.clone())
    }

    async fn replace_secrets(
        &self,
        _: &ChannelId,
        _: &[SealedSecret],
        _: &[SealedSecret],
    ) -> Result<(), StoreError> {
        unreachable!("a dispatcher only reads")
    }
}

const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const ANOTHER_KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

fn keys(text: &str) -> SealingKeys {
    SealingKeys::parse([text]).unwrap()
}

/// What a dispatcher with this key decides. The secrets, the newest first, were sealed for the
/// named channels under the named keys.
async fn decide_signing(store: Store, key: &str, secrets: &[(u8, &str)]) -> Decision {
    let seal = |&(byte, owner): &(u8, &str)| SealedSecret {
        sealed: keys(KEY).seal(&[byte; 32], owner, [byte; 12]).unwrap(),
        until_ms: None,
    };
    let secrets = Sealed(secrets.iter().map(seal).collect());
    let channels = CachedChannels::new(Arc::new(store), &roundtrip_store::Config::default())
        .with_secrets(Arc::new(secrets), keys(key));
    let (dispatcher, _entries) = knowing(channels);
    dispatcher.handle(&message(MESSAGE, 0)).await
}

#[tokio::test]
async fn a_delivery_is_signed_by_the_secrets_that_open() {
    let (store, mut requests) = channel_server(200).await;
    let of_another_channel = (3, "another");
    let secrets = [(1, "slack-sim"), (2, "slack-sim"), of_another_channel];
    assert_eq!(decide_signing(store, KEY, &secrets).await, Decision::Done);
    let (headers, body) = requests.recv().await.unwrap();
    let older = (SigningSecret::new([2; 32]), None);
    let signer = Signer::new(&SigningSecret::new([1; 32]), [older]);
    let id = headers["webhook-id"].to_str().unwrap();
    assert_eq!(headers["webhook-signature"], signer.sign(id, NOW, &body));
}

#[tokio::test]
async fn a_channel_without_a_secret_is_delivered_unsigned() {
    let (store, mut requests) = channel_server(200).await;
    assert_eq!(decide_signing(store, KEY, &[]).await, Decision::Done);
    let (headers, _) = requests.recv().await.unwrap();
    assert!(!headers.contains_key("webhook-signature"));
}

#[tokio::test]
async fn a_message_is_snoozed_if_its_secret_cannot_be_decrypted() {
    let (store, mut requests) = channel_server(200).await;
    let decision = decide_signing(store, ANOTHER_KEY, &[(1, "slack-sim")]).await;
    assert!(matches!(decision, Decision::Snooze(_)), "{decision:?}");
    assert!(requests.try_recv().is_err());
}
