use std::{slice, sync::Arc};

use axum::{
    Router,
    http::{HeaderMap, StatusCode},
};
use roundtrip_broker::Handler;
use roundtrip_doubles::observed_journal;
use roundtrip_model::{Decision, decision::DeadKind, journal::After};
use roundtrip_tls::Roots;
use time::{OffsetDateTime, macros::datetime};
use tokio::{net::TcpListener, sync::mpsc};

use super::*;
use crate::Config;

const NOW: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);
const KNOWN: &str = r#"{"callback_id":"cb_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f","session_id":"abc123","message_id":"msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f","channel_id":"slack-sim","response_data":{"n":1.10}}"#;
/// An answer that came without a token.
const CALLBACK: &str = r#"{"callback_id":"cb_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f","session_id":"abc123","response_data":{"n":1.10}}"#;

const INBOUND: &str = r#"{"session_id":"abc123","message_id":"msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f","channel_id":"slack-sim","response_data":{"n":1.10}}"#;

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
async fn an_attempt_is_in_the_journal_with_or_without_a_message() {
    let (forwarder, mut entries) = observed(200).await;
    forwarder.handle(&message(CALLBACK, 0)).await;
    let entry = entries.try_recv().expect("an entry by now");
    assert_eq!((entry.message_id, entry.channel_id), (None, None));
    assert!(entry.event.callback_id().is_some(), "{:?}", entry.event);
    let known = Message {
        replay_count: 2,
        ..message(KNOWN, 1)
    };
    forwarder.handle(&known).await;
    let entry = entries.try_recv().expect("an entry by now");
    assert_eq!(entry.channel_id, "slack-sim".parse().ok());
    assert_eq!(entry.replay_count, 2);
    let Event::ForwardAttempted { attempt, .. } = entry.event else {
        panic!("{entry:?}")
    };
    assert_eq!((attempt.attempt, &attempt.next), (2, &After::Arrived));
}

#[tokio::test]
async fn an_attempt_of_an_inbound_message_is_in_its_own_timeline() {
    let (forwarder, mut entries) = observed(200).await;
    forwarder.handle(&message(INBOUND, 0)).await;
    let entry = entries.try_recv().expect("an entry by now");
    assert_eq!(entry.kind, MessageKind::Inbound);
    assert!(matches!(entry.event, Event::Attempted(_)), "{entry:?}");
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

/// What a forwarder with this configuration posts: its `roundtrip-` headers, and its body.
async fn posted(body: BodyFields, callback: &'static str) -> (Vec<String>, String) {
    let (sender, mut requests) = mpsc::unbounded_channel();
    let app = Router::new().fallback(async move |headers: HeaderMap, body: String| {
        let own = headers
            .iter()
            .filter(|(name, _)| name.as_str().starts_with("roundtrip-"));
        let own = own.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
        let mut own: Vec<_> = own.collect();
        own.sort();
        sender.send((own, body)).unwrap();
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, app).await });
    let forwarder = Forwarder::pipeline(
        &Config {
            body,
            ..Config::default()
        },
        url.parse().unwrap(),
        None,
        Roots::default(),
        observed_journal().0,
        Arc::new(NOW),
    );
    forwarder.unwrap().handle(&message(callback, 0)).await;
    requests.recv().await.unwrap()
}

#[tokio::test]
async fn a_forward_names_its_message_and_its_channel_if_they_are_known() {
    let kind = "roundtrip-kind: answer".to_owned();
    let ids = [
        "roundtrip-channel-id: slack-sim".to_owned(),
        kind.clone(),
        "roundtrip-message-id: msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f".to_owned(),
    ];
    let bare = r#"{"session_id":"abc123","response_data":{"n":1.10}}"#;
    let inbound = [ids[0].clone(), "roundtrip-kind: inbound".to_owned()];
    let of_channel =
        r#"{"session_id":"abc123","channel_id":"slack-sim","response_data":{"n":1.10}}"#;
    let full = r#"{"session_id":"abc123","message_id":"msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f","channel_id":"slack-sim","response_data":{"n":1.10}}"#;
    for (fields, callback, headers, body) in [
        (BodyFields::Full, KNOWN, &ids[..], full),
        (BodyFields::Bare, KNOWN, &ids, bare),
        (BodyFields::Full, CALLBACK, slice::from_ref(&kind), bare),
        (BodyFields::Full, INBOUND, &inbound, of_channel),
        (BodyFields::Bare, INBOUND, &inbound, bare),
    ] {
        let expected = (headers.to_vec(), body.to_owned());
        assert_eq!(posted(fields, callback).await, expected);
    }
}
