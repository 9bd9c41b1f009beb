use std::sync::Arc;

use axum::{Router, http::StatusCode};
use roundtrip_broker::Handler;
use roundtrip_doubles::observed_journal;
use roundtrip_model::{Decision, decision::DeadKind, journal::After};
use roundtrip_tls::Roots;
use time::{OffsetDateTime, macros::datetime};
use tokio::{net::TcpListener, sync::mpsc};

use super::*;
use crate::Config;

const NOW: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);
const CALLBACK: &str = r#"{"callback_id":"cb_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f","session_id":"abc123","response_data":{"n":1.10}}"#;

/// A forwarder to a sessions server that answers with this status, and the entries it journals.
async fn observed(status: u16) -> (Pipeline<Forwarder>, mpsc::UnboundedReceiver<Entry>) {
    let status = StatusCode::from_u16(status).unwrap();
    let app = Router::new().fallback(async move || status);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/answers", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, app).await });
    let (journal, entries) = observed_journal();
    let forwarder = Forwarder::pipeline(
        &Config::default(),
        url.parse().unwrap(),
        None,
        Roots::default(),
        journal,
        Arc::new(NOW),
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
        waiting: None,
        body: bytes::Bytes::from_static(body.as_bytes()),
    }
}

#[tokio::test]
async fn an_attempt_is_in_the_journal_if_the_message_is_known() {
    const KNOWN: &str = r#"{"callback_id":"cb_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f","session_id":"abc123","message_id":"msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f","channel_id":"slack-sim","response_data":1}"#;
    let (forwarder, mut entries) = observed(200).await;
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

#[tokio::test]
async fn while_the_sessions_server_fails_an_answer_is_retried_without_an_end() {
    let decision = observed(503)
        .await
        .0
        .handle(&message(CALLBACK, 10_000))
        .await;
    assert!(matches!(decision, Decision::RetryAfter(_)), "{decision:?}");
}

#[tokio::test]
async fn a_refused_answer_is_dead() {
    let decision = observed(422).await.0.handle(&message(CALLBACK, 0)).await;
    let Decision::DeadLetter(reason) = decision else {
        panic!("{decision:?}")
    };
    assert_eq!(reason.kind, DeadKind::Refused);
}
