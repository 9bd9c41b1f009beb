//! What every role that delivers can rely on, checked with a role that posts to a scripted server.

use axum::{Router, extract::State, http::StatusCode};
use bytes::Bytes;
use roundtrip_broker::Queue;
use roundtrip_doubles::observed_journal;
use roundtrip_model::{
    ChannelId, DeadReason, Entry, OutboundMessage, SessionId, decision::DeadKind, journal::After,
    retry::Then, waiting::WaitReason,
};
use roundtrip_tls::Roots;
use rstest::rstest;
use time::{OffsetDateTime, macros::datetime};
use tokio::{net::TcpListener, sync::mpsc};
use url::Url;

use super::*;
use crate::{BreakerConfig, Limits, RetryConfig, RoleName, WebhookConfig};

const NOW: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);
/// How long the role's receiver can answer.
const TOKEN_LIFE: Duration = Duration::from_secs(10);
/// Longer than any test should take.
const LIMIT: Duration = Duration::from_mins(1);
const BODY: &str = r#"{"message_id":"msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f","channel_id":"c","session_id":"s","message":"hi","response_url":"http://h/"}"#;

/// Posts every message to one URL.
struct Role {
    url: Url,
    limits: Limits,
}

#[async_trait]
impl DeliveryRole for Role {
    type Payload = OutboundMessage;
    type Destination = ();

    const QUEUE: Queue = Queue::Outbound;
    const SHARED_SERVER: Option<&'static str> = None;
    const NAME: RoleName = RoleName::Delivery;
    const BREAKER_LOG_NAME: &'static str = "channel";

    fn channel_id(payload: &OutboundMessage) -> Option<&ChannelId> {
        Some(&payload.channel_id)
    }

    fn session_id(payload: &OutboundMessage) -> Option<&SessionId> {
        Some(&payload.session_id)
    }

    async fn destination(&self, _: &OutboundMessage) -> Result<(), NoAttempt> {
        Ok(())
    }

    fn request<'a>(
        &'a self,
        message: &Message,
        payload: &OutboundMessage,
        (): &'a (),
    ) -> Result<Request<'a>, serde_json::Error> {
        Ok(Request {
            url: &self.url,
            webhook_id: message.id.clone(),
            headers: Vec::new(),
            body: message.body.clone(),
            signer: None,
            limits: self.limits,
            timeout: None,
            schedule: None,
            answer: payload.answer_within_ms.map(|within| AnswerDue {
                within: Duration::from_millis(within),
                until: NOW + TOKEN_LIFE,
            }),
        })
    }

    fn age_from(message: &Message, payload: &OutboundMessage) -> OffsetDateTime {
        payload.age_from(message.accepted_at)
    }

    fn expires_at(message: &Message, payload: &OutboundMessage) -> Option<OffsetDateTime> {
        payload.expires_at(message.replay_count)
    }

    fn entry(
        message: &Message,
        payload: &OutboundMessage,
        at: OffsetDateTime,
        event: Event,
    ) -> Option<Entry> {
        Some(Entry::of(payload, message.replay_count, at, event))
    }
}

/// A server that answers every request with this status, and counts the requests.
async fn server(status: u16) -> (Url, mpsc::UnboundedReceiver<()>) {
    let (sender, requests) = mpsc::unbounded_channel();
    let status = StatusCode::from_u16(status).unwrap();
    let answer = move |State(sender): State<mpsc::UnboundedSender<()>>| async move {
        let _ = sender.send(());
        (status, "a reply")
    };
    let app = Router::new().fallback(answer).with_state(sender);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, app).await });
    (url.parse().unwrap(), requests)
}

fn pipeline(url: Url, limits: Limits, journal: Journal) -> Pipeline<Role> {
    let settings = Settings {
        concurrency: 8,
        paused_snooze: Duration::from_secs(30),
        wait_in_store_after: Duration::from_mins(1),
        breaker: BreakerConfig::default(),
        webhook: &WebhookConfig::default(),
        retry: &RetryConfig::default(),
        then: Then::GiveUp,
        default_schedule: &[Duration::from_secs(1)],
    };
    let egress_policy = EgressPolicy::Unrestricted(Roots::default());
    Pipeline::new(
        Role { url, limits },
        &settings,
        egress_policy,
        journal,
        Arc::new(NOW),
    )
    .unwrap()
}

/// A pipeline without limits, and the entries that it journals.
fn observed(url: Url) -> (Pipeline<Role>, mpsc::UnboundedReceiver<Entry>) {
    let (journal, entries) = observed_journal();
    (pipeline(url, Limits::NONE, journal), entries)
}

