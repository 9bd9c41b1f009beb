use roundtrip_broker::Queue;
use roundtrip_model::{Clock, SealingKeys};
use roundtrip_store::SealedSecret;

use super::{secret_reads::SecretReads, *};
use crate::tests::{Bench, SEALING_KEY, TestResponse};

const BODY: &str = r#"{"session_id":"s","data":{"n":1.0}}"#;

/// Creates the channel `d` and returns its secret.
async fn secret(bench: &Bench) -> SigningSecret {
    let channel = r#"{"channel_id":"d","channel_metadata":{"endpoint_url":"http://h/"}}"#;
    let created = bench.post("/channel", &[], channel).await;
    let secret = created.json()["signing_secret"].as_str().unwrap().parse();
    secret.unwrap()
}

/// Posts as the channel `d` with this secret.
async fn say(bench: &Bench, secret: &SigningSecret, id: &str, body: &str) -> TestResponse {
    let now = bench.clock.now();
    let signature = Signer::new(secret, []).sign(id, now, body.as_bytes());
    let headers = [
        (ID, id),
        (TIMESTAMP, &now.unix_timestamp().to_string()),
        (SIGNATURE, &signature),
    ];
    bench.post("/channel/d/inbound", &headers, body).await
}

#[tokio::test]
async fn a_secret_that_another_process_rotated_is_read_at_once() {
    let bench = Bench::new().await;
    let old = secret(&bench).await;
    assert_eq!(say(&bench, &old, "1", BODY).await.status, 202);
    let new = SigningSecret::new([1; NEW_SECRET_BYTES]);
    let sealing = SealingKeys::parse([SEALING_KEY]).unwrap();
    let sealed = SealedSecret {
        sealed: sealing.seal(new.bytes(), "d", [2; 12]).unwrap(),
        until_ms: None,
    };
    let id = "d".parse().unwrap();
    let seen = bench.store.secrets(&id).await.unwrap();
    bench
        .store
        .replace_secrets(&id, &seen, &[sealed])
        .await
        .unwrap();
    assert_eq!(say(&bench, &new, "2", BODY).await.status, 202);
    assert_eq!(say(&bench, &old, "3", BODY).await.status, 401);
    assert_eq!(bench.broker.messages(Queue::Callbacks).len(), 2);
}

#[tokio::test]
async fn a_wrong_signature_reads_a_channel_once_a_second() {
    let reads = SecretReads::new();
    let (one, other) = ("c".parse().unwrap(), "d".parse().unwrap());
    assert!(reads.may_read(&one).await);
    assert!(!reads.may_read(&one).await);
    assert!(reads.may_read(&other).await);
}

#[tokio::test]
async fn what_is_signed_and_wrong_names_its_field() {
    let bench = Bench::new().await;
    let secret = secret(&bench).await;
    let long = "x".repeat(256);
    for (id, body, field) in [
        ("1", r#"{"session_id":"s"}"#, "data"),
        // As the gateway signs a delivery.
        (
            "1",
            r#"{"session_id":"s","message":1,"response_url":"http://h/"}"#,
            "data",
        ),
        ("1", r#"{"session_id":"","data":1}"#, "session_id"),
        ("1", r#"{"session_id":"s","data":{"a":"\ud800"}}"#, "data.a"),
        (&long, BODY, ID),
    ] {
        let refused = say(&bench, &secret, id, body).await;
        assert_eq!(refused.status, 422, "{}", refused.text);
        assert_eq!(refused.json()["errors"][0]["field"], field);
    }
    assert!(bench.broker.messages(Queue::Callbacks).is_empty());
}
