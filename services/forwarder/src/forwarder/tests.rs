use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use roundtrip_broker::Handler;
use roundtrip_journal::Journal;
use roundtrip_model::{Decision, decision::DeadKind, journal::After};
use roundtrip_tls::Roots;
use rstest::rstest;
use time::{OffsetDateTime, macros::datetime};
use tokio::{net::TcpListener, sync::mpsc};

use super::*;
use crate::Config;

const NOW: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);
const CALLBACK: &str = r#"{"callback_id":"cb_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f","session_id":"abc123","response_data":{"n":1.10}}"#;

#[derive(Debug)]
struct Noon;

impl Clock for Noon {
    fn now(&self) -> OffsetDateTime {
        NOW
    }
}

type Request = (HeaderMap, Bytes);

/// A sessions server that answers every request with this status.
async fn sessions_server(status: u16) -> (url::Url, mpsc::UnboundedReceiver<Request>) {
    let (sender, requests) = mpsc::unbounded_channel();
    let status = StatusCode::from_u16(status).unwrap();
    let answer = move |State(sender): State<mpsc::UnboundedSender<Request>>,
                       headers: HeaderMap,
                       body: Bytes| async move {
        let _ = sender.send((headers, body));
        status
    };
    let app = Router::new().fallback(answer).with_state(sender);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/answers", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, app).await });
    (url.parse().unwrap(), requests)
}

fn forwarder(url: url::Url) -> Pipeline<Forwarder> {
    observed(url).0
}

/// A forwarder, and the entries it journals.
fn observed(url: url::Url) -> (Pipeline<Forwarder>, mpsc::UnboundedReceiver<Entry>) {
    let (journal, entries) = Journal::observed();
    let roots = Roots::default();
    let forwarder = Forwarder::pipeline(
        &Config::default(),
        url,
        None,
        roots,
        journal,
        Arc::new(Noon),
    );
    (forwarder.unwrap(), entries)
}

fn message(body: &'static str, attempts: u32) -> Message {
    Message {
        id: "cb_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f".to_owned(),
        attempts,
        replay_count: 0,
        accepted_at: NOW,
        dead: None,
        body: bytes::Bytes::from_static(body.as_bytes()),
    }
}

fn dead_kind(decision: &Decision) -> Option<DeadKind> {
    match decision {
        Decision::DeadLetter(reason) => Some(reason.kind),
        _ => None,
    }
}

#[tokio::test]
async fn an_answer_is_forwarded_as_the_channel_gave_it() {
    let (url, mut requests) = sessions_server(200).await;
    let decision = forwarder(url).handle(&message(CALLBACK, 0)).await;
    assert_eq!(decision, Decision::Done);
    let (headers, body) = requests.recv().await.unwrap();
    assert_eq!(
        body,
        r#"{"session_id":"abc123","response_data":{"n":1.10}}"#
    );
    assert_eq!(headers["webhook-id"], "cb_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f");
}

#[tokio::test]
async fn an_attempt_is_in_the_journal_if_the_message_is_known() {
    const KNOWN: &str = r#"{"callback_id":"cb_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f","session_id":"abc123","message_id":"msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f","channel_id":"slack-sim","response_data":1}"#;
    let (url, _requests) = sessions_server(200).await;
    let (forwarder, mut entries) = observed(url);
    forwarder.handle(&message(CALLBACK, 0)).await;
    assert!(entries.try_recv().is_err(), "of which message?");
    let known = Message {
        replay_count: 2,
        ..message(KNOWN, 1)
    };
    forwarder.handle(&known).await;
    let entry = entries.try_recv().expect("an entry by now");
    assert_eq!(entry.channel_id.as_str(), "slack-sim");
    assert_eq!(entry.replay_count, 2);
    let Event::ForwardAttempted { attempt, .. } = entry.event else {
        panic!("{entry:?}")
    };
    assert_eq!((attempt.attempt, &attempt.next), (2, &After::Arrived));
}

#[rstest]
#[case::first(0)]
#[case::far_beyond_the_schedule(10_000)]
#[tokio::test]
async fn while_the_sessions_server_fails_answers_wait(#[case] attempts: u32) {
    let (url, _requests) = sessions_server(503).await;
    let decision = forwarder(url).handle(&message(CALLBACK, attempts)).await;
    assert!(matches!(decision, Decision::RetryAfter(_)), "{decision:?}");
}

#[tokio::test]
async fn while_the_sessions_server_is_unavailable_answers_wait() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let forwarder = forwarder(url.parse().unwrap());
    let decision = forwarder.handle(&message(CALLBACK, 10_000)).await;
    assert!(matches!(decision, Decision::RetryAfter(_)), "{decision:?}");
}

#[tokio::test]
async fn a_refused_answer_is_dead() {
    let (url, _requests) = sessions_server(422).await;
    let decision = forwarder(url).handle(&message(CALLBACK, 0)).await;
    assert_eq!(dead_kind(&decision), Some(DeadKind::Refused));
}