/// The body with this time in one more field, this long after now.
fn with_time(field: &str, after: time::Duration) -> Bytes {
    let millis = roundtrip_model::millis::of(NOW + after);
    BODY.replace('}', &format!(r#","{field}":{millis}}}"#))
        .into()
}

fn message(body: &'static str, attempts: u32) -> Message {
    Message {
        id: "msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f".to_owned(),
        attempts,
        replay_count: 0,
        accepted_at: NOW,
        dead: None,
        waiting: None,
        body: body.into(),
    }
}

#[track_caller]
fn reason(decision: Decision) -> DeadReason {
    match decision {
        Decision::Reject(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[rstest]
#[case::delivered(200, 0, |decision: &_| matches!(decision, Decision::Done))]
#[case::failed(500, 0, |decision: &_| matches!(decision, Decision::RetryAfter(_)))]
#[case::failed_for_the_last_time(500, 1, |decision: &_| matches!(
    decision,
    Decision::DeadLetter(reason) if reason.kind == DeadKind::AttemptsExhausted
))]
#[case::refused(422, 0, |decision: &_| matches!(
    decision,
    Decision::DeadLetter(reason) if reason.kind == DeadKind::Refused
))]
#[tokio::test]
async fn the_outcome_decides(
    #[case] status: u16,
    #[case] attempts: u32,
    #[case] expected: fn(&Decision) -> bool,
) {
    let (url, _requests) = server(status).await;
    let (pipeline, _entries) = observed(url);
    let decision = pipeline.handle(&message(BODY, attempts)).await;
    assert!(expected(&decision), "{decision:?}");
}

#[rstest]
#[case::delivered(200, After::Arrived)]
#[case::refused(
    422,
    After::Dead(DeadReason::new(DeadKind::Refused, "answered 422: a reply"))
)]
#[tokio::test]
async fn an_attempt_is_in_the_journal_before_it_is_decided(
    #[case] status: u16,
    #[case] next: After,
) {
    let (url, _requests) = server(status).await;
    let (pipeline, mut entries) = observed(url);
    let sent = Message {
        replay_count: 2,
        ..message(BODY, 4)
    };
    pipeline.handle(&sent).await;
    let entry = entries.try_recv().expect("an entry by now");
    let named = (
        entry.message_id.map(|id| id.to_string()),
        entry.replay_count,
    );
    assert_eq!(named, (Some(sent.id), 2));
    let Event::Attempted(attempt) = entry.event else {
        panic!("{entry:?}")
    };
    assert_eq!((attempt.attempt, attempt.status), (5, Some(status)));
    assert_eq!((&*attempt.excerpt, attempt.next), ("a reply", next));
    assert!(entries.try_recv().is_err(), "one entry and no other");
}

#[rstest]
#[case::in_time(200, 2, Some(2))]
#[case::no_later_than_answers_are_accepted(200, 3600, Some(10))]
#[case::not_delivered(500, 2, None)]
#[tokio::test]
async fn the_entry_of_a_delivery_says_when_its_answer_is_due(
    #[case] status: u16,
    #[case] within: u64,
    #[case] due: Option<i64>,
) {
    let (url, _requests) = server(status).await;
    let (pipeline, mut entries) = observed(url);
    let within = format!(r#","answer_within_ms":{}}}"#, within * 1000);
    let sent = Message {
        body: BODY.replace('}', &within).into(),
        ..message("", 0)
    };
    pipeline.handle(&sent).await;
    let Event::Attempted(attempt) = entries.try_recv().expect("an entry").event else {
        panic!("no attempt")
    };
    let due = due.map(|seconds| NOW + time::Duration::seconds(seconds));
    assert_eq!(attempt.answer_by, due);
}

/// If the power fails while the journal has no confirm yet, the message is still in its queue.
#[tokio::test]
async fn a_decision_waits_for_the_journal_and_the_permit_does_not() {
    let (url, mut requests) = server(200).await;
    let (journal, _entries) = observed_journal();
    // A closed journal confirms nothing.
    journal.close().await;
    let limits = Limits {
        max_in_flight: 1,
        ..Limits::NONE
    };
    let pipeline = pipeline(url, limits, journal);
    let (first, second) = (message(BODY, 0), message(BODY, 0));
    let mut handling = pin!(pipeline.handle(&first));
    let both_are_posted = async {
        let mut posted = 0;
        while posted < 2 {
            tokio::select! {
                biased;
                decision = &mut handling => panic!("{decision:?} before the journal's confirm"),
                Some(()) = requests.recv() => posted += 1,
                // Snoozed while the first message has the only permit.
                decision = pipeline.handle(&second) => {
                    assert!(matches!(decision, Decision::Snooze(_)), "{decision:?}");
                }
            }
        }
    };
    timeout(LIMIT, both_are_posted).await.unwrap();
}

#[tokio::test]
async fn a_slow_attempt_is_journaled_before_it_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (pipeline, mut entries) = observed(url.parse().unwrap());
    let sent = message(BODY, 0);
    let entry = async {
        // Accepts the connection and never answers.
        let _connection = listener.accept().await.unwrap();
        entries.recv().await.unwrap()
    };
    let entry = tokio::select! {
        decision = pipeline.handle(&sent) => panic!("{decision:?} before the journal knew"),
        entry = entry => entry,
    };
    assert!(matches!(entry.event, Event::Delivering { attempt: 1 }));
}

#[tokio::test]
async fn a_paused_message_is_snoozed_without_an_attempt_and_journaled_once() {
    let (url, mut requests) = server(200).await;
    let (journal, mut entries) = observed_journal();
    let limits = Limits {
        paused: true,
        ..Limits::NONE
    };
    let pipeline = pipeline(url, limits, journal);
    for _ in 0..2 {
        let decision = pipeline.handle(&message(BODY, 3)).await;
        assert!(matches!(decision, Decision::Snooze(_)), "{decision:?}");
    }
    let Ok(Event::Waiting {
        attempts, reason, ..
    }) = entries.try_recv().map(|entry| entry.event)
    else {
        panic!("no entry of the wait")
    };
    assert_eq!((attempts, reason), (3, WaitReason::ChannelPaused));
    assert!(entries.try_recv().is_err(), "one entry and no other");
    assert!(requests.try_recv().is_err());
}

#[tokio::test]
async fn a_message_that_is_too_old_is_dead_without_an_attempt() {
    let (url, mut requests) = server(200).await;
    let (pipeline, mut entries) = observed(url);
    let old = Message {
        accepted_at: NOW - time::Duration::days(3),
        ..message(BODY, 2)
    };
    assert_eq!(
        reason(pipeline.handle(&old).await),
        DeadReason::new(DeadKind::TooOld, "older than 3days after 2 attempts")
    );
    assert!(requests.try_recv().is_err());
    assert!(entries.try_recv().is_err(), "no attempt, no entry");
}

#[tokio::test]
async fn the_age_of_a_scheduled_message_counts_from_its_time() {
    let (url, mut requests) = server(500).await;
    let (pipeline, _entries) = observed(url);
    let scheduled = Message {
        accepted_at: NOW - time::Duration::days(30),
        body: with_time("deliver_at", -time::Duration::HOUR),
        ..message(BODY, 0)
    };
    for decision in [
        pipeline.handle(&scheduled).await,
        pipeline.panicked(&scheduled).await,
    ] {
        assert!(matches!(decision, Decision::RetryAfter(_)), "{decision:?}");
    }
    assert!(requests.try_recv().is_ok());
}

/// Even if it is too old as well: its producer has set the time.
#[rstest]
#[case::not_attempted(0, NOW)]
#[case::attempted(2, NOW)]
#[case::too_old_as_well(2, NOW - time::Duration::days(3))]
#[tokio::test]
async fn an_expired_message_is_dead_without_an_attempt(
    #[case] attempts: u32,
    #[case] accepted_at: OffsetDateTime,
) {
    let (url, mut requests) = server(200).await;
    let (pipeline, mut entries) = observed(url);
    let expired = Message {
        accepted_at,
        body: with_time("expires_at", time::Duration::ZERO),
        ..message(BODY, attempts)
    };
    let detail = format!("expired at 2026-11-23T12:00:00Z after {attempts} attempts");
    assert_eq!(
        reason(pipeline.handle(&expired).await),
        DeadReason::new(DeadKind::Expired, detail)
    );
    assert!(requests.try_recv().is_err());
    assert!(entries.try_recv().is_err(), "no attempt, no entry");
}

#[rstest]
#[case::before_its_time(0, time::Duration::MILLISECOND)]
#[case::replayed(1, -time::Duration::DAY)]
#[tokio::test]
async fn a_message_that_has_not_expired_or_was_replayed_is_delivered(
    #[case] replay_count: u32,
    #[case] after: time::Duration,
) {
    let (url, _requests) = server(200).await;
    let (pipeline, _entries) = observed(url);
    let sent = Message {
        replay_count,
        body: with_time("expires_at", after),
        ..message(BODY, 0)
    };
    assert_eq!(pipeline.handle(&sent).await, Decision::Done);
}

#[tokio::test]
async fn a_body_that_does_not_decode_is_dead_without_an_attempt() {
    let (url, mut requests) = server(200).await;
    let (pipeline, mut entries) = observed(url);
    let decision = pipeline.handle(&message("{}", 0)).await;
    assert_eq!(reason(decision).kind, DeadKind::Undecodable);
    assert!(requests.try_recv().is_err());
    assert!(entries.try_recv().is_err(), "no attempt, no entry");
}

#[tokio::test]
async fn a_panic_is_a_failed_attempt_and_in_the_journal() {
    let (url, _requests) = server(200).await;
    let (pipeline, mut entries) = observed(url);
    let decision = pipeline.panicked(&message(BODY, 0)).await;
    assert!(matches!(decision, Decision::RetryAfter(_)), "{decision:?}");
    let entry = entries.try_recv().expect("an entry by now");
    let Event::Attempted(attempt) = entry.event else {
        panic!("{entry:?}")
    };
    assert_eq!((attempt.attempt, attempt.status), (1, None));
    assert!(attempt.error.is_some());
}
